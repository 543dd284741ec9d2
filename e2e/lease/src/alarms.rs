//! False alarms: what is not the death of a leader must not look like it.
//!
//! Bots of three modes share one PostgreSQL, and each disturbance hits all of them at once. An agent is a process, two for each
//! bot, as in pods. Before each disturbance everybody is calm, and afterwards it is waited until everybody is calm again: each
//! leader has renewed its lease, and each candidate has seen that. What has not happened by then does not come from it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use pollux_lease_soak::failover::Failover;
use serde_json::json;

use crate::world::{World, about};

mod cgroup;
mod crowd;
mod disturbance;
mod table;

use crowd::{Calm, Crowd};
use disturbance::{Disturbance, Means};
use table::{Cell, Fate, Table};

/// What `alarms` is told.
#[derive(Args, Debug)]
pub(crate) struct Told {
    /// How often each disturbance happens
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How many bots of each mode there are, with two agents each
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=20))]
    bots: u16,
    /// These disturbances only
    #[arg(long, value_delimiter = ',', value_name = "DISTURBANCE,..")]
    only: Vec<Disturbance>,
    /// One round with three bots of each mode, in about a minute: shows that it works
    #[arg(long, conflicts_with_all = ["rounds", "bots"])]
    quick: bool,
}

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    rounds: u32,
    bots: u16,
    /// Of the other table.
    rows: i64,
    /// How long backends are busy.
    busy: Duration,
}

/// Whoever is not calm after this many rounds in a row will not be after more of them.
const GIVE_UP: usize = 3;

pub(crate) async fn alarms(told: Told) -> Result<()> {
    let (begun, size) = (Instant::now(), Size::of(&told));
    let wanted = if told.only.is_empty() { Disturbance::all() } else { told.only };
    // There are no checkpoints but those that are asked for.
    let settings = [
        ("max_connections", "300"),
        ("shared_buffers", "256MB"),
        ("max_wal_size", "4GB"),
        ("checkpoint_timeout", "1d"),
    ];
    let world = World::start(&settings).await?;
    let mut run = Run::start(&world, size).await?;
    let failed = run.all(&wanted, size.rounds, begun).await?;
    let missed = [failed, run.table.missed(&wanted, size.rounds)].concat();
    println!("\n{}\n", run.table.text(&wanted));
    let summary = json!({
        "about": about(&world.client().await?).await?, "seconds": begun.elapsed().as_secs(), "rounds": size.rounds,
        "bots": size.bots, "busy_seconds": size.busy.as_secs(), "deposed": run.table.json(), "missed": missed,
    });
    run.crowd.end().await?;
    println!("{summary}");
    ensure!(missed.is_empty(), "{}", missed.join("\n"));
    Ok(())
}

/// A run under way.
struct Run<'a> {
    world: &'a World,
    crowd: Crowd,
    means: Means,
    table: Table,
    /// How the last round ended, which is how the next one begins.
    calm: Option<Calm>,
}

// === impl Run ===

impl<'a> Run<'a> {
    async fn start(world: &'a World, size: Size) -> Result<Self> {
        let crowd = Crowd::start(world, size.bots).await?;
        let means = Means::prepare(world, &crowd, size).await?;
        Ok(Self { world, crowd, means, table: Table::default(), calm: None })
    }

    /// Round by round each disturbance once. Returns what went wrong besides false alarms.
    async fn all(&mut self, wanted: &[Disturbance], rounds: u32, begun: Instant) -> Result<Vec<String>> {
        let calm = self.crowd.calm().await?.len();
        println!("{calm} bots with two agents each are calm after {} s", begun.elapsed().as_secs());
        let mut possible = Vec::new();
        for disturbance in wanted {
            match self.means.lack(*disturbance) {
                Some(why) => self.table.lacks(*disturbance, why),
                None => possible.push(*disturbance),
            }
        }
        let (mut failed, mut in_a_row) = (Vec::new(), 0);
        for (round, disturbance) in (1..=rounds).flat_map(|round| possible.iter().map(move |d| (round, *d))) {
            let name = format!("{:>4} s round {round:>2} {:<12}", begun.elapsed().as_secs(), disturbance.word());
            match self.round(disturbance).await {
                Ok((what, cells)) => {
                    let counts = cells.iter().map(|(mode, cell)| format!("{} {}", mode.word(), cell.text()));
                    println!("{name} {what}; deposed: {}", counts.collect::<Vec<_>>().join(" | "));
                    self.table.add(disturbance, &cells);
                    in_a_row = 0;
                }
                Err(error) => {
                    println!("{name} FAILED: {error:#}");
                    failed.push(format!("round {round}, {}: {error:#}", disturbance.word()));
                    in_a_row += 1;
                }
            }
            if in_a_row == GIVE_UP {
                break;
            }
        }
        failed.extend(self.crowd.judge().err().map(|violation| format!("{violation:#}")));
        Ok(failed)
    }

    /// From calm to calm: what happened, and what it did to the leaders of each mode.
    async fn round(&mut self, disturbance: Disturbance) -> Result<(String, BTreeMap<Failover, Cell>)> {
        let before = match self.calm.take() {
            Some(calm) => calm,
            None => {
                let calm = self.crowd.calm().await?;
                // What was before is nobody's.
                self.crowd.lapses()?;
                calm
            }
        };
        let what = disturbance.happen(self.world, &mut self.crowd, &before, &self.means).await?;
        let after = self.crowd.calm().await?;
        let cells = self.compare(&before, &after).await?;
        self.calm = Some(after);
        Ok((what, cells))
    }

    async fn compare(&mut self, before: &Calm, after: &Calm) -> Result<BTreeMap<Failover, Cell>> {
        let mut lapses = self.crowd.lapses()?;
        let mut cells = BTreeMap::<Failover, Cell>::new();
        for bot in self.crowd.bots() {
            let epochs = [before, after].map(|calm| calm.get(&bot.number).map_or(0, |(epoch, _)| *epoch));
            let fate = if epochs[0] == epochs[1] {
                Fate::Kept(lapses.remove(&bot.number).unwrap_or_default())
            } else {
                Fate::Deposed(self.crowd.evidence(bot.number, epochs[0]).await?)
            };
            cells.entry(bot.failover).or_default().count(fate);
        }
        Ok(cells)
    }
}

// === impl Size ===

impl Size {
    fn of(told: &Told) -> Self {
        if told.quick {
            return Self { rounds: 1, bots: 3, rows: 100_000, busy: Duration::from_secs(5) };
        }
        Self { rounds: told.rounds, bots: told.bots, rows: 400_000, busy: Duration::from_secs(30) }
    }
}
