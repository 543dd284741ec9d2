//! How many agents one server carries: each renews its lease by one statement of its own, every fifth of the TTL, through
//! PgBouncer in transaction mode.
//!
//! The statements are those that agents send. They are due at fixed times, whether or not the ones before were answered, and
//! their latency counts from then on: a server that falls behind is not asked less. The generator shares the machine with the
//! server.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{Json, ToSql, Type};

use crate::elector::Elector;
use crate::figure::{Figure, Sample, millis};
use crate::rows::Size;
use crate::world::{World, connect};

/// An agent renews that often.
pub(crate) const EVERY: Duration = Duration::from_secs(Elector::TTL.as_secs() / 5);
/// A renewal that takes longer leaves too little of the TTL for a second try.
pub(crate) const LIMIT: Duration = EVERY;
/// Whoever is that late catches up no more: most of what it has sent took longer than the limit, and the rest is not sent.
pub(crate) const GIVEN_UP: Duration = Duration::from_secs(3 * LIMIT.as_secs());
/// Connections of the generator to the pooler: more than the pooler has to the server, so that it is never the generator
/// that makes a statement wait.
const CONNECTIONS: usize = 64;
/// Bots of the bench have small numbers.
const FIRST: i64 = 1_000_000;
/// Stands in for a token's digest, and is as long.
pub(crate) const DIGEST: &[u8] = &[7; 32];
pub(crate) const API: &str = "https://api.telegram.org";

const BEGIN: &str = "SELECT count(*) FROM (
    SELECT pollux.beat(b, $3, $4, 'agent-' || b, 1, true, false, $5, '{}') FROM generate_series($1::bigint, $2::bigint) b) s";
const ACQUIRE: &str = "SELECT count(*) FROM (
    SELECT pollux.acquire(bot_id, $3, $4, 'agent-' || bot_id, pollux.incarnation(), epoch, epoch, $5) AS a
      FROM pollux.lease WHERE bot_id BETWEEN $1 AND $2) s
    WHERE (a -> 'done')::boolean";
pub(crate) const ROWS: &str =
    "SELECT bot_id, epoch, renew_seq, incarnation FROM pollux.lease WHERE bot_id BETWEEN $1 AND $2 ORDER BY bot_id";
/// As `operator/lease/src/statements.rs` sends it.
const RENEW: &str = "SELECT pollux.renew($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15)";

/// An agent that holds its bot's lease.
#[derive(Clone, Debug)]
struct Agent {
    bot: i64,
    me: String,
    incarnation: String,
    epoch: i64,
    seq: i64,
    beat: i64,
    /// When it renews, within each period.
    phase: Duration,
}

/// From when to when statements are due, and from when on they count.
#[derive(Clone, Copy, Debug)]
struct Span {
    begin: Instant,
    counts: Instant,
    end: Instant,
}

/// What one connection's agents saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    renewals: Figure,
    statements: usize,
    /// Bots for which a statement did not do what it is for: the role's limit of a second was over.
    refused: usize,
    /// When the last answer came.
    last: Option<Instant>,
}

/// What the server has used up to the instant from which on statements count.
pub(crate) struct Meter {
    counts: Instant,
    wal: i64,
    cpu: Duration,
}

#[derive(Deserialize)]
struct Answer {
    done: bool,
}

/// One list entry for each number of agents, until the renewals take too long.
pub(crate) async fn single(world: &Arc<World>, size: Size) -> Result<Vec<Value>> {
    let counts: &[i64] = size.of(&[100, 1_000, 2_000, 3_000, 5_000, 10_000, 20_000], &[100, 500]);
    let client = world.client().await?;
    let (mut there, mut entries) = (0, Vec::new());
    for &count in counts {
        populate(&client, [BEGIN, ACQUIRE], FIRST + there, FIRST + count - 1).await?;
        there = count;
        let (entry, p99) =
            step(world, &client, count, size.of(Duration::from_secs(20), Duration::from_secs(4))).await?;
        eprintln!("scale_single                       {entry}");
        entries.push(entry);
        if p99 > LIMIT {
            break;
        }
    }
    Ok(entries)
}

