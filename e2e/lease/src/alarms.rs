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
    let (mut table, mut failed) = (Table::default(), Vec::new());
    let calm = run.crowd.calm().await?.len();
    println!("{calm} bots with two agents each are calm after {} s", begun.elapsed().as_secs());
    for disturbance in &wanted {
        if let Some(why) = run.means.lack(*disturbance) {
            table.lacks(*disturbance, why);
        }
    }
    for (round, disturbance) in (1..=size.rounds).flat_map(|round| wanted.iter().map(move |d| (round, *d))) {
        if run.means.lack(disturbance).is_some() {
            continue;
        }
        let name = format!("{:>4} s round {round:>2} {:<12}", begun.elapsed().as_secs(), disturbance.word());
        match run.round(disturbance).await {
            Ok((what, cells)) => {
                let cells_text = cells.iter().map(|(mode, cell)| format!("{} {}", mode.word(), cell.text()));
                println!("{name} {what}; deposed: {}", cells_text.collect::<Vec<_>>().join(" | "));
                table.add(disturbance, &cells);
            }
            Err(error) => {
                println!("{name} FAILED: {error:#}");
                failed.push(format!("round {round}, {}: {error:#}", disturbance.word()));
            }
        }
    }
    failed.extend(run.crowd.judge().err().map(|violation| format!("{violation:#}")));
    let about = about(&run.client).await?;
    run.crowd.end().await?;
    failed.extend(table.missed(&wanted, size.rounds));
    println!("\n{}\n", table.text(&wanted));
    let summary = json!({
        "about": about, "seconds": begun.elapsed().as_secs(), "rounds": size.rounds, "bots": size.bots,
        "busy_seconds": size.busy.as_secs(), "deposed": table.json(), "missed": failed,
    });
    println!("{summary}");
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// A run under way.
struct Run<'a> {
    world: &'a World,
    crowd: Crowd,
    means: Means,
    client: tokio_postgres::Client,
    /// How the last round ended, which is how the next one begins.
    calm: Option<Calm>,
}

// === impl Run ===

impl<'a> Run<'a> {
    async fn start(world: &'a World, size: Size) -> Result<Self> {
        let crowd = Crowd::start(world, size.bots).await?;
        let means = Means::prepare(world, &crowd, size).await?;
        Ok(Self { world, crowd, means, client: world.client().await?, calm: None })
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
