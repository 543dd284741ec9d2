//! The database goes back in time: a lost tail of its log, a standby that had not received everything, an older snapshot. In
//! each of them what was committed last is gone, or the fault did not take.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use pollux_lease::BootInstant;
use pollux_postgres::{Proxy, Server};
use tokio::time::sleep;

use super::{DidNotTake, LOOK, Schedule};
use crate::lane::{DATABASE, MARK};
use crate::plan::{Fault, Kind};

/// How long a handover may take to come about.
const PATIENCE: Duration = Duration::from_secs(10);

impl Schedule<'_> {
    /// Returns from when on the database is there again.
    pub(super) async fn go_back(&mut self, fault: &Fault) -> Result<BootInstant> {
        match fault.kind {
            Kind::LostTail => {
                self.lane.server.freeze_log_writer()?;
                self.lane.server.set("synchronous_commit", "off")?;
                let granted = self.grant(fault.hold).await?;
                self.lane.server.kill()?;
                self.come_back(fault.kind, granted, |server| {
                    server.start_again()?;
                    server.set("synchronous_commit", "on")
                })
            }
            Kind::Restore => {
                let snapshot = self.lane.server.snapshot()?;
                let granted = self.grant(fault.hold).await?;
                self.lane.server.kill()?;
                self.come_back(fault.kind, granted, |server| {
                    server.restore(snapshot)?;
                    server.start_again()
                })
            }
            Kind::Failover => {
                let (link, standby) = self.standby()?;
                link.hang();
                self.fail_over(standby, fault.kind, fault.hold).await
            }
            _ => self.fail_over_twice(fault).await,
        }
    }

    /// A dead standby's last beat is of the future. Returns when the leader handed over, and who that was.
    pub(super) async fn put_the_clock_back(&mut self, standby: usize) -> Result<(BootInstant, usize)> {
        self.lane.server.shift_wall_clock(1)?;
        let pod = self.contenders[standby].told.pod().to_owned();
        let beats = format!(
            "SELECT FROM pollux.candidate WHERE bot_id = {} AND pod = '{pod}' AND beat_at > to_timestamp({}) + interval '30 min'",
            self.bot,
            SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs()
        );
        let deadline = BootInstant::now() + PATIENCE;
        while self.lane.query(&beats).await?.is_none() {
            ensure!(BootInstant::now() < deadline, "{pod} does not beat any more");
            sleep(LOOK).await;
        }
        let next = self.start_in_a_new_pod(standby)?;
        self.replace(standby, next).await?;
        self.lane.server.shift_wall_clock(0)?;
        self.let_the_dead_look_dead().await?;
        let leader = self.calm().await?.leader;
        let since = BootInstant::now();
        ensure!(self.handed_over().await?, DidNotTake("nobody hands over".into()));
        Ok((since, leader))
    }

    /// Waits until the beats of all whom earlier faults killed have an age: for so long a handover may rightly go to them.
    async fn let_the_dead_look_dead(&mut self) -> Result<()> {
        let alive: Vec<_> = self.contenders.iter().map(|contender| format!("'{}'", contender.told.pod())).collect();
        let dead = format!(
            "SELECT FROM pollux.candidate WHERE bot_id = {} AND pod NOT IN ({})
                AND abs(extract(epoch FROM clock_timestamp() - beat_at)) < 0.3",
            self.bot,
            alive.join(", ")
        );
        let deadline = BootInstant::now() + PATIENCE;
        while self.lane.query(&dead).await?.is_some() {
            ensure!(BootInstant::now() < deadline, "the dead beat");
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Two standbys of one primary, the second of which never hears of the first one's time: the same timeline twice.
    async fn fail_over_twice(&mut self, fault: &Fault) -> Result<BootInstant> {
        let (link, first) = self.standby()?;
        let (second_link, second) = self.standby()?;
        second_link.hang();
        self.grant(Duration::ZERO).await?;
        first.catch_up_with(&self.lane.server)?;
        link.hang();
        let back = self.fail_over(first, fault.kind, Duration::ZERO).await?;
        let bound = fault.kind.bound(self.longest);
        while self.leader(None, back).is_none() {
            ensure!(BootInstant::now() - back < bound, "nobody leads {bound:?} after the first failover");
            sleep(LOOK).await;
        }
        self.note(format!("somebody leads {} ms after the first failover", (BootInstant::now() - back).as_millis()));
        self.fail_over(second, fault.kind, fault.hold).await
    }

    /// A standby that has everything so far, and the proxy by which it receives more.
    fn standby(&self) -> Result<(Proxy, Server)> {
        let primary = &self.lane.server;
        let link = Proxy::start(primary.port())?;
        let standby = primary.standby(link.port())?;
        standby.catch_up_with(primary)?;
        Ok((link, standby))
    }

    /// An epoch is granted that the standby does not receive, the primary dies for good, and the standby takes its place.
    async fn fail_over(&mut self, standby: Server, kind: Kind, hold: Duration) -> Result<BootInstant> {
        let granted = self.grant(hold).await?;
        self.lane.server.kill()?;
        self.lane.server = standby;
        self.come_back(kind, granted, Server::promote)
    }

    /// Brings the database up, and lets nobody in before it is certain that it has gone back.
    fn come_back(&mut self, kind: Kind, granted: i64, up: impl FnOnce(&Server) -> Result<()>) -> Result<BootInstant> {
        self.proxies.iter().for_each(Proxy::cut);
        up(&self.lane.server)?;
        let known = format!("SELECT coalesce(max(epoch), 0) FROM pollux.lease WHERE bot_id = {}", self.bot);
        let known: i64 = self.lane.server.ask(DATABASE, &known)?.parse()?;
        let mark = format!("SELECT count(*) FROM {MARK} WHERE bot = {} AND epoch = {granted}", self.bot);
        let forgotten = self.lane.server.ask(DATABASE, &mark)? == "0";
        for proxy in &self.proxies {
            proxy.retarget(self.lane.server.port());
            proxy.heal();
        }
        let back = BootInstant::now();
        self.note(format!("epoch {granted} was granted, the row is at {known}"));
        ensure!(kind != Kind::LostTail || known >= granted, "epoch {granted} was granted, and is lost");
        // Without a standby or a snapshot it is up to the lease what may be lost: nothing that a fence rests on.
        let went_back = forgotten && (known < granted || kind == Kind::LostTail);
        ensure!(went_back, DidNotTake(format!("epoch {granted} is still known")));
        Ok(back)
    }

    /// Whoever leads hands over, so that an epoch begins, which lasts for a while; then this is the last one granted.
    async fn grant(&mut self, hold: Duration) -> Result<i64> {
        let deadline = BootInstant::now() + PATIENCE;
        while !self.handed_over().await? {
            ensure!(BootInstant::now() < deadline, DidNotTake("nobody hands over".into()));
            sleep(LOOK).await;
        }
        sleep(hold).await;
        let row = self.lane.query(&format!("SELECT epoch FROM pollux.lease WHERE bot_id = {}", self.bot)).await?;
        let granted: i64 = row.context("the lease has no row")?.get(0);
        self.lane.query(&format!("INSERT INTO {MARK} VALUES ({}, {granted})", self.bot)).await?;
        Ok(granted)
    }

    async fn handed_over(&mut self) -> Result<bool> {
        let Some(leader) = self.leader(None, BootInstant::ZERO) else { return Ok(false) };
        let leader = &mut self.contenders[leader];
        leader.order_handover().await?;
        Ok(leader.outcome().await? == "to")
    }
}
