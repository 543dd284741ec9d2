//! One election, and what happens to its leaders, one after the other.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use pollux_clock::BootInstant;
use pollux_postgres::Proxy;
use tokio::time::sleep;

use crate::contender::{Contender, Said};
use crate::elector::{Elector, Fault, Way};
use crate::figure::{Figure, Sample};
use crate::world::{Election, World};

/// What a standby needs before it counts: a first look at the row, a first try for the lock.
const SETTLED: Duration = Duration::from_millis(700);

/// A leader and a standby.
pub(crate) struct Lane {
    world: Arc<World>,
    election: Election,
    holder: Member,
    standby: Member,
    started: usize,
    needless: usize,
}

/// A contender.
pub(crate) struct Member {
    pub(crate) contender: Contender,
    /// Its own way to the database, where it has one.
    proxy: Option<Proxy>,
}

// === impl Lane ===

impl Lane {
    /// Starts both.
    pub(crate) async fn open(world: Arc<World>, elector: Elector, way: Way) -> Result<Self> {
        let election = world.election(elector, way).await?;
        let mut holder = Member::start(&world, &election, 1)?;
        holder.contender.leads().await?;
        world.established(&election).await?;
        // Processes that start together would look together for ever: the leader always a little before the standby.
        sleep(elector.cycle().mul_f64(rand::random_range(0.0..1.0))).await;
        let mut standby = Member::start(&world, &election, 2)?;
        standby.contender.follows().await?;
        Ok(Self { world, election, holder, standby, started: 2, needless: 0 })
    }

    /// How often the leader changed though nothing had happened to it.
    pub(crate) const fn needless(&self) -> usize {
        self.needless
    }

    pub(crate) async fn samples(&mut self, fault: Fault, count: usize) -> Result<Figure> {
        let mut figure = Figure::default();
        for _ in 0..count {
            figure.push(self.sample(fault).await.with_context(|| format!("{}, {fault:?}", self.election.name()))?);
        }
        Ok(figure)
    }

    /// Whether another one leads than before, and for how long nobody did. Somebody must, in the end.
    pub(crate) async fn has_changed(&mut self) -> Result<(bool, Duration)> {
        let said = self.holder.contender.unheard();
        let stood = said.iter().find_map(|said| said.stands());
        let silence = |led: BootInstant| stood.map_or(Duration::ZERO, |stood| led.saturating_since(stood));
        if let Some(led) = self.standby.contender.unheard().iter().find_map(|said| said.leads()) {
            return Ok((true, silence(led)));
        }
        if said.last().is_none_or(|said| said.leads().is_some()) {
            return Ok((false, said.last().and_then(|said| said.leads()).map_or(Duration::ZERO, silence)));
        }
        tokio::select! {
            led = self.holder.contender.leads() => led.map(|led| (false, silence(led))),
            led = self.standby.contender.leads() => led.map(|led| (true, silence(led))),
        }
    }

    /// From what happens to the leader to the moment at which the standby leads.
    async fn sample(&mut self, fault: Fault) -> Result<Sample> {
        self.settle().await?;
        let at = self.strike(fault).await?;
        let patience = self.world.patience();
        let led = self.standby.contender.hear(patience, Said::leads).await?;
        // A frozen one would go on some day, and what it holds would be held for as long.
        self.holder.contender.kill().await;
        if led.is_none() {
            self.standby.contender.leads().await?;
        }
        self.replace().await?;
        Ok(led.map_or(Sample::Never(patience), |led| Sample::Took(led - at)))
    }

    /// Waits for a moment that has nothing to do with when anybody last renewed.
    async fn settle(&mut self) -> Result<()> {
        loop {
            sleep(SETTLED + self.election.elector().cycle().mul_f64(rand::random_range(0.0..1.0))).await;
            if !self.standby.contender.unheard().iter().any(|said| said.leads().is_some()) {
                return Ok(());
            }
            self.needless += 1;
            self.holder.contender.kill().await;
            self.replace().await?;
        }
    }

    async fn strike(&mut self, fault: Fault) -> Result<BootInstant> {
        let holder = &mut self.holder;
        match fault {
            Fault::Give => Ok(holder.contender.give().await?.0),
            Fault::Kill => Ok(holder.contender.kill().await),
            Fault::Stop => holder.contender.freeze(),
            Fault::Hole => {
                let proxy = holder.proxy.as_ref().context("only a proxy can swallow what passes")?;
                let at = BootInstant::now();
                proxy.hang();
                Ok(at)
            }
        }
    }

    /// The standby leads: somebody else stands by.
    async fn replace(&mut self) -> Result<()> {
        self.world.established(&self.election).await?;
        self.started += 1;
        // Or it would look in step with the new leader, as in [`Lane::open`].
        sleep(self.election.elector().cycle().mul_f64(rand::random_range(0.0..1.0))).await;
        let mut next = Member::start(&self.world, &self.election, self.started)?;
        next.contender.follows().await?;
        self.holder = std::mem::replace(&mut self.standby, next);
        Ok(())
    }
}

// === impl Member ===

impl Member {
    pub(crate) fn start(world: &World, election: &Election, number: usize) -> Result<Self> {
        let proxy = (election.way() == Way::Proxy).then(|| Proxy::start(world.port())).transpose()?;
        let port = match (&proxy, election.way()) {
            (Some(proxy), _) => proxy.port(),
            (None, Way::Pooler) => world.pooler_port()?,
            (None, _) => world.port(),
        };
        let me = format!("{}-{number}", election.name());
        let words = world.words(election, &me, port)?;
        let log = world.log(&me);
        Ok(Self { contender: Contender::start(me, &words, log)?, proxy })
    }
}
