//! A PostgreSQL with the lease's schema, and agents that log in as they do in earnest.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use pollux_lease::{Database, admin::Admin};
use pollux_lease_soak::failover::Failover;
use pollux_postgres::{Options, Server};
use serde_json::json;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls, types::Json};

use crate::contender::resource;
use crate::lane::DATABASE;

/// The role of agents, and its password.
const AGENT: &str = "agent";
/// What users get who choose nothing.
pub(crate) const TTL: Duration = Duration::from_secs(10);

/// Everything that agents need.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) server: Server,
    owner: String,
    dir: TempDir,
}

// === impl World ===

impl World {
    /// With these lines for postgresql.conf; everything else is as PostgreSQL comes.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Result<Self> {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let server = Server::start(&Options { settings, ..Options::default() })?;
        let owner = server.create_database(DATABASE)?;
        let mut admin = Admin::connect(&Database::parse(&owner)?).await?;
        admin.migrate().await?;
        // Its time limits count: a statement that waits for a lock is ended by them.
        admin.grant_role(AGENT, AGENT, -1).await?;
        let dir = tempfile::tempdir()?;
        let uri = format!("postgresql://{AGENT}:{AGENT}@127.0.0.1:{}/{DATABASE}", server.port());
        std::fs::write(dir.path().join("uri"), uri)?;
        Ok(Self { server, owner, dir })
    }

    /// The file with an agent's URI.
    pub(crate) fn uri_file(&self) -> PathBuf {
        self.dir.path().join("uri")
    }

    /// For whatever else is written.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The superuser's.
    pub(crate) async fn client(&self) -> Result<Client> {
        let (client, connection) = tokio_postgres::connect(&self.owner, NoTls).await.context("no connection")?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Writes the settings of a bot's resource, before anybody takes part.
    pub(crate) async fn choose(&self, client: &Client, bot: i64, failover: Failover) -> Result<()> {
        let to = resource(bot);
        let put = "SELECT pollux.put_setting($1, $2, $3, 1, NULL, $4)";
        client.execute(put, &[&to.cluster, &to.namespace, &to.name, &Json(failover.setting(TTL))]).await?;
        Ok(())
    }
}

/// What is to be known of a run besides its figures.
pub(crate) async fn about(client: &Client) -> Result<serde_json::Value> {
    let version: String = client.query_one("SHOW server_version", &[]).await?.get(0);
    Ok(json!({
        "date": jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
        "commit": crate::report::commit(),
        "cores": cores(),
        "load": load(),
        "postgresql": version,
    }))
}

pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The kernel's load average over five minutes: how busy the machine was, by others too.
fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').nth(1)?.parse().ok()
}
