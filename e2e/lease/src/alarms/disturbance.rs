//! What happens to a database or an agent without anybody being dead; and for each of them, proof that it did happen.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use futures::future::try_join_all;
use pollux_lease::BootInstant;
use pollux_lease_soak::failover::Failover;
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;

use super::Size;
use super::cgroup::{Starved, Starving};
use super::crowd::{Calm, Crowd};
use crate::world::{World, cores};

/// For what is over as soon as the server gets to it.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the agents are watched while nothing happens.
const QUIET: Duration = Duration::from_secs(3);
/// Longer than a TTL and everything that is waited for after it.
const STARVED: Duration = Duration::from_secs(12);
/// Longer than until a leader is followed in Fast (3 s of silence, a fence of 1 s), shorter than a TTL after its last renewal.
const FROZEN: Duration = Duration::from_secs(6);
/// A fence of the mode Fast, and the silence after which the server ends a session.
const SESSION: Duration = Duration::from_secs(3);
/// Busy backends per core: a backend of an agent has to wait for its turn.
const BUSY_PER_CORE: usize = 2;
/// The share of the machine's time that may be idle when it is to be busy.
const IDLE: f64 = 0.05;

/// Something that is no reason to replace a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Disturbance {
    /// Nothing: what the machine does by itself
    Nothing,
    /// PostgreSQL stands still: SIGSTOP of all its processes
    Stall300ms,
    Stall500ms,
    Stall1s,
    Stall2s,
    Stall5s,
    /// With a quarter of a table to be written out at once
    Checkpoint,
    /// Of another table
    VacuumFull,
    /// More busy backends than cores
    Busy,
    /// The leaders get 0.5 % of a core each
    Starved,
    /// The leaders stand still for 6 s: in Fast that is an alarm, and none of the false ones
    Frozen,
}

/// What may become of leaders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Each deposed one is a false alarm.
    NobodyDeposed,
    /// A count that sees nobody deposed sees nothing.
    EverybodyDeposed,
    /// It is told, and not judged.
    Anything,
}

/// Everything that a disturbance needs.
#[derive(Debug)]
pub(crate) struct Means {
    /// Another one than the agents'.
    client: Client,
    load: Vec<Client>,
    starving: Result<Vec<Starving>, String>,
    version: i32,
    size: Size,
}

// === impl Disturbance ===

impl Disturbance {
    pub(crate) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    pub(crate) fn word(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// How long PostgreSQL stands still.
    pub(crate) const fn stall(self) -> Option<Duration> {
        Some(Duration::from_millis(match self {
            Self::Stall300ms => 300,
            Self::Stall500ms => 500,
            Self::Stall1s => 1_000,
            Self::Stall2s => 2_000,
            Self::Stall5s => 5_000,
            _ => return None,
        }))
    }

    /// In Fast a server that stands still for longer than the silence after which it ends sessions looks dead. A fence of 300 ms
    /// is for those who prefer false alarms to waiting.
    pub(crate) fn expected(self, failover: Failover) -> Expected {
        let harmless = match failover {
            Failover::Ttl => true,
            Failover::Fast => self.stall().is_none_or(|stall| stall < SESSION),
            Failover::Fast300 => self == Self::Nothing,
        };
        match (self, failover) {
            (Self::Frozen, Failover::Fast | Failover::Fast300) => Expected::EverybodyDeposed,
            _ if harmless => Expected::NobodyDeposed,
            _ => Expected::Anything,
        }
    }

    /// Lets it happen, from its beginning to its end, and says what did.
    pub(crate) async fn happen(self, world: &World, crowd: &mut Crowd, calm: &Calm, means: &Means) -> Result<String> {
        match self {
            Self::Nothing => {
                sleep(QUIET).await;
                Ok("nothing happened".to_owned())
            }
            Self::Checkpoint => means.checkpoint().await,
            Self::VacuumFull => means.vacuum_full().await,
            Self::Busy => means.keep_busy(world).await,
            Self::Starved => means.starve(crowd, calm).await,
            Self::Frozen => {
                let count = crowd.freeze_leaders(calm, FROZEN).await?;
                Ok(format!("{count} leaders stood still for {} s", FROZEN.as_secs()))
            }
            stall => stand_still(world, crowd, stall.stall().unwrap_or_default()).await,
        }
    }
}

/// The server stands still, and a question that is asked meanwhile is answered only afterwards.
async fn stand_still(world: &World, crowd: &Crowd, hold: Duration) -> Result<String> {
    world.server.freeze();
    let frozen = BootInstant::now();
    let answer = crowd.ask_the_time();
    tokio::pin!(answer);
    let early = timeout(hold, &mut answer).await;
    world.server.thaw();
    let held = BootInstant::now() - frozen;
    ensure!(early.is_err(), "the server answered while it was to stand still");
    timeout(PATIENCE, answer).await.context("the server does not go on")??;
    Ok(format!("stood still for {} ms", held.as_millis()))
}

// === impl Means ===

impl Means {
    pub(crate) async fn prepare(world: &World, crowd: &Crowd, size: Size) -> Result<Self> {
        let client = world.client().await?;
        let fill = format!(
            "CREATE TABLE public.other AS
                SELECT g AS n, repeat(md5(g::text), 8) AS filling FROM generate_series(1, {}) g",
            size.rows
        );
        client.batch_execute(&fill).await.context("filling another table")?;
        let load = try_join_all((0..BUSY_PER_CORE * cores()).map(|_| world.client())).await?;
        let starving = crowd.bots().iter().map(|bot| Starving::new(&bot.number.to_string()));
        let starving = starving.collect::<Result<Vec<_>>>().map_err(|error| format!("{error:#}"));
        let version: String = client.query_one("SHOW server_version_num", &[]).await?.get(0);
        Ok(Self { client, load, starving, version: version.parse()?, size })
    }

