//! What one cell of the matrix stands on: a Telegram of its own, and pods of one bot.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pollux_botapi::{At, Emulator, Load, Options, PollRecord};
use pollux_lease::Database;
use pollux_lease::admin::Admin;
use pollux_pods::{Agent, BotProcess, Pod, fresh_ip};
use pollux_postgres::{Server, Stop};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tempfile::TempDir;

use crate::setups::Setup;

/// A bot on a busy machine takes seconds to start, above all one in Java.
const START: Duration = Duration::from_secs(90);
/// A pod's grace period.
const GRACE: Duration = Duration::from_secs(45);
/// Without a gate there is no readiness: the older pod goes when the younger one has run for so long.
const DIRECT_READY: Duration = Duration::from_millis(2500);
/// Nothing moved for this long after the end of the load: what is unanswered by then is lost.
const STILL: Duration = Duration::from_secs(12);

/// What is between the bot and Telegram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Nothing.
    Direct,
    /// A gate, with delivery Transparent.
    Gate,
    /// A gate, with delivery Settled.
    Settled,
}

/// The database of a lane: one cell after the other uses it.
#[derive(Clone)]
pub(crate) struct LeaseDatabase {
    postgres: Arc<Server>,
    owner: String,
    agents: String,
}

/// Everything that outlives a pod.
pub(crate) struct Ground {
    pub(crate) emulator: Emulator,
    pub(crate) token: String,
    pub(crate) mode: Mode,
    pub(crate) setup: Arc<Setup>,
    /// How long a handler works before it answers.
    pub(crate) handler: Duration,
    /// Restarts of bots whose pods are gone.
    restarts: AtomicU32,
    /// Of every pod that was deleted and handed over.
    switches: Mutex<Vec<Duration>>,
    pods: AtomicU32,
    bot: String,
    seed: u64,
    database: LeaseDatabase,
    agent: PathBuf,
    dir: TempDir,
}

/// A pod that runs.
pub(crate) struct Replica {
    pub(crate) agent: Option<Agent>,
    pub(crate) bot: BotProcess,
}

/// What a cell showed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) updates: u64,
    pub(crate) lost: u64,
    pub(crate) dup: u64,
    pub(crate) conflict: u64,
    pub(crate) undelivered: u64,
    pub(crate) restarts: u32,
    pub(crate) open_polls_max: u32,
    pub(crate) longest_silence_ms: u64,
    /// How long nobody polled at each planned handover, by the emulator's clock.
    pub(crate) switch_ms: Vec<f64>,
}

/// From the end of the last poll of a pod that leaves, which confirms what its bot has, to the first poll of its successor.
fn switch(polls: &[PollRecord], since: At) -> Option<Duration> {
    let confirms = |poll: &PollRecord| poll.arrived >= since && (poll.timeout, poll.limit) == (0, 1);
    let last = polls.iter().rposition(confirms)?;
    let next = polls.get(last + 1)?;
    Some(next.arrived - polls[last].ended?)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    Ok(tokio::task::spawn_blocking(work).await?)
}

// === impl LeaseDatabase ===

impl LeaseDatabase {
    /// Starts one and sets it up as an administrator does.
    pub(crate) async fn start() -> Result<Self> {
        let postgres = blocking(|| Server::start(&pollux_postgres::Options::default())).await??;
        let owner = postgres.uri();
        let database = Database::parse(&owner)?;
        let mut admin = Admin::connect(&database).await?;
        admin.migrate().await?;
        admin.grant_role("agents", "not-a-secret", 60).await?;
        let agents = database.with_login("agents", "not-a-secret").to_uri();
        Ok(Self { postgres: Arc::new(postgres), owner, agents })
    }

    pub(crate) async fn stop(&self) -> Result<()> {
        let postgres = self.postgres.clone();
        blocking(move || postgres.stop(Stop::Fast)).await?
    }

    pub(crate) async fn start_again(&self) -> Result<()> {
        let postgres = self.postgres.clone();
        blocking(move || postgres.start_again()).await?
    }
}

// === impl Ground ===

