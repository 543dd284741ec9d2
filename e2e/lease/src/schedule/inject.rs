//! How faults of contenders and of the way to the database begin, end, and show that they had an effect.

use std::time::Duration;

use anyhow::{Result, ensure};
use pollux_lease::BootInstant;
use pollux_postgres::Proxy;
use serde_json::json;
use tokio::time::sleep;

use super::{Begun, Calm, DidNotTake, LOOK, RESTARTABLE, Schedule};
use crate::contender::resource;
use crate::network::Direction;
use crate::plan::{Fault, Group, Kind};

const HANDOVER: &str = "pollux.handover(";
const RENEWAL: &str = "pollux.renew(";
const TAKEOVER: &str = "pollux.takeover(";

impl Schedule<'_> {
    /// Begins a fault. What hits the database is over when this returns.
    pub(super) async fn begin(&mut self, fault: &Fault, calm: &Calm) -> Result<Begun> {
        let victim = self.victim(fault, calm);
        let begun = Begun {
            since: BootInstant::now(),
            until: None,
            without: None,
            epoch: calm.epoch,
            victim,
            leader: victim == calm.leader,
            effects: self.effects(fault, victim),
        };
        match fault.kind.group() {
            _ if fault.kind == Kind::ClockBack => {
                let standby = calm.standbys[fault.number % calm.standbys.len()];
                let (since, leader) = self.put_the_clock_back(standby).await?;
                Ok(Begun { since, without: Some(leader), leader: true, ..begun })
            }
            Group::Database | Group::Incarnation => {
                let (since, until) = self.hit_the_database(fault).await?;
                Ok(Begun { since, until, leader: true, ..begun })
            }
            Group::Process => self.hit_a_process(fault, begun).await,
            Group::Network | Group::Proxy => self.hit_the_way(fault, begun).await,
        }
    }

    /// Ends a fault that lasts.
    pub(super) fn end(&mut self, fault: &Fault, begun: &Begun) -> Result<()> {
        match fault.kind {
            Kind::FreezeHalf | Kind::FreezeTtl | Kind::FreezeLong => self.contenders[begun.victim].thaw(),
            Kind::CutIn | Kind::CutOut | Kind::CutBoth => {
                let lost = self.lane.networks[begun.victim].heal()?;
                ensure!(lost > 0, DidNotTake("not a packet was lost".into()));
                Ok(())
            }
            Kind::DatabaseClock => self.lane.server.shift_wall_clock(0),
            _ => {
                self.proxies[begun.victim].heal();
                Ok(())
            }
        }
    }

    /// A fault without effect is none.
    pub(super) async fn check_effect(&mut self, fault: &Fault, begun: &Begun) -> Result<()> {
        match fault.kind {
            Kind::LoseHandover => drop(self.contenders[begun.victim].outcome().await?),
            // Those who did not try must not lose a later one.
            Kind::LoseTakeover => self.proxies.iter().for_each(|proxy| proxy.lose_replies_to(TAKEOVER, 0)),
            _ => {}
        }
        let counted = fault.kind.group() == Group::Proxy;
        ensure!(
            !counted || self.effects(fault, begun.victim) > begun.effects,
            DidNotTake("nothing was held, ended or lost".into())
        );
        Ok(())
    }

    fn victim(&self, fault: &Fault, calm: &Calm) -> usize {
        match fault.kind {
            Kind::Handover | Kind::LoseRenew | Kind::LoseHandover | Kind::LoseTakeover => calm.leader,
            Kind::KillRestart if fault.at_leader && calm.leader < RESTARTABLE => calm.leader,
            Kind::KillRestart => fault.number % RESTARTABLE,
            _ if fault.at_leader => calm.leader,
            _ => calm.standbys[fault.number % calm.standbys.len()],
        }
    }

    /// What counts as an effect of this kind of fault.
    fn effects(&self, fault: &Fault, victim: usize) -> usize {
        match fault.kind {
            Kind::LoseRenew | Kind::LoseHandover => self.proxies[victim].lost(),
            Kind::LoseTakeover => self.proxies.iter().map(Proxy::lost).sum(),
            _ => self.proxies[victim].disturbed(),
        }
    }

    async fn hit_a_process(&mut self, fault: &Fault, begun: Begun) -> Result<Begun> {
        let victim = begun.victim;
        let share = match fault.kind {
            Kind::KillRestart => {
                let next = self.start_again(victim)?;
                return Ok(Begun { since: self.replace(victim, next).await?, ..begun });
            }
            Kind::KillReplace => return self.kill_and_replace(begun).await,
            Kind::Ttl => {
                self.set_ttl(fault).await?;
                return Ok(Begun { leader: true, ..begun });
            }
            Kind::FreezeHalf => 0.5,
            Kind::FreezeTtl => 1.0,
            Kind::FreezeLong => 3.0,
            _ => {
                let leader = &mut self.contenders[victim];
                leader.order_handover().await?;
                let outcome = leader.outcome().await?;
                ensure!(outcome == "to", DidNotTake(format!("the handover's outcome is {outcome:?}")));
                return Ok(Begun { without: Some(victim), ..begun });
            }
        };
        self.contenders[victim].freeze().await?;
        Ok(Begun { until: Some(begun.since + self.longest.mul_f64(share)), without: Some(victim), ..begun })
    }

    async fn hit_the_way(&mut self, fault: &Fault, begun: Begun) -> Result<Begun> {
        let victim = begun.victim;
        let (network, proxy) = (&self.lane.networks[victim], &self.proxies[victim]);
        let until = Some(begun.since + fault.hold);
        match fault.kind {
            Kind::CutIn => network.cut(Direction::Incoming)?,
            Kind::CutOut => network.cut(Direction::Outgoing)?,
            Kind::CutBoth => network.cut(Direction::Both)?,
            Kind::ProxyHang => proxy.hang(),
            Kind::ProxyHangReplies => proxy.hang_replies(),
            Kind::ProxyCut => proxy.cut(),
            Kind::ProxyHalfOpen => {
                proxy.half_open();
                // New connections pass: it may lead all the same.
                return Ok(Begun { until, ..begun });
            }
            Kind::LoseTakeover => {
                self.proxies.iter().for_each(|proxy| proxy.lose_replies_to(TAKEOVER, 1));
                return self.kill_and_replace(begun).await;
            }
            Kind::LoseHandover => {
                proxy.lose_replies_to(HANDOVER, 1);
                self.contenders[victim].order_handover().await?;
                self.await_loss(&begun).await?;
                return Ok(Begun { without: Some(victim), ..begun });
            }
            _ => {
                proxy.lose_replies_to(RENEWAL, 1);
                self.await_loss(&begun).await?;
                return Ok(Begun { since: BootInstant::now(), ..begun });
            }
        }
        Ok(Begun { until, without: Some(victim), ..begun })
    }

    async fn kill_and_replace(&mut self, begun: Begun) -> Result<Begun> {
        let next = self.start_in_a_new_pod(begun.victim)?;
        Ok(Begun { since: self.replace(begun.victim, next).await?, ..begun })
    }

    /// Waits until the reply is lost that is to be lost.
    async fn await_loss(&self, begun: &Begun) -> Result<()> {
        let proxy = &self.proxies[begun.victim];
        while proxy.lost() == begun.effects {
            if BootInstant::now() - begun.since > self.longest * 3 {
                proxy.lose_replies_to(RENEWAL, 0);
                return Err(DidNotTake("no such statement was sent".into()).into());
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    pub(super) const fn failover(&self) -> &'static str {
        if self.fast { "Fast" } else { "Ttl" }
    }

    /// Of a session fence that fits into these TTLs.
    pub(super) async fn put_setting(&mut self, ttl: Duration) -> Result<()> {
        let resource = resource(self.bot);
        let json = json!({
            "leaseDurationSeconds": ttl.as_secs_f64(),
            "failover": self.failover(),
            "fast": {"fenceMilliseconds": 300, "sessionTimeoutMilliseconds": 600},
        });
        let put = format!(
            "SELECT pollux.put_setting('{}', '{}', '{}', {}, NULL, '{json}')",
            resource.cluster,
            resource.namespace,
            resource.name,
            self.samples.len(),
        );
        self.lane.query(&put).await.map(drop)
    }

    async fn set_ttl(&mut self, fault: &Fault) -> Result<()> {
        let ttl = fault.ttl;
        self.longest = self.longest.max(ttl);
        self.put_setting(ttl).await?;
        let written = format!("SELECT FROM pollux.lease WHERE bot_id = {} AND ttl_ms = {}", self.bot, ttl.as_millis());
        let deadline = BootInstant::now() + fault.kind.bound(self.longest);
        while self.lane.query(&written).await?.is_none() {
            ensure!(BootInstant::now() < deadline, "the setting is not in the row: no renewal wrote a TTL of {ttl:?}");
            sleep(LOOK).await;
        }
        Ok(())
    }
}
