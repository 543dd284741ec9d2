//! Real agents, as processes of their own. What goes wrong here is the test, not the agent: it panics.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::process::{Child, Command};

/// The user of the bot's image.
const OTHER_USER: u32 = 12345;

/// What makes one replica differ from another.
#[derive(Clone, Debug)]
pub struct Pod {
    /// The agent's program.
    pub binary: PathBuf,
    /// Name of the TelegramBot.
    pub bot: String,
    /// Name of the pod.
    pub name: String,
    /// Its uid; another one is another pod.
    pub uid: String,
    /// Where it runs.
    pub node: String,
    /// Which revision.
    pub revision: String,
    /// URL of the Bot API server; the same for all pods of a bot: it is part of what the lease is about.
    pub api: String,
    /// The mounted Secret with the token.
    pub token_file: PathBuf,
    /// The mounted Secret with the URI of the lease's database.
    pub uri_file: PathBuf,
    /// The emptyDir: it outlives the containers.
    pub shared: PathBuf,
    /// Where the gate and the health port listen.
    pub ip: IpAddr,
    /// `handover.drainTimeoutSeconds`.
    pub drain_seconds: u64,
    /// The pod's `terminationGracePeriodSeconds`.
    pub grace_seconds: u64,
    /// `polling.adapter`, as the agent is told.
    pub adapter: &'static str,
    /// The agent's log level.
    pub log_level: &'static str,
}

/// An agent's process; killed when it is dropped.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    /// Where it runs.
    pub pod: Pod,
    log: PathBuf,
}

/// Every pod has an address of its own on loopback, so that all of them can use the usual ports.
pub fn fresh_ip() -> IpAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let [low, high, ..] = std::process::id().to_le_bytes();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let [more, last] = [next / 250, next % 250 + 1].map(|n| n.to_le_bytes()[0]);
    IpAddr::V4(Ipv4Addr::new(127, 100 + high % 100, low.wrapping_add(more), last))
}

// === impl Pod ===

impl Pod {
    /// Where the bot finds its Bot API.
    pub fn gate(&self) -> String {
        format!("http://{}:8081", self.ip)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("run").env_clear();
        for (name, value) in [
            ("CLUSTER", "test"),
            ("NAMESPACE", "default"),
            ("BOT", self.bot.as_str()),
            ("POD_NAME", &self.name),
            ("POD_UID", &self.uid),
            ("NODE_NAME", &self.node),
            ("REVISION", &self.revision),
            ("API_URL", &self.api),
            ("TOKEN_FILE", &self.token_file.display().to_string()),
            ("LEASE_URI_FILE", &self.uri_file.display().to_string()),
            ("SHARED_DIR", &self.shared.display().to_string()),
            ("LISTEN", &format!("{}:8081", self.ip)),
            ("HEALTH_LISTEN", &format!("{}:9464", self.ip)),
            ("DRAIN_TIMEOUT_SECONDS", &self.drain_seconds.to_string()),
            ("GRACE_PERIOD_SECONDS", &self.grace_seconds.to_string()),
            ("ADAPTER", self.adapter),
            ("LOG", self.log_level),
            ("LOG_FORMAT", "json"),
        ] {
            command.env(format!("POLLUX_{name}"), value);
        }
        command
    }

    /// Starts the agent's container.
    pub fn start(&self) -> Agent {
        static LIVES: AtomicU32 = AtomicU32::new(1);
        let life = LIVES.fetch_add(1, Ordering::Relaxed);
        let log = self.shared.with_file_name(format!("{}.{life}.log", self.name));
        let file = std::fs::File::create(&log).unwrap();
        let child =
            self.command().stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).kill_on_drop(true).spawn().unwrap();
        Agent { child, pod: self.clone(), log }
    }

    /// A hook of the kubelet, exec'd from the shared directory in the bot's container: there everybody is somebody else.
    pub async fn exec(&self, subcommand: &str) -> (ExitStatus, String, Duration) {
        let began = Instant::now();
        let mut hook = Command::new(self.shared.join("pollux-agent"));
        hook.arg(subcommand).env_clear().env("POLLUX_SHARED_DIR", &self.shared).current_dir("/");
        if rustix::process::getuid().is_root() {
            hook.uid(OTHER_USER).gid(OTHER_USER);
        }
        let output = hook.output().await.unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status, said, began.elapsed())
    }

    /// The agent's own postStart hook.
    pub async fn wait_ready(&self) {
        let output = Command::new(&self.binary)
            .arg("wait-ready")
            .env_clear()
            .env("POLLUX_SHARED_DIR", &self.shared)
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

// === impl Agent ===

impl Agent {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Its log lines whose message is `message`.
    pub fn lines(&self, message: &str) -> Vec<Value> {
        let log = self.log();
        let lines = log.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        lines.filter(|l| l["message"] == message).collect()
    }

    /// GET on the health port.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
        let url = format!("http://{}:9464{path}", self.pod.ip).parse().unwrap();
        let response = tokio::time::timeout(Duration::from_secs(2), client.get(url)).await.ok()?.ok()?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        Some((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// A metric without labels of its own.
    pub async fn gauge(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").await.unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{"))).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// What `/health` says; null while it does not answer.
    pub async fn health(&self) -> Value {
        let (_, body) = self.get("/health").await.unwrap_or_default();
        serde_json::from_str(&body).unwrap_or_default()
    }

    /// The lease's epoch, as this agent knows it.
    pub async fn epoch(&self) -> i64 {
        self.health().await["epoch"].as_i64().unwrap()
    }

    /// Memory that is resident now, in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Whether the pod is ready.
    pub async fn ready(&self) -> bool {
        self.get("/readyz").await.is_some_and(|(status, _)| status == 200)
    }

    /// Whether this replica leads.
    pub async fn leads(&self) -> bool {
        self.health().await["role"] == "ACTIVE"
    }

    /// Waits until `/health` shows what is wanted.
    pub async fn until(&self, what: &str, limit: Duration, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let health = self.health().await;
            if wanted(&health) {
                return health;
            }
            assert!(
                began.elapsed() < limit,
                "{}: not {what} within {limit:?}: {health:#}\n{}",
                self.pod.name,
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until this replica leads.
    pub async fn until_leader(&self) -> Value {
        self.until("leader", Duration::from_secs(20), |h| h["role"] == "ACTIVE").await
    }

    /// Ready to lead: its bot polls and it knows who leads.
    pub async fn until_standby(&self) -> Value {
        self.until("a ready standby", Duration::from_secs(20), |h| {
            h["role"] == "PASSIVE" && h["botProcess"]["polling"] == true && h["holder"]["me"] == false
        })
        .await
    }

    /// Sends its process a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// kill -9.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// SIGTERM, and its end.
    pub async fn terminate(&mut self, limit: Duration) -> (Option<i32>, Duration) {
        let began = Instant::now();
        self.signal(rustix::process::Signal::TERM);
        (self.ended(limit).await, began.elapsed())
    }

    /// Its end, whatever for.
    pub async fn ended(&mut self, limit: Duration) -> Option<i32> {
        let status = tokio::time::timeout(limit, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("no end within {limit:?}\n{}", self.log())).unwrap();
        assert_eq!(status.signal(), None);
        status.code()
    }
}

/// Whether `needle` is anywhere in the files of `/proc/<pid>` that other processes can read.
pub fn in_proc(pid: u32, needle: &str) -> bool {
    ["cmdline", "environ"].iter().any(|file| {
        let bytes = std::fs::read(Path::new("/proc").join(pid.to_string()).join(file)).unwrap();
        String::from_utf8_lossy(&bytes).contains(needle)
    })
}
