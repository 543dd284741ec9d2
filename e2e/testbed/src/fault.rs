//! The faults as commands.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use pollux_testbed::{Cluster, Direction, Pod, Signal};

#[derive(Subcommand)]
pub(crate) enum Fault {
    /// kill -9 all processes of a pod, or of one of its containers (the kubelet restarts them)
    Kill {
        /// NAMESPACE/POD
        #[arg(value_parser = pod)]
        pod: Pod,
        /// Only this container
        container: Option<String>,
    },
    /// SIGSTOP them: they stand still, their connections stay open
    Stop {
        /// NAMESPACE/POD
        #[arg(value_parser = pod)]
        pod: Pod,
        /// Only this container
        container: Option<String>,
    },
    /// SIGCONT them
    Continue {
        /// NAMESPACE/POD
        #[arg(value_parser = pod)]
        pod: Pod,
        /// Only this container
        container: Option<String>,
    },
    /// The power of a node goes: no packet leaves it, kubelet, containerd and all processes of its pods are killed
    KillNode { node: String },
    /// Switch a dead node on again
    ReviveNode { node: String },
    /// Cut a node off from everything else
    CutNode {
        node: String,
        /// Which packets are lost, seen from the node
        #[arg(long, value_enum, default_value_t = Way::Both)]
        direction: Way,
    },
    /// End all cuts on a node, those of its pods too
    HealNode { node: String },
    /// Cut a pod off from one address (of a pod, a node, a service); open connections fall silent too
    CutPod {
        /// NAMESPACE/POD
        #[arg(value_parser = pod)]
        pod: Pod,
        from: Ipv4Addr,
        /// Which packets are lost, seen from the pod
        #[arg(long, value_enum, default_value_t = Way::Both)]
        direction: Way,
    },
    /// End all cuts of a pod
    HealPod {
        /// NAMESPACE/POD
        #[arg(value_parser = pod)]
        pod: Pod,
    },
    /// The API server stands still
    StopApi,
    /// It goes on
    ContinueApi,
    /// Put nothing new on a node
    Cordon { node: String },
    /// Evict all pods of a node, and put nothing new on it
    Drain {
        node: String,
        #[arg(long, default_value_t = 60)]
        timeout_seconds: u64,
    },
    /// The opposite of both
    Uncordon { node: String },
    /// No further pod fits into a namespace
    FillQuota { namespace: String },
    /// They do again
    FreeQuota { namespace: String },
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Way {
    /// It hears nothing and is not heard
    Both,
    /// It is heard, and hears nothing
    Incoming,
    /// It hears, and is not heard
    Outgoing,
}

impl From<Way> for Direction {
    fn from(way: Way) -> Self {
        match way {
            Way::Both => Self::Both,
            Way::Incoming => Self::Incoming,
            Way::Outgoing => Self::Outgoing,
        }
    }
}

fn pod(text: &str) -> Result<Pod, String> {
    let (namespace, name) = text.split_once('/').ok_or("a pod is named NAMESPACE/POD")?;
    Ok(Pod::new(namespace, name))
}

impl Fault {
    pub(crate) fn run(self, cluster: &Cluster) -> Result<()> {
        let signal = |pod: Pod, container: Option<String>, signal| {
            let reached = cluster.signal(&pod, container.as_deref(), signal)?;
            println!("{} processes: {reached:?}", reached.len());
            Ok(())
        };
        match self {
            Self::Kill { pod, container } => signal(pod, container, Signal::Kill),
            Self::Stop { pod, container } => signal(pod, container, Signal::Stop),
            Self::Continue { pod, container } => signal(pod, container, Signal::Continue),
            Self::KillNode { node } => cluster.kill_node(&node),
            Self::ReviveNode { node } => cluster.revive_node(&node),
            Self::CutNode { node, direction } => cluster.cut_node(&node, direction.into()),
            Self::HealNode { node } => cluster.heal_node(&node),
            Self::CutPod { pod, from, direction } => cluster.cut_pod(&pod, from, direction.into()),
            Self::HealPod { pod } => cluster.heal_pod(&pod),
            Self::StopApi => cluster.stop_api_server(),
            Self::ContinueApi => cluster.continue_api_server(),
            Self::Cordon { node } => cluster.cordon(&node),
            Self::Drain { node, timeout_seconds } => cluster.drain(&node, Duration::from_secs(timeout_seconds)),
            Self::Uncordon { node } => cluster.uncordon(&node),
            Self::FillQuota { namespace } => cluster.fill_quota(&namespace),
            Self::FreeQuota { namespace } => cluster.free_quota(&namespace),
        }
    }
}