impl Ground {
    /// `id` tells this cell's bot from those of other cells in the same database.
    pub(crate) async fn new(
        setup: Arc<Setup>,
        mode: Mode,
        handler: Duration,
        id: u64,
        seed: u64,
        database: LeaseDatabase,
    ) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("matrix-").permissions(Permissions::from_mode(0o755)).tempdir()?;
        let emulator = Emulator::start(Options::default()).await?;
        let token = format!("{}:a-token-of-the-matrix", 4_000_000 + id);
        emulator.add_bot(&token, "echo_bot")?;
        std::fs::write(dir.path().join("token"), &token)?;
        std::fs::write(dir.path().join("uri"), &database.agents)?;
        std::fs::write(dir.path().join("owner"), &database.owner)?;
        let agent = std::env::current_exe()?.with_file_name("pollux-agent");
        ensure!(agent.is_file(), "{} is missing: build the workspace first", agent.display());
        Ok(Self {
            emulator,
            token,
            mode,
            setup,
            handler,
            restarts: AtomicU32::new(0),
            switches: Mutex::default(),
            pods: AtomicU32::new(0),
            bot: format!("bot-{id}"),
            seed,
            database,
            agent,
            dir,
        })
    }

    /// Settings of the resource that take effect in running pods.
    pub(crate) async fn settings(&self, json: Value) -> Result<()> {
        let observer = pollux_lease::Observer::spawn(self.dir.path().join("owner"));
        let mut state = observer.state();
        state.wait_for(|state| *state == pollux_lease::ObserverState::Up).await?;
        let resource =
            pollux_lease::Resource { cluster: "test".into(), namespace: "default".into(), name: self.bot.clone() };
        let setting = pollux_lease::Setting { generation: 1, eligible: None, json };
        observer.put_setting(&resource, &setting).await?;
        Ok(())
    }

    pub(crate) fn database(&self) -> &LeaseDatabase {
        &self.database
    }

    /// A pod that is started and ready.
    pub(crate) async fn replica(&self) -> Result<Replica> {
        let replica = self.start().await?;
        let began = Instant::now();
        let Some(agent) = &replica.agent else {
            tokio::time::sleep(DIRECT_READY).await;
            return Ok(replica);
        };
        while !agent.ready().await {
            ensure!(
                began.elapsed() < START,
                "{} is not ready within {START:?}; the bot wrote:\n{}",
                agent.pod.name,
                tail(&replica.bot.log())
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(replica)
    }

    /// A pod whose containers were started, as the kubelet starts them.
    pub(crate) async fn start(&self) -> Result<Replica> {
        let name = format!("{}-{}", self.bot, self.pods.fetch_add(1, Ordering::Relaxed));
        let log = self.dir.path().join(format!("{name}.bot.log"));
        if self.mode == Mode::Direct {
            // An address of its own, so that the ledger tells the pods apart.
            let api = self.emulator.lane(&name).await?;
            let bot = BotProcess::start(self.setup.program(self.environment(api)), log);
            return Ok(Replica { agent: None, bot });
        }
        let shared = self.dir.path().join(format!("{name}.d"));
        std::fs::create_dir(&shared)?;
        std::fs::set_permissions(&shared, Permissions::from_mode(0o777))?;
        let pod = Pod {
            binary: self.agent.clone(),
            bot: self.bot.clone(),
            uid: format!("uid-of-{name}"),
            node: "node".to_owned(),
            revision: "one".to_owned(),
            api: self.emulator.url(),
            token_file: self.dir.path().join("token"),
            uri_file: self.dir.path().join("uri"),
            shared,
            ip: fresh_ip(),
            drain_seconds: 20,
            grace_seconds: GRACE.as_secs(),
            adapter: "proxy",
            log_level: "info",
            name,
        };
        let agent = pod.start();
        pod.wait_ready().await;
        let bot = BotProcess::start(self.setup.program(self.environment(pod.gate())), log);
        Ok(Replica { agent: Some(agent), bot })
    }

    fn environment(&self, api: String) -> Vec<(String, String)> {
        [
            ("TELEGRAM_API_ROOT", api.clone()),
            ("TELEGRAM_API_URL", api.clone()),
            ("TELOXIDE_API_URL", api),
            ("TELEGRAM_BOT_TOKEN_FILE", self.dir.path().join("token").display().to_string()),
            ("HANDLER_MS", self.handler.as_millis().to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// The pod is deleted: hook, SIGTERM to the bot, SIGTERM to the agent.
    pub(crate) async fn delete(&self, replica: Replica) -> Result<()> {
        self.restarts.fetch_add(replica.bot.restarts(), Ordering::Relaxed);
        let (began, since) = (Instant::now(), self.emulator.now());
        if let Some(agent) = &replica.agent {
            let (status, said, _) = agent.pod.exec("drain").await;
            ensure!(status.success(), "the hook failed: {said}");
        }
        replica.bot.terminate(GRACE.saturating_sub(began.elapsed())).await;
        if let Some(mut agent) = replica.agent {
            let (code, _) = agent.terminate(GRACE).await;
            ensure!(code == Some(0), "the agent ended with {code:?}:\n{}", tail(&agent.log()));
            let took = switch(&self.emulator.polls(&self.token)?, since);
            self.switches.lock().unwrap_or_else(PoisonError::into_inner).extend(took);
        }
        Ok(())
    }

    /// The pod's node dies: everything at once, without a word.
    pub(crate) async fn crash(&self, replica: Replica) {
        self.restarts.fetch_add(replica.bot.restarts(), Ordering::Relaxed);
        let agent = async {
            if let Some(agent) = replica.agent {
                agent.kill().await;
            }
        };
        tokio::join!(replica.bot.destroy(), agent);
    }

    pub(crate) fn load(&self, rate: f64, burst: u32) -> Result<()> {
        let load = Load { rate, burst, burst_every: Duration::from_secs(10), seed: self.seed, ..Load::default() };
        Ok(self.emulator.load(&self.token, load)?)
    }

    pub(crate) fn answered(&self) -> u64 {
        self.emulator.bot_verdict(&self.token, Duration::from_secs(5)).map_or(0, |verdict| verdict.answered)
    }

    /// Waits until so many more updates are answered.
    pub(crate) async fn answers(&self, more: u64, limit: Duration) -> Result<()> {
        let wanted = self.answered() + more;
        let began = Instant::now();
        while self.answered() < wanted {
            ensure!(began.elapsed() < limit, "no {more} answers within {limit:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Waits until everything is answered, or nothing moves any more.
    pub(crate) async fn still(&self) -> Result<()> {
        let limit = STILL * 3 + self.handler * 20;
        self.emulator.settled(Some(&self.token), limit, Some(STILL + self.handler)).await?;
        Ok(())
    }

    /// The load ends; when all that can still come has come, the pods end and the ledger is judged.
    pub(crate) async fn judge(&self, replicas: Vec<Replica>) -> Result<Figures> {
        self.emulator.stop_load(&self.token)?;
        self.still().await?;
        let verdict = self.emulator.bot_verdict(&self.token, Duration::from_secs(5)).context("the verdict")?;
        for replica in replicas {
            self.crash(replica).await;
        }
        Ok(Figures {
            updates: verdict.updates,
            lost: verdict.counts.lost,
            dup: verdict.counts.dup,
            conflict: verdict.counts.conflict,
            undelivered: verdict.undelivered,
            restarts: self.restarts.load(Ordering::Relaxed),
            open_polls_max: verdict.open_polls_max,
            longest_silence_ms: u64::try_from(verdict.longest_silence.as_millis()).unwrap_or(u64::MAX),
            switch_ms: std::mem::take(&mut *self.switches.lock().unwrap_or_else(PoisonError::into_inner))
                .iter()
                .map(|took| took.as_micros() as f64 / 1000.0)
                .collect(),
        })
    }
}

/// The end of a log, for an error.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

// === impl Replica ===

impl Replica {
    /// Whether it leads; without a gate everybody does.
    pub(crate) async fn leads(&self) -> bool {
        match &self.agent {
            Some(agent) => agent.leads().await,
            None => true,
        }
    }
}
