//! What PostgreSQL says of itself: its counters at one moment, and what lies between two of them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use pollux_lease::BootInstant;
use pollux_postgres::Server;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::world::World;

const DAY: f64 = 86_400.0;
/// Counts statements.
pub(crate) const MODULE: &str = "pg_stat_statements";

const COUNTERS: &str = "
    SELECT l.n_tup_upd, l.n_tup_hot_upd, c.n_tup_upd, c.n_tup_hot_upd,
           w.wal_records, w.wal_fpi, w.wal_bytes::bigint, pg_current_wal_insert_lsn()::text,
           (SELECT sum(epoch)::bigint FROM pollux.lease), (SELECT sum(renew_seq)::bigint FROM pollux.lease)
      FROM pg_stat_user_tables l, pg_stat_user_tables c, pg_stat_wal w
     WHERE l.relid = 'pollux.lease'::regclass AND c.relid = 'pollux.candidate'::regclass";

/// Statements of agents, by what they are. The counters of pg_stat_database leave out those that touch no table.
const STATEMENTS: &str = "
    SELECT CASE WHEN query LIKE '%pollux.renew(%' THEN 'renew'
                WHEN query LIKE '%pollux.beat(%' THEN 'beat'
                WHEN query LIKE '%pg_try_advisory_lock(%' THEN 'try'
                WHEN query LIKE '%pg_backend_pid()%' THEN 'heartbeat'
                ELSE 'other' END, sum(calls)::bigint
      FROM pg_stat_statements
     WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND userid = 'agent'::regrole
     GROUP BY 1";

/// pg_walinspect is there since PostgreSQL 15.
const WAL: &str =
    "SELECT sum(record_size)::bigint, sum(fpi_size)::bigint FROM pg_get_wal_stats($1::text::pg_lsn, $2::text::pg_lsn)";

/// Updates of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Updates {
    all: i64,
    /// Within the page, without touching an index: nothing is left for a vacuum.
    hot: i64,
}

/// How many there were of each kind; nothing where pg_stat_statements is not installed.
type Statements = Option<BTreeMap<String, i64>>;

/// The counters.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    at: BootInstant,
    cpu: Duration,
    lease: Updates,
    candidate: Updates,
    statements: Statements,
    wal_records: i64,
    wal_images: i64,
    wal_bytes: i64,
    lsn: String,
    pub(crate) epochs: i64,
    renewals: i64,
}

/// What lies between two readings.
#[derive(Clone, Debug)]
pub(crate) struct Spent {
    pub(crate) seconds: f64,
    pub(crate) lease: Updates,
    pub(crate) candidate: Updates,
    pub(crate) epochs: i64,
    pub(crate) renewals: i64,
    statements: Statements,
    cpu: Duration,
    wal_records: i64,
    wal_images: i64,
    wal_bytes: i64,
}

// === impl Updates ===

impl Updates {
    pub(crate) const fn and(self, other: Self) -> Self {
        Self { all: self.all + other.all, hot: self.hot + other.hot }
    }

    const fn since(self, before: Self) -> Self {
        Self { all: self.all - before.all, hot: self.hot - before.hot }
    }

    /// Of all updates, how many were heap-only: from 0 to 1.
    pub(crate) fn share(self) -> f64 {
        if self.all == 0 { 0.0 } else { self.hot as f64 / self.all as f64 }
    }
}

// === impl Reading ===

impl Reading {
    pub(crate) async fn take(world: &World, client: &Client) -> Result<Self> {
        let statements = if Server::has_module(MODULE)? {
            let rows = client.query_typed(STATEMENTS, &[]).await.context("counting statements")?;
            Some(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
        } else {
            None
        };
        let row = client.query_typed_one(COUNTERS, &[]).await.context("reading the counters")?;
        Ok(Self {
            at: BootInstant::now(),
            cpu: world.server.cpu_time(),
            lease: Updates { all: row.get(0), hot: row.get(1) },
            candidate: Updates { all: row.get(2), hot: row.get(3) },
            statements,
            wal_records: row.get(4),
            wal_images: row.get(5),
            wal_bytes: row.get(6),
            lsn: row.get(7),
            epochs: row.get(8),
            renewals: row.get(9),
        })
    }

    pub(crate) fn since(&self, before: &Self) -> Spent {
        Spent {
            seconds: (self.at - before.at).as_secs_f64(),
            lease: self.lease.since(before.lease),
            candidate: self.candidate.since(before.candidate),
            epochs: self.epochs - before.epochs,
            renewals: self.renewals - before.renewals,
            statements: self.statements.as_ref().map(|now| {
                let counted = |kind: &str| before.statements.as_ref().and_then(|then| then.get(kind)).copied();
                now.iter().map(|(kind, count)| (kind.clone(), count - counted(kind).unwrap_or(0))).collect()
            }),
            cpu: self.cpu - before.cpu,
            wal_records: self.wal_records - before.wal_records,
            wal_images: self.wal_images - before.wal_images,
            wal_bytes: self.wal_bytes - before.wal_bytes,
        }
    }

    /// The bytes of the log since `before`, by what they are: records, and images of whole pages, which the first change after a
    /// checkpoint writes. Nothing where this server cannot tell.
    pub(crate) async fn log_since(&self, before: &Self, client: &Client) -> Option<(i64, i64)> {
        client.batch_execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect").await.ok()?;
        let row = client.query_one(WAL, &[&before.lsn, &self.lsn]).await.ok()?;
        Some((row.get(0), row.get(1)))
    }
}

// === impl Spent ===

impl Spent {
    pub(crate) fn both(&self) -> Updates {
        self.lease.and(self.candidate)
    }

    /// Per bot and day, or per second. `log`: [`Reading::log_since`].
    pub(crate) fn json(&self, bots: u16, log: Option<(i64, i64)>) -> Value {
        let daily = |amount: f64| amount / f64::from(bots) / self.seconds * DAY;
        let megabytes = |bytes: i64| rounded(daily(bytes as f64) / 1e6);
        let per_second = |count: i64| rounded(count as f64 / self.seconds);
        let statements = self.statements.as_ref();
        let by_kind = statements
            .map(|all| all.iter().map(|(kind, count)| (kind, per_second(*count))).collect::<BTreeMap<_, _>>());
        json!({
            "hot_share": {
                "lease": share(self.lease), "candidate": share(self.candidate), "both": share(self.both()),
            },
            "updates": {"lease": self.lease.all, "candidate": self.candidate.all},
            "renewals": self.renewals,
            "statements_per_s": statements.map(|all| per_second(all.values().sum())),
            "statements_per_s_of": by_kind,
            "wal_mb_per_bot_and_day": megabytes(self.wal_bytes),
            "wal_records_mb_per_bot_and_day": log.map(|(records, _)| megabytes(records)),
            "wal_page_images_mb_per_bot_and_day": log.map(|(_, images)| megabytes(images)),
            "wal_records": self.wal_records,
            "wal_page_images": self.wal_images,
            "postgres_cpu_s_per_bot_and_day": rounded(daily(self.cpu.as_secs_f64())),
            "postgres_cores": rounded(self.cpu.as_secs_f64() / self.seconds),
        })
    }
}

fn share(updates: Updates) -> f64 {
    (updates.share() * 1e5).round() / 1e5
}

pub(crate) fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_tables_share_is_weighed_by_their_updates() {
        let (lease, candidate) = (Updates { all: 10, hot: 0 }, Updates { all: 90, hot: 90 });
        assert!((lease.and(candidate).share() - 0.9).abs() < 1e-9);
        // Nothing that was updated is nothing that was heap-only.
        assert!(Updates::default().share() < 0.1);
    }
}