/// Leases that are held, made by the functions that agents call: the first statement registers them, the second acquires.
pub(crate) async fn populate(client: &Client, [register, acquire]: [&str; 2], from: i64, to: i64) -> Result<()> {
    let ttl = i32::try_from(Elector::TTL.as_millis())?;
    // In one transaction they would hold every row's lock until its end, and their notifications.
    for begin in (from..=to).step_by(500) {
        let end = to.min(begin + 499);
        client.query(register, &[&begin, &end, &API, &DIGEST, &who()]).await?;
        let held: i64 = client.query_one(acquire, &[&begin, &end, &API, &DIGEST, &ttl]).await?.get(0);
        ensure!(held == end - begin + 1, "{held} leases of {} were acquired", end - begin + 1);
    }
    for sql in ["VACUUM ANALYZE pollux.lease", "VACUUM ANALYZE pollux.candidate", "CHECKPOINT"] {
        client.batch_execute(sql).await?;
    }
    Ok(())
}

async fn step(world: &Arc<World>, client: &Client, count: i64, length: Duration) -> Result<(Value, Duration)> {
    let rows = client.query(ROWS, &[&FIRST, &(FIRST + count - 1)]).await?;
    let share = EVERY / u32::try_from(rows.len())?;
    let agents = rows.iter().zip(0_u32..).map(|(row, number)| Agent::new(row, share * number));
    let mut groups = vec![Vec::new(); CONNECTIONS];
    // Neighbours in time are on different connections.
    agents.enumerate().for_each(|(number, agent)| groups[number % CONNECTIONS].push(agent));
    let mut connections = Vec::new();
    for group in groups {
        connections.push((connect(&world.agent_uri(world.pooler_port()?)).await?, group));
    }
    let begin = Instant::now() + Duration::from_millis(200);
    let span = Span { begin, counts: begin + EVERY, end: begin + EVERY + length };
    let mut running = JoinSet::new();
    for (connection, group) in connections {
        running.spawn(renew_all(connection, group, span));
    }
    sleep_until(span.counts).await;
    let (meter, pooler_cpu) = (Meter::start(world, client, span.counts).await?, world.pooler_cpu_time());
    let (mut entry, p99, took) = meter.read(world, client, Seen::all(running).await?).await?;
    entry["agents"] = count.into();
    entry["pooler_cpu"] = rounded((world.pooler_cpu_time() - pooler_cpu).as_secs_f64(), took).into();
    Ok((entry, p99))
}

/// Each agent's renewals when they are due, one after the other.
async fn renew_all(client: Client, mut agents: Vec<Agent>, span: Span) -> Result<Seen> {
    let mut seen = Seen::default();
    for round in 0.. {
        let begin = span.begin + EVERY * round;
        for agent in &mut agents {
            let due = begin + agent.phase;
            if due >= span.end {
                return Ok(seen);
            }
            sleep_until(due).await;
            if due.elapsed() > GIVEN_UP {
                return Ok(seen);
            }
            let done = agent.renew(&client).await?;
            if due >= span.counts {
                seen.renewed(due, usize::from(!done));
            }
        }
    }
    Ok(seen)
}

async fn wal(client: &Client) -> Result<i64> {
    let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint";
    Ok(client.query_one(sql, &[]).await?.get(0))
}

pub(crate) fn who() -> Json<Value> {
    Json(json!({
        "cluster": "bench", "namespace": "bench", "name": "scale", "pod": "scale-6c9f7d5b8-x2x4z",
        "pod_uid": "0b2f4d3e-8a31-4d6f-9a55-6f1c35a1b7c0", "node": "node-1", "revision": "6c9f7d5b8", "locked": true,
    }))
}

// === impl Agent ===

