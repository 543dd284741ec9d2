//! The command line of `run`. Every option is an environment variable too.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use pollux_api::names::AGENT_IMAGE;

/// Arguments of `pollux-controller run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// A database that leases may be kept in: its name in spec.lease.database, and the file with its PostgreSQL URI; may be repeated
    #[arg(
        long = "lease-database",
        value_name = "NAME=FILE",
        env = "POLLUX_LEASE_DATABASE",
        value_delimiter = ',',
        required = true
    )]
    lease_databases: Vec<String>,

    /// Namespace to look after; may be repeated [default: all]
    #[arg(long = "watch-namespace", value_name = "NAMESPACE", env = "POLLUX_WATCH_NAMESPACE", value_delimiter = ',')]
    watch_namespaces: Vec<String>,

    /// Image of the agents of new revisions
    #[arg(long, value_name = "IMAGE", env = "POLLUX_AGENT_IMAGE", default_value = AGENT_IMAGE)]
    agent_image: String,

    /// Where probes and metrics are served
    #[arg(long, value_name = "ADDRESS", env = "POLLUX_HEALTH_LISTEN", default_value = "0.0.0.0:8080")]
    health_listen: SocketAddr,

    /// What tells this cluster from others that use the same database [default: the uid of the namespace kube-system]
    #[arg(long, value_name = "ID", env = "POLLUX_CLUSTER")]
    cluster: Option<String>,

    /// Namespace of the Lease that decides which replica is active
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE", default_value = "pollux-system")]
    namespace: String,

    /// Name of this replica
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    replica: Option<String>,
}

/// The same, looked at.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Lease databases by name.
    pub(crate) databases: BTreeMap<String, PathBuf>,
    /// Namespaces to look after; `None` is all.
    pub(crate) watch: Option<Vec<String>>,
    pub(crate) agent_image: String,
    pub(crate) health_listen: SocketAddr,
    pub(crate) cluster: Option<String>,
    pub(crate) namespace: String,
    /// Identity in the election: also tells two runs of one pod apart.
    pub(crate) identity: String,
    /// Name of this replica, for events.
    pub(crate) replica: String,
}

// === impl Settings ===

impl Settings {
    /// Looks at the arguments.
    ///
    /// # Errors
    /// Which one is wrong, and how to mend it.
    pub(crate) fn new(args: RunArgs) -> anyhow::Result<Self> {
        let RunArgs { lease_databases, watch_namespaces, agent_image, health_listen, cluster, namespace, replica } =
            args;
        let mut databases = BTreeMap::new();
        for pair in &lease_databases {
            let (name, file) = pair.split_once('=').with_context(|| {
                format!("--lease-database {pair:?} must be NAME=FILE, such as default=/etc/pollux/lease/default/uri")
            })?;
            if name.is_empty() || file.is_empty() || databases.insert(name.to_owned(), PathBuf::from(file)).is_some() {
                bail!("--lease-database {pair:?}: each name needs exactly one file");
            }
        }
        let replica = replica.unwrap_or_else(|| format!("pollux-controller-{}", std::process::id()));
        let mut run = [0u8; 4];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut run)
            .map_err(|_| anyhow::anyhow!("the system has no random numbers"))?;
        let watch: Vec<_> = watch_namespaces.into_iter().filter(|namespace| !namespace.is_empty()).collect();
        Ok(Self {
            databases,
            watch: (!watch.is_empty()).then_some(watch),
            agent_image,
            health_listen,
            cluster,
            namespace,
            identity: format!("{replica}_{:08x}", u32::from_be_bytes(run)),
            replica,
        })
    }
}
