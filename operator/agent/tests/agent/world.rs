//! A bot's pods, its Telegram and its database.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pollux_botapi::{BotVerdict, Emulator, Load, Options};
use pollux_lease::Database;
use pollux_lease::admin::Admin;
use pollux_pods::{Agent, Pod, fresh_ip};
use pollux_postgres::{Server, Stop};
use tempfile::TempDir;

use crate::BINARY;
use crate::bot::{Acks, Bot};

/// No test may last longer for a single step.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The lease's TTL as long as no setting says otherwise.
pub(crate) const TTL: Duration = Duration::from_secs(10);
/// What no log, metric or argument may contain.
pub(crate) const SECRET: &str = "cAnArY-sEcReT-of-a-test";
/// Of the role that agents log in with.
const PASSWORD: &str = "another-cAnArY-of-a-test";

/// Everything that outlives a pod.
pub(crate) struct World {
    pub(crate) emulator: Emulator,
    pub(crate) token: String,
    pub(crate) token_file: PathBuf,
    pub(crate) uri_file: PathBuf,
    /// The URI of the schema's owner: the controller's.
    pub(crate) owner_file: PathBuf,
    pub(crate) dir: TempDir,
    postgres: Option<Arc<Server>>,
}

/// A pod that runs: an agent and its bot.
pub(crate) struct Replica {
    pub(crate) agent: Agent,
    pub(crate) bot: Bot,
}

/// Sets the database up as an administrator does and returns the URI of a role for agents.
async fn agents_uri(postgres: &Server) -> String {
    let owner = Database::parse(&postgres.uri()).unwrap();
    let mut admin = Admin::connect(&owner).await.unwrap();
    admin.migrate().await.unwrap();
    admin.grant_role("agents", PASSWORD, 20).await.unwrap();
    owner.with_login("agents", PASSWORD).to_uri()
}

