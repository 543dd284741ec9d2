//! What all electors share: one PostgreSQL, one pooler, one API server with its etcd, on this machine.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pollux_lease::{Database, admin::Admin};
use pollux_postgres::{Options, Pooler, Server};
use pollux_testbed::{ApiServer, Stop, Versions, build_module};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, NoTls};

use crate::contender::PATIENCE;
use crate::elector::{Elector, Way};

const DATABASE: &str = "bench";
/// The role of agents, and its password.
const AGENT: &str = "agent";

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct World {
    server: Server,
    uri: String,
    pooler: Option<Pooler>,
    kubernetes: Option<Kubernetes>,
    fast: bool,
    patience: Duration,
    dir: TempDir,
    elections: AtomicI64,
}

/// An API server with its etcd, and the program that contends there.
#[derive(Debug)]
struct Kubernetes {
    server: ApiServer,
    contender: String,
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
        let server = Server::start(&Options { settings, ..Options::default() })?;
        let uri = server.create_database(DATABASE)?;
        let mut admin = Admin::connect(&Database::parse(&uri)?).await?;
        admin.migrate().await?;
        // Agents have a role with time limits of its own, here as in earnest.
        admin.grant_role(AGENT, AGENT, -1).await?;
        let pooler = needs.pooler.then(|| Pooler::start(server.port(), AGENT, 40)).transpose()?;
        let kubernetes =
            if needs.kubernetes { Some(tokio::task::spawn_blocking(Kubernetes::start).await??) } else { None };
        let mut world = Self {
            server,
            uri,
            pooler,
            kubernetes,
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

    pub(crate) fn pooler_cpu_time(&self) -> Duration {
        self.pooler.as_ref().map_or(Duration::ZERO, Pooler::cpu_time)
    }

    /// An agent's URI through a port.
    pub(crate) fn agent_uri(&self, port: u16) -> String {
        format!("postgresql://{AGENT}:{AGENT}@127.0.0.1:{port}/{DATABASE}")
    }

    /// How long a new leader is waited for.
    pub(crate) const fn patience(&self) -> Duration {
        self.patience
    }

    /// Whether this schema knows the mode Fast.
    pub(crate) const fn knows_fast(&self) -> bool {
        self.fast
    }

    /// Where a contender writes its errors.
    pub(crate) fn log(&self, me: &str) -> PathBuf {
        self.dir.path().join(me).with_extension("log")
    }

    pub(crate) async fn client(&self) -> Result<Client> {
        connect(&self.uri).await
    }

    fn kubernetes(&self) -> Result<&Kubernetes> {
        self.kubernetes.as_ref().context("no API server was asked for")
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
            ensure!(self.fast || !failover.has_sessions(), "this schema does not know Fast");
            let setting = failover.setting(ttl);
            let put = "SELECT pollux.put_setting('bench', 'bench', $1, 1, NULL, $2)";
            self.client().await?.execute(put, &[&election.name(), &setting]).await?;
        }
        Ok(election)
    }

    /// Waits until a new leader's session counts, where one does.
    pub(crate) async fn established(&self, election: &Election) -> Result<()> {
        if !matches!(election.elector, Elector::Lease { failover, .. } if failover.has_sessions()) {
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
        let own = |rules: &str, uri: String, ttl: Duration| -> Result<Vec<String>> {
            let (exe, ttl) = (std::env::current_exe()?.display().to_string(), ttl.as_millis().to_string());
            let words = [&exe, "contend", rules, "--uri", &uri, "--election", &name, "--number", &number];
            Ok(words.into_iter().chain(["--me", me, "--ttl-ms", &ttl]).map(str::to_owned).collect())
        };
        match election.elector {
            Elector::Lease { ttl, .. } => own("lease", self.agent_uri(port), ttl),
            Elector::Rules(rules) => own(&rules.word(), self.server.uri_for(DATABASE, port), Elector::TTL),
            Elector::ClientGo(timing) => {
                let kubernetes = self.kubernetes()?;
                let kubeconfig = kubernetes.server.kubeconfig().display().to_string();
                let durations = [timing.lease, timing.renew, timing.retry].map(go_duration);
                let words = [&kubernetes.contender, "client-go", &kubeconfig, &name, me];
                Ok(words.into_iter().map(str::to_owned).chain(durations).collect())
            }
            Elector::Etcd { ttl } => {
                let kubernetes = self.kubernetes()?;
                let (etcd, ttl) = (kubernetes.server.etcd().to_string(), go_duration(ttl));
                let words = [&kubernetes.contender, "etcd", &etcd, &name, me, &ttl];
                Ok(words.into_iter().map(str::to_owned).collect())
            }
        }
    }
}

// === impl Kubernetes ===

impl Kubernetes {
    fn start() -> Result<Self> {
        let files = [
            ("main.go", include_str!("../go/main.go")),
            ("clientgo.go", include_str!("../go/clientgo.go")),
            ("etcd.go", include_str!("../go/etcd.go")),
            ("go.mod", include_str!("../go/go.mod")),
            ("go.sum", include_str!("../go/go.sum")),
        ];
        let stop = Stop::default();
        let contender = build_module("bench-contender", env!("CARGO_PKG_VERSION"), &files, &stop)?;
        let server = ApiServer::start(&Versions::load().default, &stop)?;
        Ok(Self { server, contender: contender.display().to_string() })
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

/// As Go's time.ParseDuration reads it.
fn go_duration(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

pub(crate) async fn connect(uri: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(uri, NoTls).await.context("no connection")?;
    tokio::spawn(connection);
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An old client of a new server would be a comparison with something that nobody runs.
    #[test]
    fn the_contenders_in_go_are_of_the_versions_that_the_testbed_runs() {
        let (versions, module) = (Versions::load(), include_str!("../go/go.mod"));
        let kubernetes = versions.kubernetes(&versions.default).unwrap().strip_prefix("1.").unwrap();
        assert!(module.contains(&format!("k8s.io/client-go v0.{kubernetes}\n")), "{module}");
        let etcd = versions.component("etcd").unwrap();
        assert!(module.contains(&format!("go.etcd.io/etcd/client/v3 v{etcd}\n")), "{module}");
    }
}
