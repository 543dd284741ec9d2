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
//! # Guarantees
//!
//! * The host gets no network device, route, rule, sysctl or mount; only listeners on 127.0.0.1. After `down` there is no
//!   process, mount, namespace or cgroup left, also when everything had been killed before.
//! * Clusters of different names do not meet. `up` of one that runs changes nothing.
//! * node-1 carries what must survive faults (label `pollux.dev/testbed-role=stable`); drains, cuts and deaths are for the
//!   others (`faulty`).
//!
//! # Caveats
//!
//! All calls block (the quick ones for milliseconds, [`Cluster::up`], [`Cluster::drain`] and [`Cluster::load`] for seconds):
//! from async code, call them in `spawn_blocking`. A [`Cluster`] is a cheap handle; dropping it leaves the cluster running.
//! The program `pollux-testbed` must have been built: it serves the forwarded ports.

mod api_server;
mod build;
mod cgroups;
mod cluster;
mod control_plane;
mod dns;
mod faults;
mod forward;
mod host;
mod images;
mod layout;
mod node;
mod paths;
mod pki;
mod preflight;
mod process;
mod stage;
mod versions;

pub use api_server::ApiServer;
pub use build::{build, build_module};
pub use cluster::{Cluster, Options, Status};
pub use faults::{Direction, Pod, Signal, signal_processes};
pub use forward::serve as serve_forward;
pub use images::write_image;
pub use paths::cache;
pub use process::Stop;
pub use versions::Versions;