impl Agent {
    fn new(row: &tokio_postgres::Row, phase: Duration) -> Self {
        let bot: i64 = row.get(0);
        Self {
            bot,
            me: format!("agent-{bot}"),
            incarnation: row.get(3),
            epoch: row.get(1),
            seq: row.get(2),
            beat: row.get(2),
            phase,
        }
    }

    /// Whether it was renewed.
    async fn renew(&mut self, client: &Client) -> Result<bool> {
        self.beat += 1;
        let (digest, who, ttl) = (DIGEST, who(), i32::try_from(Elector::TTL.as_millis())?);
        let with: [(&(dyn ToSql + Sync), Type); 15] = [
            (&self.bot, Type::INT8),
            (&API, Type::TEXT),
            (&digest, Type::BYTEA),
            (&self.me, Type::TEXT),
            (&self.incarnation, Type::TEXT),
            (&self.epoch, Type::INT8),
            (&self.seq, Type::INT8),
            (&ttl, Type::INT4),
            (&None::<i64>, Type::INT8),
            (&None::<i32>, Type::INT4),
            (&self.beat, Type::INT8),
            (&true, Type::BOOL),
            (&false, Type::BOOL),
            (&who, Type::JSONB),
            (&None::<Json<Value>>, Type::JSONB),
        ];
        let done = match client.query_typed_one(RENEW, &with).await {
            Ok(row) => row.try_get::<_, Json<Answer>>(0)?.0.done,
            // The role's own time limit, under load.
            Err(error) if error.as_db_error().is_some_and(|error| *error.code() == SqlState::QUERY_CANCELED) => false,
            Err(error) => return Err(error.into()),
        };
        self.seq += i64::from(done);
        Ok(done)
    }
}

// === impl Seen ===

impl Seen {
    /// Adds up what all of them saw.
    pub(crate) async fn all(mut running: JoinSet<Result<Self>>) -> Result<Self> {
        let mut all = Self::default();
        while let Some(seen) = running.join_next().await {
            let seen = seen??;
            all.renewals.extend(seen.renewals);
            all.statements += seen.statements;
            all.refused += seen.refused;
            all.last = all.last.max(seen.last);
        }
        Ok(all)
    }

    /// A renewal that was due then is answered.
    pub(crate) fn renewed(&mut self, due: Instant, refused: usize) {
        self.answered(refused);
        self.renewals.push(Sample::Took(due.elapsed()));
    }

    /// A statement is answered.
    pub(crate) fn answered(&mut self, refused: usize) {
        self.statements += 1;
        self.refused += refused;
        self.last = Some(Instant::now());
    }
}

// === impl Meter ===

impl Meter {
    /// Reads it at this instant, which is now.
    pub(crate) async fn start(world: &World, client: &Client, counts: Instant) -> Result<Self> {
        Ok(Self { counts, wal: wal(client).await?, cpu: world.server().cpu_time() })
    }

    /// What was used for what was seen since then, the p99 of the renewals, and the time that it took: what is behind schedule
    /// is still being worked off after the end.
    pub(crate) async fn read(self, world: &World, client: &Client, seen: Seen) -> Result<(Value, Duration, Duration)> {
        let took = seen.last.context("nothing was renewed")? - self.counts;
        let p99 = seen.renewals.percentile(99).context("nothing was renewed")?;
        let entry = json!({
            "statements_per_s": rounded(seen.statements as f64, took).round(),
            "wal_bytes_per_s": rounded((wal(client).await? - self.wal) as f64, took).round(),
            "postgres_cpu": rounded((world.server().cpu_time() - self.cpu).as_secs_f64(), took),
            "renew_p50_ms": seen.renewals.percentile(50).map(millis),
            "renew_p99_ms": millis(p99),
            "refused": seen.refused,
        });
        Ok((entry, p99, took))
    }
}

/// Of an amount that took so long, what comes with each second.
fn rounded(amount: f64, took: Duration) -> f64 {
    (amount / took.as_secs_f64() * 100.0).round() / 100.0
}
