//! What can go wrong, on purpose.
//!
//! Processes are found by their pod's and container's cgroup, never by name. Packets are dropped inside the node's network
//! namespace, in chains that the node was born with (empty). Every fault returns when it is in force.

use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::layout::Layout;
use crate::node::{CHAINS, iptables};
use crate::process::{Stop, run, sh_words, wait_for};
use crate::{Cluster, cgroups, control_plane, node, process};

/// A pod by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
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

/// Where a pod is.
struct Place {
    uid: String,
    node: u8,
    address: Option<Ipv4Addr>,
    /// Container name → container id.
    containers: Vec<(String, String)>,
}

impl Pod {
    /// Names a pod.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl Signal {
    fn raw(self) -> rustix::process::Signal {
        match self {
            Self::Kill => rustix::process::Signal::KILL,
            Self::Stop => rustix::process::Signal::STOP,
            Self::Continue => rustix::process::Signal::CONT,
        }
    }

    /// Has it come into force?
    fn done(self, pid: i32) -> bool {
        match (self, process::state(pid)) {
            (_, None | Some('Z' | 'X')) => true,
            (Self::Kill, _) => false,
            (Self::Stop, Some(state)) => matches!(state, 'T' | 't'),
            (Self::Continue, Some(state)) => !matches!(state, 'T' | 't'),
        }
    }
}

impl Direction {
    fn incoming(self) -> bool {
        self != Self::Outgoing
    }

    fn outgoing(self) -> bool {
        self != Self::Incoming
    }
}

// === processes ===

