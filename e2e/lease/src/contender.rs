//! Contenders: agents' leases in processes of their own, to be killed, frozen and cut off.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use pollux_lease::{BootInstant, BotKey, Config, HandOver, HandedOver, Lease, Reason, Replica, Resource, TokenDigest};
use pollux_lease_soak::oracle::Recorder;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::timeout;

use crate::network::Network;
use crate::orders::orders;
use crate::plan::TTL;

/// Longer than an order may take by the lease's own promise.
const PATIENCE: Duration = Duration::from_secs(20);
/// Whose resource all contenders belong to.
pub(crate) const CLUSTER: &str = "soak";
pub(crate) const NAMESPACE: &str = "lease";
const SERVER: &str = "https://api.telegram.org";
/// By how many milliseconds contenders believe in their fences too long, to see that the oracle sees it.
const OVERSTAY: &str = "POLLUX_OVERSTAY_MS";
const ORDER: &str = "hand over";
const OUTCOME: &str = "outcome ";

/// What a contender is told.
#[derive(Args, Clone, Debug)]
pub(crate) struct Told {
    /// The file with the database's URI
    #[arg(long)]
    uri_file: PathBuf,
    /// Where it writes down what it believes
    #[arg(long)]
    beliefs: PathBuf,
    /// This process
    #[arg(long)]
    name: String,
    /// Its pod
    #[arg(long)]
    pod: String,
    /// Whose lease
    #[arg(long)]
    bot: i64,
    /// The pod's lock file
    #[arg(long)]
    alive: Option<PathBuf>,
}

/// A contender's process; it ends with this value.
#[derive(Debug)]
pub(crate) struct Contender {
    pub(crate) told: Told,
    frozen: bool,
    child: Child,
    says: ChildStdin,
    hears: Lines<BufReader<ChildStdout>>,
}

// === impl Told ===

impl Told {
    /// The `run`th process of a pod, from 0.
    pub(crate) fn new(
        uri_file: &Path,
        beliefs: &Path,
        pod: &str,
        run: usize,
        bot: i64,
        alive: Option<PathBuf>,
    ) -> Self {
        let name = format!("{pod}-{run}");
        Self { uri_file: uri_file.to_owned(), beliefs: beliefs.to_owned(), name, pod: pod.to_owned(), bot, alive }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn pod(&self) -> &str {
        &self.pod
    }

    fn arguments(&self) -> Vec<std::ffi::OsString> {
        let mut arguments: Vec<std::ffi::OsString> = vec!["contender".into(), "--uri-file".into()];
        arguments.extend([self.uri_file.clone().into(), "--beliefs".into(), self.beliefs.clone().into()]);
        arguments.extend(["--name", &self.name, "--pod", &self.pod, "--bot", &self.bot.to_string()].map(Into::into));
        if let Some(alive) = &self.alive {
            arguments.extend(["--alive".into(), alive.clone().into()]);
        }
        arguments
    }
}

// === impl Contender ===

impl Contender {
    /// Starts one that is ready to lead.
    pub(crate) fn start(network: &Network, told: Told) -> Result<Self> {
        let mut command = tokio::process::Command::from(network.command(&std::env::current_exe()?));
        command.args(told.arguments()).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("starting a contender")?;
        let says = child.stdin.take().context("no standard input")?;
        let hears = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        Ok(Self { told, frozen: false, child, says, hears })
    }

    pub(crate) const fn is_frozen(&self) -> bool {
        self.frozen
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.id().with_context(|| format!("{} has ended", self.told.name))
    }

    /// Tells it to give the lease to somebody else. [`Self::outcome`] is what became of it.
    pub(crate) async fn order_handover(&mut self) -> Result<()> {
        self.says.write_all(format!("{ORDER}\n").as_bytes()).await.context("ordering a handover")
    }

    pub(crate) async fn outcome(&mut self) -> Result<String> {
        loop {
            let line = timeout(PATIENCE, self.hears.next_line()).await.context("no outcome of a handover")??;
            let Some(line) = line else { bail!("{} is gone", self.told.name) };
            if let Some(outcome) = line.strip_prefix(OUTCOME) {
                return Ok(outcome.to_owned());
            }
        }
    }

    /// kill -9; returns when it was dead.
    pub(crate) async fn kill(mut self) -> Result<BootInstant> {
        use std::os::unix::process::ExitStatusExt;
        self.child.start_kill()?;
        let status = self.child.wait().await?;
        ensure!(status.signal() == Some(Signal::KILL.as_raw()), "{} had ended by itself: {status}", self.told.name);
        Ok(BootInstant::now())
    }

    pub(crate) async fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::STOP)?;
        self.frozen = true;
        timeout(PATIENCE, async {
            while !self.is_stopped() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .with_context(|| format!("{} does not stop", self.told.name))
    }

    pub(crate) fn thaw(&mut self) -> Result<()> {
        ensure!(self.is_stopped(), "{} was not frozen", self.told.name);
        self.frozen = false;
        self.signal(Signal::CONT)
    }

    fn is_stopped(&self) -> bool {
        let Some(pid) = self.child.id() else { return false };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).context("it is gone")?;
        Ok(kill_process(pid, signal)?)
    }
}

/// What the started process does: takes part until its standard input ends.
pub(crate) async fn contend(told: Told) -> Result<()> {
    let lease = Lease::spawn(config(told.uri_file, told.bot, &told.pod, told.alive));
    let overstay = std::env::var(OVERSTAY).map_or(Ok(0), |ms| ms.parse()).context(OVERSTAY)?;
    let recorder = Recorder::new(&told.beliefs, &told.name)?.overstaying(Duration::from_millis(overstay));
    let mut recording = recorder.follow(&lease);
    lease.set_ready(true);
    let mut orders = orders();
    loop {
        tokio::select! {
            recorded = &mut recording => return Ok(recorded??),
            order = orders.recv() => match order.as_deref() {
                Some(ORDER) => {
                    let order = HandOver { only_to_successor: true, ..HandOver::new(Reason::Manual) };
                    println!("{OUTCOME}{}", word(&lease.hand_over(order).await));
                }
                Some(other) => bail!("{other:?} is no order"),
                // Whoever started us is gone.
                None => return Ok(()),
            }
        }
    }
}

/// What an agent in `pod` brings along.
pub(crate) fn config(uri_file: PathBuf, bot: i64, pod: &str, alive: Option<PathBuf>) -> Config {
    let replica = Replica {
        resource: resource(bot),
        pod: pod.to_owned(),
        pod_uid: format!("uid-of-{pod}"),
        node: format!("node-of-{pod}"),
        revision: "r1".into(),
    };
    Config {
        database_file: uri_file,
        bot: BotKey { bot_id: bot, server: SERVER.into() },
        token: TokenDigest::of(&format!("{bot}:secret")),
        replica,
        alive_file: alive,
        default_ttl: TTL,
    }
}

/// The resource of a bot.
pub(crate) fn resource(bot: i64) -> Resource {
    Resource { cluster: CLUSTER.into(), namespace: NAMESPACE.into(), name: format!("bot-{bot}") }
}

const fn word(outcome: &HandedOver) -> &'static str {
    match outcome {
        HandedOver::To { .. } => "to",
        HandedOver::Released => "released",
        HandedOver::Kept => "kept",
        HandedOver::NotLeader => "not-leader",
        HandedOver::Unknown => "unknown",
    }
}
