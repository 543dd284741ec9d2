//! Faults.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::Cluster;

/// A pod by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Pod {
    /// Names a pod.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// What processes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGKILL: they end at once.
    Kill,
    /// SIGSTOP: they stand still, their connections stay open.
    Stop,
    /// SIGCONT: they go on.
    Continue,
}

/// Which packets are lost, seen from the node or pod that is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It hears nothing and is not heard.
    Both,
    /// It is heard, and hears nothing.
    Incoming,
    /// It hears, and is not heard.
    Outgoing,
}

impl Cluster {
    /// Sends a signal to every process of one container of a pod, or of all its containers. Returns the processes it reached (host pids).
    pub fn signal(&self, _pod: &Pod, _container: Option<&str>, _signal: Signal) -> Result<Vec<i32>> {
        bail!("not written yet")
    }
    /// The host pids of a container of a pod (or of all its containers).
    pub fn processes(&self, _pod: &Pod, _container: Option<&str>) -> Result<Vec<i32>> {
        bail!("not written yet")
    }
    /// The node dies as if its power had gone: no packet leaves it, then kubelet, containerd and all processes of its pods are killed.
    pub fn kill_node(&self, _node: &str) -> Result<()> {
        bail!("not written yet")
    }
    /// Switches a dead node on again.
    pub fn revive_node(&self, _node: &str) -> Result<()> {
        bail!("not written yet")
    }
    /// Cuts a node off from everything else.
    pub fn cut_node(&self, _node: &str, _direction: Direction) -> Result<()> {
        bail!("not written yet")
    }
    /// Ends all cuts on a node, those of its pods too.
    pub fn heal_node(&self, _node: &str) -> Result<()> {
        bail!("not written yet")
    }
    /// Cuts a pod off from one address (of a pod, a service or a node).
    pub fn cut_pod(&self, _pod: &Pod, _from: Ipv4Addr, _direction: Direction) -> Result<()> {
        bail!("not written yet")
    }
    /// Ends all cuts of a pod.
    pub fn heal_pod(&self, _pod: &Pod) -> Result<()> {
        bail!("not written yet")
    }
    /// The API server stands still (SIGSTOP); its connections stay open.
    pub fn stop_api_server(&self) -> Result<()> {
        bail!("not written yet")
    }
    /// It goes on.
    pub fn continue_api_server(&self) -> Result<()> {
        bail!("not written yet")
    }
    /// `kubectl cordon`.
    pub fn cordon(&self, _node: &str) -> Result<()> {
        bail!("not written yet")
    }
    /// `kubectl uncordon`.
    pub fn uncordon(&self, _node: &str) -> Result<()> {
        bail!("not written yet")
    }
    /// `kubectl drain`: cordons the node and evicts its pods; waits until they are gone.
    pub fn drain(&self, _node: &str, _timeout: Duration) -> Result<()> {
        bail!("not written yet")
    }
}
