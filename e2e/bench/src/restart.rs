//! The database is away for 5 s, and comes back with everything that was committed: nobody's leader should change.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use pollux_postgres::Stop;
use tokio::time::sleep;

use crate::contend::Rules;
use crate::elector::{Elector, Failover, Way};
use crate::lane::Lane;
use crate::rows::{Row, Size};
use crate::world::World;

/// How long it is away.
const AWAY: Duration = Duration::from_secs(5);

/// Elections of one kind that saw restarts.
#[derive(Debug)]
pub(crate) struct Restarted {
    /// Whose they are.
    pub(crate) row: Row,
    pub(crate) name: &'static str,
    elector: Elector,
    lanes: usize,
    /// Leaders that saw one, all restarts together.
    pub(crate) leaders: usize,
    /// Those that were not leaders any more when all was calm again.
    pub(crate) changes: usize,
    /// The longest time for which nobody led.
    pub(crate) silence: Duration,
}

/// A shutdown and a crash, each with elections of its own.
pub(crate) async fn measure(world: &Arc<World>, size: Size) -> Result<Vec<Restarted>> {
    let mut kinds = kinds(world.knows_fast(), size);
    for how in [Some(Stop::Fast), None] {
        let opening = kinds.iter().enumerate().flat_map(|(index, kind)| {
            (0..kind.lanes).map(move |_| async move {
                let lane = Lane::open(world.clone(), kind.elector, Way::Direct).await.context(kind.name)?;
                Ok::<_, anyhow::Error>((index, lane))
            })
        });
        let mut lanes = try_join_all(opening).await?;
        restart(world, how).await?;
        // Whoever lost its leadership has been replaced by then, and whoever goes on goes on: the longest TTL, and a bit.
        sleep(size.of(Duration::from_secs(35), Duration::from_secs(12))).await;
        for (index, lane) in &mut lanes {
            let kind = &mut kinds[*index];
            kind.leaders += 1;
            let (changed, silence) = lane.has_changed().await.context(kind.name)?;
            kind.changes += usize::from(changed);
            kind.silence = kind.silence.max(silence);
        }
    }
    Ok(kinds)
}

fn kinds(fast: bool, size: Size) -> Vec<Restarted> {
    let lease = |seconds, failover| Elector::lease(Duration::from_secs(seconds), failover);
    let kind = |row, name, elector, (full, quick)| Restarted {
        row,
        name,
        elector,
        lanes: size.of(full, quick),
        leaders: 0,
        changes: 0,
        silence: Duration::ZERO,
    };
    let mut kinds = vec![
        kind(Row::Restart, "ttl", lease(10, Failover::Ttl), (10, 2)),
        kind(Row::Restart, "ttl3", lease(3, Failover::Ttl), (6, 2)),
    ];
    if fast {
        kinds.push(kind(Row::Restart, "fast", lease(10, Failover::Fast), (6, 2)));
    }
    for (row, rules) in
        [(Row::AdvisoryLock, Rules::AdvisoryLock), (Row::TtlRow30s, Rules::TtlRow), (Row::River, Rules::River)]
    {
        kinds.push(kind(row, "changes_on_restart", Elector::Rules(rules), (5, 2)));
    }
    kinds
}

/// `None` is a crash: kill -9 of all its processes.
async fn restart(world: &Arc<World>, how: Option<Stop>) -> Result<()> {
    let stopping = world.clone();
    tokio::task::spawn_blocking(move || match how {
        Some(how) => stopping.server().stop(how),
        None => stopping.server().kill(),
    })
    .await??;
    sleep(AWAY).await;
    let starting = world.clone();
    tokio::task::spawn_blocking(move || starting.server().start_again()).await?
}
