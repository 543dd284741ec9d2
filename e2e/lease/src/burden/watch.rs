//! What has to be looked at while it happens: how large the tables are, and what keeps their dead rows alive.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::reading::rounded;

/// How old the oldest snapshot may be: no row that died after it can be removed.
const OLDEST: Duration = Duration::from_secs(5);
/// Since when sizes are compared: by then each page that is needed has been made.
const SETTLED: Duration = Duration::from_secs(60);
/// By how much the tables may have grown since, in tenths.
const GROWTH_TENTHS: i64 = 15;

const LOOK: &str = "
    SELECT pg_total_relation_size('pollux.lease') + pg_total_relation_size('pollux.candidate'),
           (SELECT sum(n_dead_tup)::bigint FROM pg_stat_user_tables WHERE relid IN ('pollux.lease'::regclass, 'pollux.candidate'::regclass)),
           coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)::float8), 0), coalesce(max(age(backend_xmin)), 0)
      FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()";

/// Everything that was seen so far.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    looks: u32,
    /// Bytes of both tables with their indexes.
    size: i64,
    largest: i64,
    settled: Option<i64>,
    dead: i64,
    most_dead: i64,
    oldest: Duration,
    oldest_transactions: i32,
}

// === impl Watch ===

impl Watch {
    /// `since`: the beginning.
    pub(crate) async fn look(&mut self, client: &Client, since: Duration) -> Result<()> {
        let row = client.query_typed_one(LOOK, &[]).await?;
        let (size, dead, oldest, transactions): (i64, i64, f64, i32) = (row.get(0), row.get(1), row.get(2), row.get(3));
        self.see(since, size, dead, Duration::from_secs_f64(oldest.max(0.0)), transactions);
        Ok(())
    }

    fn see(&mut self, since: Duration, size: i64, dead: i64, oldest: Duration, transactions: i32) {
        self.looks += 1;
        if since < SETTLED {
            self.settled = None;
        } else if self.settled.is_none() {
            self.settled = Some(self.largest.max(size));
        }
        (self.size, self.largest) = (size, self.largest.max(size));
        (self.dead, self.most_dead) = (dead, self.most_dead.max(dead));
        self.oldest = self.oldest.max(oldest);
        self.oldest_transactions = self.oldest_transactions.max(transactions);
    }

    /// What must not be.
    pub(crate) fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        match self.settled {
            Some(settled) if self.largest * 10 <= settled * GROWTH_TENTHS => {}
            Some(settled) => missed.push(format!("the tables grew from {settled} to {} bytes", self.largest)),
            None => missed.push(format!("it was watched for less than {SETTLED:?}")),
        }
        if self.oldest > OLDEST {
            missed.push(format!("a snapshot was {:?} old", self.oldest));
        }
        missed
    }

    pub(crate) fn text(&self) -> String {
        format!(
            "{} kB, {} dead rows, oldest snapshot so far {} ms",
            self.size / 1000,
            self.dead,
            self.oldest.as_millis()
        )
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "looks": self.looks,
            "size_bytes": {"after_a_minute": self.settled, "largest": self.largest, "end": self.size},
            "dead_rows": {"largest": self.most_dead, "end": self.dead},
            "oldest_snapshot_s": rounded(self.oldest.as_secs_f64()),
            "oldest_snapshot_transactions": self.oldest_transactions,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(sizes: &[(u64, i64)], oldest: Duration) -> Vec<String> {
        let mut watch = Watch::default();
        sizes.iter().for_each(|(second, size)| watch.see(Duration::from_secs(*second), *size, 0, oldest, 0));
        watch.missed()
    }

    #[test]
    fn a_table_that_grows_after_its_first_minute_is_seen() {
        let calm = Duration::from_millis(3);
        assert_eq!(watched(&[(1, 100), (61, 1000), (300, 1400)], calm), [""; 0]);
        assert_eq!(watched(&[(1, 100), (61, 1000), (200, 1600), (300, 1000)], calm).len(), 1);
        assert_eq!(watched(&[(1, 100), (59, 100)], calm).len(), 1, "it was not looked for long enough");
    }

    #[test]
    fn a_snapshot_that_keeps_dead_rows_alive_is_seen() {
        assert_eq!(watched(&[(1, 100), (61, 100)], Duration::from_secs(6)).len(), 1);
    }
}
