//! A real Kubernetes of one to three nodes on this machine: etcd, API server, controller manager, scheduler, and for each
//! node containerd, kubelet and kube-proxy, all built from pinned Go modules. No Docker, no virtual machine, no registry.
//!
//! ```no_run
//! use pollux_testbed::{Cluster, Options, Pod, Signal};
//! # fn main() -> anyhow::Result<()> {
//! let cluster = Cluster::up(Options { name: "mine".into(), nodes: 2, ..Options::default() })?;
//! println!("KUBECONFIG={}", cluster.kubeconfig().display());
//! cluster.signal(&Pod::new("default", "web-0"), Some("bot"), Signal::Kill)?;
//! cluster.down()?;
//! # Ok(()) }
//! ```
//!
//! All calls block (the quick ones for milliseconds, [`Cluster::up`], [`Cluster::drain`] and [`Cluster::load`] for seconds):
//! from async code, call them in `spawn_blocking`. A [`Cluster`] is a cheap handle; dropping it leaves the cluster running.

mod cluster;
mod faults;

pub use cluster::{Cluster, Options};
pub use faults::{Direction, Pod, Signal};
