//! A cluster's life.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

/// What is wanted of a cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tells clusters on one machine apart: lower-case letters, digits and dashes, at most 16.
    pub name: String,
    /// 1 to 3.
    pub nodes: u8,
    /// `1.36` or `1.33` (see `versions.toml`).
    pub kubernetes: String,
    /// Image archives that every node shall have.
    pub images: Vec<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { name: "pollux".into(), nodes: 2, kubernetes: "1.36".into(), images: Vec::new() }
    }
}

/// A running cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
}

impl Cluster {
    /// Starts the cluster, or finds it running.
    pub fn up(_options: Options) -> Result<Self> {
        bail!("not written yet")
    }
    /// A handle of a cluster that runs.
    pub fn attach(_name: &str) -> Result<Self> {
        bail!("not written yet")
    }
    /// Stops it and removes everything but the caches.
    pub fn down(&self) -> Result<()> {
        bail!("not written yet")
    }
    /// Its kubeconfig, with its certificates inside, for an address on 127.0.0.1.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
    /// The folder with kubectl, helm and the cluster's own binaries.
    pub fn bin(&self) -> &Path {
        &self.kubeconfig
    }
    /// `node-1`, `node-2` ….
    pub fn nodes(&self) -> Vec<String> {
        Vec::new()
    }
    /// `kubectl --kubeconfig …`, ready for arguments.
    pub fn kubectl(&self) -> Command {
        Command::new("kubectl")
    }
    /// Gives image archives (OCI or Docker) to all nodes.
    pub fn load(&self, _archives: &[PathBuf]) -> Result<()> {
        bail!("not written yet")
    }
    /// Opens `127.0.0.1:port` (0: any free one) on the host for an address inside: `10.96.3.4:8090` (of a pod or a service) or
    /// `service/NAMESPACE/NAME:PORT`. Ends with the cluster.
    pub fn forward(&self, _target: &str, _port: u16) -> Result<SocketAddr> {
        bail!("not written yet")
    }
}
