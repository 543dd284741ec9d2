//! `pollux-controller release`: takes the lease from a bot's leader.
//!
//! For a leader that holds on though it should not: it renews and answers nobody. What a pod's end or a handover does is gentler,
//! because then the bot finishes what it has begun; here it is stopped at once, as if its pod had died.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use kube::Client;
use pollux_lease::Resource;

use crate::grant::{cluster_id, connect, read_database};

/// How long the database may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Arguments of `pollux-controller release`.
#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    /// The TelegramBot
    name: String,

    /// Its namespace
    #[arg(long, value_name = "NAMESPACE")]
    namespace: String,

    /// Why; kept in the log of handovers
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    why: String,

    /// Who asks; kept there too
    #[arg(long, value_name = "NAME", env = "USER", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    who: String,

    /// File with the PostgreSQL URI of the role that owns the schema
    #[arg(long, value_name = "FILE")]
    database_file: PathBuf,

    /// What tells this cluster from others that use the same database [default: the uid of the namespace kube-system]
    #[arg(long, value_name = "ID", env = "POLLUX_CLUSTER")]
    cluster: Option<String>,
}

/// Takes the lease from the leader, and says what follows.
///
/// # Errors
///
/// When nobody leads, or the database or the Kubernetes API is not to be had.
pub(crate) async fn run(args: ReleaseArgs) -> anyhow::Result<()> {
    let cluster = match args.cluster.filter(|cluster| !cluster.is_empty()) {
        Some(cluster) => cluster,
        None => {
            let client = Client::try_default().await.context("no access to a Kubernetes API: give --cluster")?;
            cluster_id(&client).await?
        }
    };
    let database = read_database(&args.database_file)?;
    let bot = format!("{}/{}", args.namespace, args.name);
    let resource = Resource { cluster, namespace: args.namespace, name: args.name };
    let admin = connect(&database, PATIENCE).await?;
    let asked = admin.force_release(&resource, &args.who, &args.why).await.context("the lease cannot be taken away")?;
    ensure!(asked, "nobody leads {bot}, or its leader was asked already (kubectl get telegrambots shows the leader)");
    println!("the leader of {bot} is refused every renewal; another pod leads at once, or when the lease has run out");
    Ok(())
}