/// Waits until `wanted` holds.
pub(crate) async fn eventually(what: &str, mut wanted: impl FnMut() -> bool) {
    let began = Instant::now();
    while !wanted() {
        assert!(began.elapsed() < PATIENCE, "not {what} within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The emulator lives in the test's own thread, so nobody may hold that up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

// === impl World ===

impl World {
    /// With a database.
    pub(crate) async fn new() -> Self {
        let mut world = Self::without_database().await;
        let postgres = blocking(|| Server::start(&pollux_postgres::Options::default()).unwrap()).await;
        std::fs::write(&world.uri_file, agents_uri(&postgres).await).unwrap();
        std::fs::write(&world.owner_file, postgres.uri()).unwrap();
        world.postgres = Some(Arc::new(postgres));
        world
    }

    /// With the URI of a database that is not there.
    pub(crate) async fn without_database() -> Self {
        // The bot's user must find its way to the hook, as in a pod.
        let dir = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
        let emulator = Emulator::start(Options::default()).await.unwrap();
        let token = format!("4242:{SECRET}");
        emulator.add_bot(&token, "echo_bot").unwrap();
        let [token_file, uri_file, owner_file] = ["token", "uri", "owner"].map(|name| dir.path().join(name));
        std::fs::write(&token_file, &token).unwrap();
        std::fs::write(&uri_file, "postgresql://nobody:nothing@127.0.0.1:9/nowhere").unwrap();
        Self { emulator, token, token_file, uri_file, owner_file, dir, postgres: None }
    }

    /// Stops the database, in an orderly way.
    pub(crate) async fn stop_postgres(&self) {
        let postgres = self.postgres.clone().expect("a world with a database");
        blocking(move || postgres.stop(Stop::Fast).unwrap()).await;
    }

    /// Starts it again.
    pub(crate) async fn start_postgres_again(&self) {
        let postgres = self.postgres.clone().expect("a world with a database");
        blocking(move || postgres.start_again().unwrap()).await;
    }

    /// A pod that was scheduled; nothing of it runs yet.
    pub(crate) async fn pod(&self, name: &str) -> Pod {
        let shared = self.dir.path().join(format!("{name}.d"));
        std::fs::create_dir(&shared).unwrap();
        std::fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
        Pod {
            binary: BINARY.into(),
            bot: "echo".to_owned(),
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            node: format!("node-of-{name}"),
            revision: "echo-1".to_owned(),
            // The same for all pods: it is part of what the lease is about.
            api: self.emulator.url(),
            token_file: self.token_file.clone(),
            uri_file: self.uri_file.clone(),
            shared,
            ip: fresh_ip(),
            drain_seconds: 20,
            grace_seconds: 45,
            adapter: "proxy",
            log_level: "debug",
        }
    }

    /// The bot's container of a pod.
    pub(crate) fn bot(&self, pod: &Pod, acks: Acks) -> Bot {
        Bot::start(&pod.gate(), &self.token, acks, Duration::from_millis(50))
    }

    /// A pod that runs, started as the kubelet does it.
    pub(crate) async fn replica(&self, name: &str, acks: Acks) -> Replica {
        let pod = self.pod(name).await;
        let agent = pod.start();
        pod.wait_ready().await;
        let bot = self.bot(&pod, acks);
        Replica { agent, bot }
    }

    /// Two pods, the first of which leads.
    pub(crate) async fn pair(&self, acks: Acks) -> (Replica, Replica) {
        let one = self.replica("echo-1", acks).await;
        one.agent.until_leader().await;
        let two = self.replica("echo-2", acks).await;
        two.agent.until_standby().await;
        (one, two)
    }

    /// Updates that keep coming: twenty a second and now and then five at once.
    pub(crate) fn load(&self, seconds: u64) {
        let load = Load {
            rate: 20.0,
            burst: 5,
            burst_every: Duration::from_secs(1),
            seconds: Some(Duration::from_secs(seconds)),
            ..Load::default()
        };
        self.emulator.load(&self.token, load).unwrap();
    }

    /// Waits until everything that was sent is answered and confirmed.
    pub(crate) async fn settled(&self) {
        let loaded = self.emulator.until(PATIENCE, |e| !e.loading(&self.token)).await;
        assert!(loaded, "the load does not end");
        let settled = self.emulator.settled(Some(&self.token), PATIENCE, None).await.unwrap();
        assert!(settled.settled, "{settled:?}");
    }

    /// Waits until everything that was sent is confirmed; what a bot's death lost stays unanswered.
    pub(crate) async fn served(&self) {
        let loaded = self.emulator.until(PATIENCE, |e| !e.loading(&self.token)).await;
        assert!(loaded, "the load does not end");
        let quiet = Some(Duration::from_secs(2));
        let settled = self.emulator.settled(Some(&self.token), PATIENCE, quiet).await.unwrap();
        assert_eq!(settled.pending, 0, "{settled:?}");
    }

    pub(crate) fn verdict(&self) -> BotVerdict {
        self.emulator.bot_verdict(&self.token, Duration::from_secs(5)).unwrap()
    }

    /// Waits until `count` updates are answered.
    pub(crate) async fn answered(&self, count: u64) {
        let reached = self.emulator.until(PATIENCE, |_| self.verdict().answered >= count).await;
        assert!(reached, "{:#?}", self.verdict());
    }

    /// The oracle of everything planned: nothing lost, nothing doubled, no conflict, never two pollers.
    pub(crate) fn assert_clean(&self) -> BotVerdict {
        let verdict = self.verdict();
        let counts = (verdict.counts.lost, verdict.counts.dup, verdict.counts.conflict);
        assert_eq!(counts, (0, 0, 0), "{verdict:#?}");
        assert!(verdict.open_polls_max <= 1, "{verdict:#?}");
        assert_eq!(verdict.undelivered, 0, "{verdict:#?}");
        verdict
    }
}
