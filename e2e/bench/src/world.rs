//! What all electors share: one PostgreSQL, one pooler, one API server with its etcd, on this machine.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pollux_lease::{Database, admin::Admin};
use pollux_postgres::{Options, Server};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, NoTls};

use crate::contender::PATIENCE;
use crate::elector::{Elector, Failover, Way};
use crate::pooler::Pooler;

const DATABASE: &str = "bench";

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct World {
    server: Server,
    uri: String,
    pooler: Option<Pooler>,
    fast: bool,
    patience: Duration,
    dir: TempDir,
    elections: AtomicI64,
}

/// One election.
#[derive(Clone, Debug)]
pub(crate) struct Election {
    elector: Elector,
    way: Way,
    number: i64,
}

/// What has to run for the rows that were chosen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Needs {
    pub(crate) pooler: bool,
    pub(crate) kubernetes: bool,
}

// === impl Needs ===

impl Needs {
    pub(crate) const fn and(self, other: Self) -> Self {
        Self { pooler: self.pooler || other.pooler, kubernetes: self.kubernetes || other.kubernetes }
    }
}

// === impl World ===

impl World {
    /// Starts what is needed. `patience`: how long a new leader is waited for.
    pub(crate) async fn start(needs: Needs, patience: Duration) -> Result<Self> {
        let settings = [("max_connections", "400"), ("shared_buffers", "256MB"), ("max_wal_size", "4GB")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let server = Server::start(&Options { settings, tls: None })?;
        let uri = server.create_database(DATABASE)?;
        Admin::connect(&Database::parse(&uri)?).await?.migrate().await?;
        let pooler = needs.pooler.then(|| Pooler::start(server.port(), 40)).transpose()?;
        let mut world = Self {
            server,
            uri,
            pooler,
            fast: false,
            patience,
            dir: tempfile::tempdir()?,
            elections: AtomicI64::new(1),
        };
        world.fast = world.has_column("lease", "session_key").await?;
        Ok(world)
    }

    pub(crate) const fn server(&self) -> &Server {
        &self.server
    }

    pub(crate) const fn port(&self) -> u16 {
        self.server.port()
    }

    pub(crate) fn pooler_port(&self) -> Result<u16> {
        self.pooler.as_ref().map(Pooler::port).context("no pooler was asked for")
    }

    /// A database's URI through a port.
    pub(crate) fn uri(&self, port: u16) -> String {
        self.server.uri_for(DATABASE, port)
    }

    /// How long a new leader is waited for.
    pub(crate) const fn patience(&self) -> Duration {
        self.patience
    }

    /// Whether this schema knows the mode Fast.
    pub(crate) const fn knows_fast(&self) -> bool {
        self.fast
    }

    /// Where contenders write their errors.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.path().join("contenders.log")
    }

    pub(crate) async fn client(&self) -> Result<Client> {
        connect(&self.uri).await
    }

    async fn has_column(&self, table: &str, column: &str) -> Result<bool> {
        let sql = "SELECT count(*) = 1 FROM information_schema.columns
                   WHERE table_schema = 'pollux' AND table_name = $1 AND column_name = $2";
        Ok(self.client().await?.query_one(sql, &[&table, &column]).await?.get(0))
    }

    /// A new election; its settings are written before anybody takes part.
    pub(crate) async fn election(&self, elector: Elector, way: Way) -> Result<Election> {
        let number = self.elections.fetch_add(1, Ordering::Relaxed);
        let election = Election { elector, way, number };
        if let Elector::Lease { ttl, failover } = elector {
            let mut setting = json!({"leaseDurationSeconds": ttl.as_secs()});
            if failover != Failover::Ttl {
                ensure!(self.fast, "this schema does not know Fast");
                setting["failover"] = json!("Fast");
            }
            if failover == Failover::Fast300 {
                setting["fastFenceMilliseconds"] = json!(300);
            }
            let put = "SELECT pollux.put_setting('bench', 'bench', $1, 1, NULL, $2)";
            self.client().await?.execute(put, &[&election.name(), &setting]).await?;
        }
        Ok(election)
    }

    /// Waits until a new leader's session counts, where one does.
    pub(crate) async fn established(&self, election: &Election) -> Result<()> {
        if !matches!(election.elector, Elector::Lease { failover: Failover::Fast | Failover::Fast300, .. }) {
            return Ok(());
        }
        let (client, deadline) = (self.client().await?, Instant::now() + PATIENCE);
        let sql = "SELECT session_key IS NOT NULL FROM pollux.lease WHERE bot_id = $1";
        while !client.query_one(sql, &[&election.number]).await?.get::<_, bool>(0) {
            ensure!(Instant::now() < deadline, "{}: no session in the row within {PATIENCE:?}", election.name());
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The command that starts a contender.
    pub(crate) fn words(&self, election: &Election, me: &str, port: u16) -> Result<Vec<String>> {
        let (name, number) = (election.name(), election.number.to_string());
        let own = |rules: &str, ttl: Duration| -> Result<Vec<String>> {
            let exe = std::env::current_exe()?.display().to_string();
            let (uri, ttl) = (self.uri(port), ttl.as_millis().to_string());
            let words = [&exe, "contend", rules, "--uri", &uri, "--election", &name, "--number", &number];
            Ok(words.into_iter().chain(["--me", me, "--ttl-ms", &ttl]).map(str::to_owned).collect())
        };
        match election.elector {
            Elector::Lease { ttl, .. } => own("lease", ttl),
            Elector::Rules(rules) => own(&rules.word(), Elector::TTL),
            Elector::ClientGo(_) | Elector::Etcd { .. } => anyhow::bail!("not yet"),
        }
    }
}

// === impl Election ===

impl Election {
    pub(crate) const fn elector(&self) -> Elector {
        self.elector
    }

    pub(crate) const fn way(&self) -> Way {
        self.way
    }

    pub(crate) fn name(&self) -> String {
        format!("e{}", self.number)
    }
}

pub(crate) async fn connect(uri: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(uri, NoTls).await.context("no connection")?;
    tokio::spawn(connection);
    Ok(client)
}
