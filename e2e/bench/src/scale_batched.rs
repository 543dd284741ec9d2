//! How many bots one server carries if a process keeps the leases of many: half of the processes hold them, half stand by, and
//! each says in one statement what there is to say for all of its bots: renewals every fifth of the TTL, beats every second.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::elector::Elector;
use crate::rows::Size;
use crate::scale::{API, DIGEST, EVERY, GIVEN_UP, LIMIT, Meter, ROWS, Seen, populate};
use crate::world::{World, connect};

/// A candidate beats that often.
const BEATS: Duration = Duration::from_secs(1);
/// Bots of one process.
const SHARE: i64 = 500;
/// Above those of `scale_single`.
const FIRST: i64 = 2_000_000;
const REGISTER: &str = "SELECT count(*) FROM (
    SELECT pollux.beat(b, $3, $4, m || b / 500, 1, true, false, $5, '{}')
      FROM generate_series($1::bigint, $2::bigint) b, unnest(ARRAY['holder-', 'standby-']) m) s";
const ACQUIRE: &str = "SELECT count(*) FROM (
    SELECT pollux.acquire(bot_id, $3, $4, 'holder-' || bot_id / 500, pollux.incarnation(), epoch, epoch, $5) AS a
      FROM pollux.lease WHERE bot_id BETWEEN $1 AND $2) s
    WHERE (a -> 'done')::boolean";
const RENEW: &str = "SELECT bot, seq FROM pollux.renew_all($1, $2, $3, $4, $5, $6, $7, $8, NULL, NULL, $9)";
const BEAT: &str = "SELECT bot FROM pollux.beat_all($1, $2, $3, $4, $5)";

/// A process that keeps many leases, or stands by for them.
struct Hub {
    client: Client,
    me: String,
    bots: Vec<i64>,
    epochs: Vec<i64>,
    seqs: Vec<i64>,
    incarnation: String,
    beat: i64,
    holds: bool,
}

/// One list entry for each number of bots, until the renewals take longer than a fifth of the TTL.
pub(crate) async fn batched(world: &Arc<World>, size: Size) -> Result<Vec<Value>> {
    let counts: &[i64] = size.of(&[1_000, 5_000, 10_000, 20_000], &[1_000]);
    let client = world.client().await?;
    let (mut there, mut entries) = (0, Vec::new());
    for &count in counts {
        populate(&client, [REGISTER, ACQUIRE], FIRST + there, FIRST + count - 1).await?;
        there = count;
        let (entry, p99) =
            step(world, &client, count, size.of(Duration::from_secs(20), Duration::from_secs(4))).await?;
        eprintln!("scale_batched                      {entry}");
        entries.push(entry);
        if p99 > LIMIT {
            break;
        }
    }
    Ok(entries)
}

async fn step(world: &Arc<World>, client: &Client, count: i64, length: Duration) -> Result<(Value, Duration)> {
    let mut hubs = Vec::new();
    for first in (FIRST..FIRST + count).step_by(usize::try_from(SHARE)?) {
        for holds in [true, false] {
            hubs.push(Hub::open(world, client, first, holds).await?);
        }
    }
    let begin = Instant::now() + Duration::from_millis(200);
    let (counts, end) = (begin + EVERY, begin + EVERY + length);
    let (number, mut running) = (u32::try_from(hubs.len())?, JoinSet::new());
    for (hub, n) in hubs.into_iter().zip(0_u32..) {
        running.spawn(hub.run(begin, counts, end, n, number));
    }
    sleep_until(counts).await;
    let meter = Meter::start(world, client, counts).await?;
    let (mut entry, p99, _) = meter.read(world, client, Seen::all(running).await?).await?;
    entry["bots"] = count.into();
    entry["processes"] = number.into();
    Ok((entry, p99))
}

// === impl Hub ===

impl Hub {
    async fn open(world: &World, owner: &Client, first: i64, holds: bool) -> Result<Self> {
        let rows = owner.query(ROWS, &[&first, &(first + SHARE - 1)]).await?;
        let me = format!("{}-{}", if holds { "holder" } else { "standby" }, first / SHARE);
        let beat = owner.query_one("SELECT max(beat) FROM pollux.candidate WHERE id = $1", &[&me]).await?;
        Ok(Self {
            client: connect(&world.agent_uri(world.server().port())).await?,
            me,
            bots: rows.iter().map(|row| row.get(0)).collect(),
            epochs: rows.iter().map(|row| row.get(1)).collect(),
            seqs: rows.iter().map(|row| row.get(2)).collect(),
            incarnation: rows.first().context("there is no lease")?.get(3),
            beat: beat.get(0),
            holds,
        })
    }

    /// Says what there is to say when it is due.
    async fn run(mut self, begin: Instant, counts: Instant, end: Instant, n: u32, of: u32) -> Result<Seen> {
        let every = if self.holds { EVERY } else { BEATS };
        let mut seen = Seen::default();
        for round in 0.. {
            let due = begin + every * round + every * n / of;
            if due >= end {
                break;
            }
            sleep_until(due).await;
            if due.elapsed() > GIVEN_UP {
                break;
            }
            let done = self.say().await?;
            if due >= counts {
                let refused = self.bots.len() - done;
                if self.holds { seen.renewed(due, refused) } else { seen.answered(refused) }
            }
        }
        Ok(seen)
    }

    /// For how many bots it was done.
    async fn say(&mut self) -> Result<usize> {
        self.beat += 1;
        let (digests, beats) = (vec![DIGEST; self.bots.len()], vec![self.beat; self.bots.len()]);
        let answered = if self.holds {
            let ttl = i32::try_from(Elector::TTL.as_millis())?;
            let (me, known) = (&self.me, &self.incarnation);
            self.client
                .query(RENEW, &[&self.bots, &API, &digests, me, known, &self.epochs, &self.seqs, &ttl, &beats])
                .await
        } else {
            self.client.query(BEAT, &[&self.bots, &API, &digests, &self.me, &beats]).await
        };
        let rows = match answered {
            Ok(rows) => rows,
            // The role's own time limit, under load.
            Err(error) if error.as_db_error().is_some_and(|error| *error.code() == SqlState::QUERY_CANCELED) => {
                return Ok(0);
            }
            Err(error) => return Err(error.into()),
        };
        if self.holds {
            for row in &rows {
                let at = self.bots.binary_search(&row.get(0)).ok().context("a bot that was not asked for")?;
                self.seqs[at] = row.get(1);
            }
        }
        Ok(rows.len())
    }
}
