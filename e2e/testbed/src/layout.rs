//! Where the parts of one cluster are: its folder, its namespaces, its addresses, its daemons.
//!
//! Addresses never leave the cluster's own namespaces, so they are the same in every cluster and clash with nothing:
//! `10.77.0.1` is the control plane and the switch, `10.77.0.11` node 1, `10.88.N.0/24` the pods of node N, `10.96.0.0/16`
//! the services.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::host;
use crate::process::{self, MARKER};

/// The control plane's address, and every node's default route.
pub(crate) const CONTROL_PLANE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The cluster IPs.
pub(crate) const SERVICES: &str = "10.96.0.0/16";
/// The first of them: the service `kubernetes`.
pub(crate) const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// CoreDNS.
pub(crate) const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// All pods.
pub(crate) const PODS: &str = "10.88.0.0/16";

/// A cluster on paper.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) name: String,
    pub(crate) nodes: u8,
    /// The full version: `1.36.3`.
    pub(crate) kubernetes: String,
    pub(crate) folder: PathBuf,
    pub(crate) bin: PathBuf,
}

impl Layout {
    /// Its description, as `up` wrote it; none where there is no cluster.
    pub(crate) fn read(folder: &std::path::Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join("cluster.json")).ok()?).ok()
    }

    /// Writes it. A folder without it is not a cluster's and is never removed.
    pub(crate) fn write(&self) -> Result<()> {
        crate::paths::write(&self.folder.join("cluster.json"), serde_json::to_vec_pretty(self)?)
    }

    /// The namespace of the control plane.
    pub(crate) fn namespace(&self) -> String {
        format!("pollux-{}", self.name)
    }

    /// The namespace of a node.
    pub(crate) fn node_namespace(&self, node: u8) -> String {
        format!("pollux-{}-node-{node}", self.name)
    }

    /// Is a namespace of this name ours?
    pub(crate) fn is_namespace(&self, name: &str) -> bool {
        let own = self.namespace();
        name == own || name.strip_prefix(&format!("{own}-node-")).is_some_and(|rest| rest.parse::<u8>().is_ok())
    }

    /// The directory in `/sys/fs/cgroup`.
    pub(crate) fn cgroup(&self) -> String {
        format!("pollux-testbed-{}", self.name)
    }

    /// A node's folder.
    pub(crate) fn node_folder(&self, node: u8) -> PathBuf {
        self.folder.join(format!("node-{node}"))
    }

    /// A node's address.
    pub(crate) fn node_address(node: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, 10 + node)
    }

    /// Certificates and internal kubeconfigs.
    pub(crate) fn pki(&self) -> PathBuf {
        self.folder.join("pki")
    }

    /// The kubeconfig for the host.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// The log of a daemon.
    pub(crate) fn log(&self, daemon: &str) -> PathBuf {
        self.folder.join("log").join(format!("{daemon}.log"))
    }

    /// The programs' folder and one of them.
    pub(crate) fn program(&self, name: &str) -> String {
        self.bin.join(name).to_string_lossy().into_owned()
    }

    /// A node's containerd, and `ctr` for it.
    pub(crate) fn ctr(&self, node: u8) -> Command {
        let socket = self.node_folder(node).join("containerd/containerd.sock");
        let mut command = Command::new(self.program("ctr"));
        command.arg("-a").arg(socket).args(["-n", "k8s.io"]);
        command
    }

    /// The namespaces of a daemon.
    pub(crate) fn enter(&self, namespace: &str, mounts_of: Option<u8>) -> Result<Vec<String>> {
        // nsenter, not `ip netns exec`: that would mount a new /sys and hide the cgroups.
        let mut words = vec!["nsenter".to_owned(), format!("--net={}", host::namespace(namespace).display())];
        if let Some(node) = mounts_of {
            let keeper =
                self.pid(&format!("mounts-{node}")).with_context(|| format!("node-{node} has no mount namespace"))?;
            words.push(format!("--mount=/proc/{keeper}/ns/mnt"));
        }
        Ok(words)
    }

    /// Starts a daemon inside a namespace, in a session of its own: it outlives the caller and its terminal.
    pub(crate) fn start(&self, name: &str, inside: &[String], words: &[String], stdin: Option<OwnedFd>) -> Result<()> {
        let path = self.log(name);
        fs::create_dir_all(self.folder.join("log"))?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let search = std::env::var("PATH").unwrap_or_default();
        // Nothing of the caller's environment: a proxy variable would send the cluster's own calls elsewhere.
        let child = Command::new("setsid")
            .args(inside)
            .args(words)
            .env_clear()
            .env("PATH", format!("{}:{search}:/usr/sbin:/usr/bin:/sbin:/bin", self.bin.display()))
            .env("HOME", "/root")
            .env(MARKER, &self.folder)
            .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        // Neither setsid (not a group's leader) nor nsenter forks: this is the daemon's own pid.
        crate::paths::write(&self.folder.join("pids").join(name), child.id().to_string())?;
        let mut child = child;
        std::thread::spawn(move || child.wait()); // reaped if it dies while this program lives
        Ok(())
    }

    /// A daemon's pid, if it lives.
    pub(crate) fn pid(&self, daemon: &str) -> Option<i32> {
        let pid = fs::read_to_string(self.folder.join("pids").join(daemon)).ok()?.trim().parse().ok()?;
        let ours = process::is_child(pid) || process::is_marked(pid, &self.folder);
        (ours && process::state(pid) != Some('Z')).then_some(pid)
    }

    /// Fails with the end of its log if a daemon is dead.
    pub(crate) fn check_alive(&self, daemon: &str) -> Result<()> {
        self.pid(daemon).map(drop).with_context(|| format!("{daemon} has ended; {}", process::tail(&self.log(daemon))))
    }

    /// Names of the daemons of the control plane.
    pub(crate) fn control_plane_daemons() -> [&'static str; 5] {
        ["etcd", "apiserver", "controller-manager", "scheduler", "forward-api"]
    }

    /// Names of the daemons of a node.
    pub(crate) fn node_daemons(node: u8) -> [String; 4] {
        ["mounts", "containerd", "kubelet", "kube-proxy"].map(|daemon| format!("{daemon}-{node}"))
    }

    /// `kubectl` for this cluster.
    pub(crate) fn kubectl(&self) -> Command {
        let mut command = Command::new(self.program("kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig());
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn down_of_one_cluster_does_not_touch_another_with_a_longer_name() {
        let folder = PathBuf::from("/c/a");
        let layout = Layout { name: "a".into(), nodes: 2, kubernetes: "1.36.3".into(), bin: folder.clone(), folder };
        assert!(layout.is_namespace("pollux-a") && layout.is_namespace("pollux-a-node-2"));
        assert!(
            !layout.is_namespace("pollux-a-b")
                && !layout.is_namespace("pollux-a-b-node-1")
                && !layout.is_namespace("a")
        );
    }
}