/// Sends a signal to processes that [`Cluster::processes`] found, and waits until all of them are dead, stopped or going. For
/// who measures: [`Cluster::signal`] asks the API server first, which takes its time.
pub fn signal_processes(pids: &[i32], signal: Signal) -> Result<()> {
    for &pid in pids {
        process::signal(pid, signal.raw());
    }
    let end = Instant::now() + Duration::from_secs(5) * process::patience();
    while !pids.iter().all(|pid| signal.done(*pid)) {
        ensure!(Instant::now() < end, "processes do not obey: {pids:?}");
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

impl Cluster {
    /// Sends a signal to every process of one container of a pod, or of all its containers, and waits until all of them are
    /// dead, stopped or going. Returns the host pids it reached. A container that has no process (it is being restarted) is
    /// waited for, ten seconds at most.
    pub fn signal(&self, pod: &Pod, container: Option<&str>, signal: Signal) -> Result<Vec<i32>> {
        let (mut place, mut reached) = (self.place(pod)?, Vec::new());
        let what = format!("a process of {}/{}", pod.namespace, pod.name);
        wait_for(&what, Duration::from_secs(10), &Stop::default(), || {
            reached = self.processes_at(&place, pod, container)?;
            if reached.is_empty() {
                // What Kubernetes says of a container lags behind its restart.
                place = self.place(pod)?;
            }
            Ok(!reached.is_empty())
        })?;
        signal_processes(&reached, signal).with_context(|| format!("{}/{}", pod.namespace, pod.name))?;
        if signal == Signal::Stop {
            // One that was forked meanwhile, by a process that now stands still.
            for pid in self.processes_at(&place, pod, container)? {
                if !reached.contains(&pid) {
                    process::signal(pid, signal.raw());
                    reached.push(pid);
                }
            }
        }
        Ok(reached)
    }

    /// The host pids of a container of a pod (or of all its containers).
    pub fn processes(&self, pod: &Pod, container: Option<&str>) -> Result<Vec<i32>> {
        self.processes_at(&self.place(pod)?, pod, container)
    }

    fn processes_at(&self, place: &Place, pod: &Pod, container: Option<&str>) -> Result<Vec<i32>> {
        let below = match container {
            None => format!("pod{}", place.uid),
            Some(name) => {
                let names = || place.containers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
                let found = place.containers.iter().find(|(known, _)| known == name);
                let (_, id) = found.with_context(|| {
                    format!("{}/{} has no container {name} (it has: {})", pod.namespace, pod.name, names())
                })?;
                format!("pod{}/{id}", place.uid)
            }
        };
        let mut pids = cgroups::processes(&self.layout.cgroup(), &below);
        // Not dead ones, nor the one that only holds the pod's namespaces: its death is the end of the pod, not of a process.
        pids.retain(|pid| process::state(*pid).is_some_and(|state| state != 'Z') && process::name(*pid) != "pause");
        Ok(pids)
    }

    /// Where a pod runs, by asking the API server; so a fault that needs it fails while that is stopped.
    fn place(&self, pod: &Pod) -> Result<Place> {
        let text = run(self.kubectl().args([
            "get",
            "pod",
            "-n",
            &pod.namespace,
            &pod.name,
            "-o",
            "json",
            &format!("--request-timeout={}s", 10 * process::patience()),
        ]))?;
        let found: Value = serde_json::from_str(&text)?;
        let status = &found["status"];
        let statuses = ["containerStatuses", "initContainerStatuses"]
            .map(|list| status[list].as_array().cloned().unwrap_or_default());
        let containers = statuses.iter().flatten().filter_map(|container| {
            let id = container["containerID"].as_str()?.strip_prefix("containerd://")?;
            Some((container["name"].as_str()?.to_owned(), id.to_owned()))
        });
        let node = found["spec"]["nodeName"]
            .as_str()
            .with_context(|| format!("{}/{} is on no node yet", pod.namespace, pod.name))?;
        Ok(Place {
            uid: found["metadata"]["uid"].as_str().context("a pod has a uid")?.to_owned(),
            node: self.number(node)?,
            address: status["podIP"].as_str().and_then(|address| address.parse().ok()),
            containers: containers.collect(),
        })
    }

    fn number(&self, node: &str) -> Result<u8> {
        let number = node.strip_prefix("node-").and_then(|rest| rest.parse().ok());
        number
            .filter(|number| (1..=self.layout.nodes).contains(number))
            .with_context(|| format!("there is no node {node} (there are: {})", self.nodes().join(", ")))
    }
}

// === nodes ===

impl Cluster {
    /// The node dies as if its power had gone: no packet enters or leaves it any more (so nobody is told), then kubelet,
    /// kube-proxy, containerd and all processes of its pods are killed.
    pub fn kill_node(&self, node: &str) -> Result<()> {
        let number = self.number(node)?;
        let layout = &self.layout;
        sh_words(&format!("ip -n {} link set n{number} down", layout.namespace()))?;
        let daemons = ["kubelet", "containerd", "kube-proxy"].map(|daemon| layout.pid(&format!("{daemon}-{number}")));
        let folder = layout.node_folder(number);
        let end = Instant::now() + Duration::from_secs(10) * process::patience();
        loop {
            // The daemons first: they would start others.
            let mut left: Vec<i32> = daemons.iter().flatten().copied().collect();
            left.extend(cgroups::processes(&layout.cgroup(), &format!("/{}/node-{number}", layout.cgroup())));
            left.extend(process::all_pids().into_iter().filter(|pid| is_shim(*pid, &folder)));
            left.retain(|pid| process::state(*pid).is_some_and(|state| state != 'Z'));
            if left.is_empty() {
                return Ok(());
            }
            for &pid in &left {
                process::signal(pid, rustix::process::Signal::KILL);
            }
            ensure!(Instant::now() < end, "processes of {node} do not die: {left:?}");
            sleep(Duration::from_millis(5));
        }
    }

    /// Switches a dead node on again (a live one is left alone): what kubelet and containerd had on disk is there, no process is.
    pub fn revive_node(&self, node: &str) -> Result<()> {
        let number = self.number(node)?;
        let layout = &self.layout;
        sh_words(&format!("ip -n {} link set n{number} up", layout.namespace()))?;
        node::routes(layout, number)?;
        sh_words(&format!(
            "ip -n {} route replace 10.88.{number}.0/24 via {}",
            layout.namespace(),
            Layout::node_address(number)
        ))?;
        if layout.pid(&format!("containerd-{number}")).is_none() {
            node::start_containerd(layout, number, &[], &Stop::default())?;
        }
        let dead = ["kubelet", "kube-proxy"].iter().any(|daemon| layout.pid(&format!("{daemon}-{number}")).is_none());
        if dead {
            for daemon in ["kubelet", "kube-proxy"] {
                if let Some(pid) = layout.pid(&format!("{daemon}-{number}")) {
                    process::signal(pid, rustix::process::Signal::KILL);
                }
            }
            ensure!(control_plane::api_ready(layout), "the API server does not answer: {node} cannot start");
            node::start_kubelet(layout, number)?;
        }
        Ok(())
    }

    /// Waits until Kubernetes calls a node Ready, or not.
    pub fn wait_node(&self, node: &str, ready: bool, limit: Duration) -> Result<()> {
        self.number(node)?;
        let what = format!("{node} to be {}", if ready { "Ready" } else { "not Ready" });
        wait_for(&what, limit, &Stop::default(), || {
            Ok(crate::cluster::readiness(&self.layout)?.get(node).copied().unwrap_or(false) == ready)
        })
    }

    /// Cuts a node off from everything else. Its own processes and pods still reach each other.
    pub fn cut_node(&self, node: &str, direction: Direction) -> Result<()> {
        let number = self.number(node)?;
        if direction.incoming() {
            iptables(&self.layout, number, "-A POLLUX-IN -i eth0 -j DROP")?;
        }
        if direction.outgoing() {
            iptables(&self.layout, number, "-A POLLUX-OUT -o eth0 -j DROP")?;
        }
        Ok(())
    }

    /// Ends all cuts on a node, those of its pods too.
    pub fn heal_node(&self, node: &str) -> Result<()> {
        let number = self.number(node)?;
        CHAINS.iter().try_for_each(|(chain, _)| iptables(&self.layout, number, &format!("-F {chain}")).map(drop))
    }

    /// Cuts a pod off from one address: of a pod, a node, or a service (then whatever pod answers for it). Open connections
    /// fall silent too.
    pub fn cut_pod(&self, pod: &Pod, from: Ipv4Addr, direction: Direction) -> Result<()> {
        let place = self.place(pod)?;
        let own = place.address.with_context(|| format!("{}/{} has no address yet", pod.namespace, pod.name))?;
        let mut rules = Vec::new();
        if direction.outgoing() {
            // Before a service's address is replaced by that of a pod behind it.
            rules.push(format!("-A POLLUX-IN -s {own} -d {from}"));
        }
        if direction.incoming() {
            rules.push(format!("-A POLLUX-OUT -d {own} -s {from}"));
            // Answers of a service come from the pod behind it, but the kernel knows whom the call was for. On the way out,
            // when the pod's own address is back in a call that it made to itself.
            rules.push(format!("-A POLLUX-OUT -d {own} -m conntrack --ctorigdst {from}"));
        }
        let comment = format!("-m comment --comment {}", place.uid);
        rules
            .iter()
            .try_for_each(|rule| iptables(&self.layout, place.node, &format!("{rule} {comment} -j DROP")).map(drop))
    }

    /// Ends all cuts of a pod. (Those of one that is gone end with [`Cluster::heal_node`].)
    pub fn heal_pod(&self, pod: &Pod) -> Result<()> {
        let place = self.place(pod)?;
        for (chain, _) in CHAINS {
            let rules = iptables(&self.layout, place.node, &format!("-S {chain}"))?;
            for rule in rules.lines().filter(|rule| rule.contains(&place.uid)) {
                let rule = rule.replacen("-A ", "-D ", 1).replace('"', "");
                iptables(&self.layout, place.node, &rule)?;
            }
        }
        Ok(())
    }
}

/// Is this process a shim of a node's containerd? It names its socket, which no other cluster has.
fn is_shim(pid: i32, folder: &std::path::Path) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let socket = folder.join("containerd/containerd.sock");
    let command = String::from_utf8_lossy(&command);
    command.contains("containerd-shim") && command.contains(&*socket.to_string_lossy())
}

// === kubectl ===

impl Cluster {
    /// `kubectl cordon`: nothing new is put on the node.
    pub fn cordon(&self, node: &str) -> Result<()> {
        run(self.kubectl().args(["cordon", node])).map(drop)
    }

    /// `kubectl uncordon`.
    pub fn uncordon(&self, node: &str) -> Result<()> {
        run(self.kubectl().args(["uncordon", node])).map(drop)
    }

    /// `kubectl drain`: cordons the node and evicts its pods (budgets are obeyed); waits until they are gone.
    pub fn drain(&self, node: &str, timeout: Duration) -> Result<()> {
        let timeout = format!("--timeout={}s", timeout.as_secs().max(1));
        let arguments = ["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", &timeout];
        run(self.kubectl().args(arguments)).map(drop)
    }

    /// No further pod fits into a namespace: a quota of as many pods as there are.
    pub fn fill_quota(&self, namespace: &str) -> Result<()> {
        let pods = run(self.kubectl().args(["get", "pods", "-n", namespace, "-o", "name"]))?.lines().count();
        self.free_quota(namespace)?;
        let hard = format!("--hard=pods={pods}");
        run(self.kubectl().args(["create", "quota", "testbed-full", "-n", namespace, &hard])).map(drop)
    }

    /// Takes that quota away.
    pub fn free_quota(&self, namespace: &str) -> Result<()> {
        run(self.kubectl().args(["delete", "quota", "testbed-full", "-n", namespace, "--ignore-not-found"])).map(drop)
    }
}
