//! Planned handovers of the lease beside the floor, in turns: the ratio is of one run, and of the same minutes of it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::sleep;

use crate::contend::Rules;
use crate::elector::{Elector, Failover, Way};
use crate::figure::{Figure, Sample};
use crate::lane::Member;
use crate::world::{Election, World};

/// How long a drain takes at least: the candidates have been asked for beats for that long. A bot with a request under way
/// needs more.
const DRAIN: Duration = Duration::from_millis(400);

/// What was measured.
#[derive(Debug, Default)]
pub(crate) struct Handovers {
    /// Order sent → the successor may poll.
    pub(crate) lease: Figure,
    /// Commit sent → the row is read by who was notified.
    pub(crate) floor: Figure,
    /// How many leases were released to nobody instead of being given to the successor.
    pub(crate) released: usize,
}

/// Two that give to each other.
struct Pair([Member; 2]);

pub(crate) async fn measure(world: &Arc<World>, count: usize) -> Result<Handovers> {
    let lease = Elector::lease(Elector::TTL, Failover::Ttl);
    let mut lease = Pair::open(world, &world.election(lease, Way::Direct).await?).await?;
    let mut bare = Pair::open(world, &world.election(Elector::Rules(Rules::Bare), Way::Direct).await?).await?;
    let mut found = Handovers::default();
    for number in 0..count {
        found.floor.extend(bare.pass().await.context("the floor")?);
        lease.0[0].contender.tell("expect").await?;
        sleep(DRAIN.mul_f64(rand::random_range(1.0..1.5))).await;
        let passed = lease.pass().await.with_context(|| format!("handover {number}"))?;
        found.released += usize::from(passed.is_empty());
        found.lease.extend(passed);
        // The new leader's first renewal is no part of the floor.
        sleep(DRAIN / 4).await;
    }
    Ok(found)
}

// === impl Pair ===

impl Pair {
    async fn open(world: &World, election: &Election) -> Result<Self> {
        let mut holder = Member::start(world, election, 1)?;
        holder.contender.leads().await?;
        let mut standby = Member::start(world, election, 2)?;
        standby.contender.follows().await?;
        Ok(Self([holder, standby]))
    }

    /// No figure if the leader found nobody to give to: then the first to come leads.
    async fn pass(&mut self) -> Result<Figure> {
        let mut figure = Figure::default();
        let [holder, standby] = &mut self.0;
        let (at, named) = holder.contender.give().await?;
        if named {
            figure.push(Sample::Took(standby.contender.leads().await? - at));
        } else {
            tokio::select! {
                led = holder.contender.leads() => {
                    led?;
                    return Ok(figure);
                }
                led = standby.contender.leads() => led?,
            };
        }
        holder.contender.follows().await?;
        self.0.reverse();
        Ok(figure)
    }
}