    /// Why this machine cannot do it.
    pub(crate) fn lack(&self, disturbance: Disturbance) -> Option<&str> {
        self.starving.as_ref().err().filter(|_| disturbance == Disturbance::Starved).map(String::as_str)
    }

    async fn number(&self, sql: &str) -> Result<i64> {
        Ok(self.client.query_typed_one(sql, &[]).await.with_context(|| sql.to_owned())?.get(0))
    }

    async fn checkpoint(&self) -> Result<String> {
        self.client.batch_execute("UPDATE public.other SET filling = filling WHERE n % 4 = 0").await?;
        let (count, written) = if self.version >= 170_000 {
            ("SELECT num_requested FROM pg_stat_checkpointer", "SELECT buffers_written FROM pg_stat_checkpointer")
        } else {
            ("SELECT checkpoints_req FROM pg_stat_bgwriter", "SELECT buffers_checkpoint FROM pg_stat_bgwriter")
        };
        let before = (self.number(count).await?, self.number(written).await?);
        let begun = Instant::now();
        self.client.batch_execute("CHECKPOINT").await?;
        let took = begun.elapsed();
        // It is counted a moment after it is done.
        while self.number(count).await? == before.0 || self.number(written).await? == before.1 {
            ensure!(begun.elapsed() < PATIENCE, "no checkpoint is counted");
            sleep(Duration::from_millis(20)).await;
        }
        let pages = self.number(written).await? - before.1;
        ensure!(pages > self.size.rows / 100, "the checkpoint had but {pages} pages to write");
        Ok(format!("a checkpoint of {pages} pages in {} ms", took.as_millis()))
    }

    async fn vacuum_full(&self) -> Result<String> {
        let file = "SELECT pg_relation_filenode('public.other')::bigint";
        let before = self.number(file).await?;
        let begun = Instant::now();
        self.client.batch_execute("VACUUM FULL public.other").await?;
        let took = begun.elapsed();
        ensure!(self.number(file).await? != before, "the table was not written anew");
        let megabytes = self.number("SELECT pg_table_size('public.other') / 1000000").await?;
        Ok(format!("VACUUM FULL of {megabytes} MB in {} ms", took.as_millis()))
    }

    /// The backends that are busy, counted halfway, and the processor time that all of the server's took.
    async fn keep_busy(&self, world: &World) -> Result<String> {
        let (length, wanted) = (self.size.busy, self.load.len());
        let end = format!("SELECT (clock_timestamp() + interval '{} ms')::text", length.as_millis());
        let end: String = self.client.query_typed_one(&end, &[]).await?.get(0);
        let work = format!(
            "SET application_name = 'pollux-load';
             DO $$ BEGIN
                 WHILE clock_timestamp() < '{end}' LOOP
                     PERFORM sum(sqrt(n)) FROM generate_series(1, 100000) n;
                 END LOOP;
             END $$"
        );
        let (begun, before, idle) = (Instant::now(), world.server.cpu_time(), idle()?);
        let counting = async {
            sleep(length / 2).await;
            self.number(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pollux-load' AND state = 'active'",
            )
            .await
        };
        let working = try_join_all(self.load.iter().map(|client| async { Ok(client.batch_execute(&work).await?) }));
        let (busy, _) = futures::future::try_join(counting, working).await?;
        let took = begun.elapsed();
        let idle = (self::idle()? - idle).as_secs_f64() / took.as_secs_f64() / cores() as f64;
        let share = (world.server.cpu_time() - before).as_secs_f64() / took.as_secs_f64();
        ensure!(usize::try_from(busy)? == wanted, "{busy} backends of {wanted} were busy");
        ensure!(idle < IDLE, "the machine was idle for {:.0} % of the time", idle * 100.0);
        // Others may want the machine, too.
        Ok(format!(
            "{busy} busy backends took {share:.2} of {} cores for {} s, idle {:.1} %",
            cores(),
            took.as_secs(),
            idle * 100.0
        ))
    }

    /// All leaders at once, each in a cgroup of its own.
    async fn starve(&self, crowd: &Crowd, calm: &Calm) -> Result<String> {
        let starving = self.starving.as_ref().map_err(|why| anyhow::anyhow!("{why}"))?;
        let leaders = crowd.leaders(calm).zip(starving);
        let starved = leaders.map(|(leader, cgroup)| cgroup.take(leader.pid()?)).collect::<Result<Vec<_>>>()?;
        sleep(STARVED).await;
        let throttled = starved.iter().map(Starved::throttled).collect::<Result<Vec<_>>>()?;
        let least = throttled.into_iter().min().context("there are no leaders")?;
        ensure!(least > STARVED / 2, "a leader had to wait for but {least:?} of {STARVED:?}");
        let (count, seconds) = (starved.len(), STARVED.as_secs());
        Ok(format!(
            "{count} leaders with 5 millicores for {seconds} s, each throttled for at least {:.0} s",
            least.as_secs_f64()
        ))
    }
}

/// For how long the machine's cores have had nothing to do so far, all together.
fn idle() -> Result<Duration> {
    // proc_stat(5): user, nice, system, idle and iowait, in hundredths of a second.
    let stat = std::fs::read_to_string("/proc/stat")?;
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(4).take(2);
    let ticks: u64 = fields.map(str::parse::<u64>).sum::<Result<_, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}
