//! Carries facts between the lease and the gate, which know nothing of each other.
//!
//! | from | to |
//! | --- | --- |
//! | lease: this process leads, until this fence | gate: pass polls on, until this fence |
//! | lease: hot settings | gate: all that [`crate::settings`] reads of them (the lease reads its TTL itself) |
//! | gate: the bot has a poll open (R14) | lease: this replica may lead |
//! | gate: first poll of this leadership | lease: the end of the gap, for the log of handovers |
//! | gate: bot, token, webhook, foreign poller, what was not passed on | lease: the report, when it changes |
//! | gate: another token was read | lease: its digest |
//! | gate: the bot may be dead | lease: look for a successor already |
//! | gate: the bot is not there ([`crate::absence`]) | lease: hand over, if somebody else is ready |
//! | lease: somebody asks for a handover ([`crate::directed`]) | gate: drain; then the lease |
//! | lease: nobody has led before | gate: this is a cold start (R17) |
//!
//! Nothing here waits for PostgreSQL or for Telegram: news of the lease must reach the gate at once.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use pollux_clock::BootInstant;
use pollux_gate::{Drained, Event, Leadership, Status};
use pollux_lease::{Evidence, HandOver, HandedOver, Lease, Reason, Role, Takeover, TokenDigest, View};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, error, info, warn};

use crate::absence::{AGAIN, Absence, Facts, Why};
use crate::app::App;
use crate::bot::Bot;
use crate::config::Config;
use crate::directed::{self, Directed};
use crate::health;
use crate::metrics::To;
use crate::report::{Record, Report, Rival};
use crate::settings::HotSettings;

/// Time to live of a lease as long as no setting says otherwise.
pub const DEFAULT_TTL: Duration = Duration::from_secs(10);

/// The state of what has been carried over so far.
#[derive(Debug)]
pub struct Glue {
    bot: Bot,
    lease: Lease,
    app: App,
    /// The gate's settings without any hot one.
    settings: pollux_gate::Settings,
    /// The hot settings in force.
    hot: Option<serde_json::Value>,
    /// The epoch that this replica led under when last looked at.
    epoch: Option<i64>,
    report: Option<Report>,
    rival: Rival,
    record: Record,
    /// Methods whose calls were not passed on, or not as they were made.
    suppressed: BTreeSet<String>,
    digest: TokenDigest,
    absence: Absence,
    directed: Directed,
    /// The bot may be dead.
    missing: bool,
    /// A bot's absence, or a request, made this replica give its lease away; what became of it comes back here.
    given: (mpsc::UnboundedSender<Given>, mpsc::UnboundedReceiver<Given>),
    giving: bool,
    /// Why this replica last ceased to lead by its own doing.
    gave: Option<&'static str>,
}

#[derive(Debug)]
struct Given {
    trigger: &'static str,
    epoch: Option<i64>,
    /// Nothing where there was nothing to finish.
    drained: Option<Drained>,
    switch: Duration,
    to: HandedOver,
}

/// What the gate starts with.
pub fn gate_settings(config: &Config) -> pollux_gate::Settings {
    pollux_gate::Settings {
        drain_timeout: config.drain_timeout,
        late_request_window: DEFAULT_TTL,
        ..pollux_gate::Settings::default()
    }
}

/// Whether a bot that wants no old updates need not get them (R17). Who led for the last time, and when, only the lease knows.
fn cold(takeover: &Takeover) -> bool {
    takeover.evidence == Evidence::Free && takeover.from.is_none()
}

/// What the lease allows the gate.
pub fn leadership(role: &Role) -> Leadership {
    match *role {
        Role::Standby => Leadership::Standby,
        Role::Leader { epoch, fence, .. } => Leadership::Leader { epoch, fence },
    }
}

// === impl Glue ===

impl Glue {
    /// Joins the two.
    pub fn new(app: App, bot: Bot, lease: Lease, settings: pollux_gate::Settings) -> Self {
        let digest = TokenDigest::of(bot.gate().token().expose());
        Self {
            bot,
            lease,
            app,
            settings,
            hot: None,
            epoch: None,
            report: None,
            rival: Rival::default(),
            record: Record::default(),
            suppressed: BTreeSet::new(),
            digest,
            absence: Absence::default(),
            directed: Directed::default(),
            missing: false,
            given: mpsc::unbounded_channel(),
            giving: false,
            gave: None,
        }
    }

    /// Carries until it is dropped.
    pub async fn run(mut self) {
        let (mut view, mut status, mut events) = (self.lease.view(), self.bot.status(), self.bot.events());
        let mut look = interval(AGAIN);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        view.mark_changed();
        status.mark_changed();
        loop {
            tokio::select! {
                biased;
                changed = view.changed() => match changed {
                    Ok(()) => { let view = view.borrow_and_update().clone(); self.viewed(&view) }
                    Err(_) => return,
                },
                changed = status.changed() => match changed {
                    Ok(()) => { let status = status.borrow_and_update().clone(); self.observed(&status) }
                    Err(_) => return,
                },
                event = events.recv() => match event {
                    Ok(event) => self.happened(&event),
                    Err(RecvError::Lagged(missed)) => warn!(missed, "events of the gate were missed"),
                    Err(RecvError::Closed) => return,
                },
                Some(given) = self.given.1.recv() => self.given_away(given),
                _ = look.tick() => self.notice_token(),
            }
            let (view, status) = (view.borrow().clone(), status.borrow().clone());
            self.tell(&status);
            self.mind_the_bot(&view, &status);
            self.obey(&view);
        }
    }

    fn viewed(&mut self, view: &View) {
        let epoch = view.role.epoch();
        if let Some(takeover) =
            view.takeover.as_ref().filter(|t| epoch != self.epoch && epoch == Some(t.epoch) && cold(t))
        {
            self.bot.cold_start(takeover.epoch);
        }
        self.bot.set_leadership(leadership(&view.role));
        self.apply_settings(view);
        if epoch == self.epoch {
            return;
        }
        if self.epoch.is_some() {
            self.ceased(view);
        }
        self.epoch = epoch;
        if let (Some(_), Some(takeover)) = (epoch, &view.takeover) {
            self.began(takeover);
        }
    }

    fn began(&self, takeover: &Takeover) {
        self.app.metrics().transition(To::leader, takeover.evidence.as_str());
        if matches!(takeover.evidence, Evidence::Ttl | Evidence::Pod) {
            self.app.metrics().took_over(takeover.evidence.as_str());
        }
        self.app.has_changed_leader(health::Takeover {
            at: Timestamp::now() - BootInstant::now().saturating_since(takeover.at),
            from: takeover.from.clone(),
            to: Some(self.app.identity().pod.clone()),
            epoch: Some(takeover.epoch),
            reason: takeover.evidence.as_str().to_owned(),
        });
        debug!(epoch = takeover.epoch, "the lease is held");
    }

    fn ceased(&mut self, view: &View) {
        let drained = self.app.drain().begun().then_some(Reason::PodDeleted.as_str());
        let reason = match drained.or(self.gave.take()) {
            Some(reason) => reason,
            None if view.database.is_up() => Reason::Fenced.as_str(),
            None => Reason::LeaseExpired.as_str(),
        };
        self.app.metrics().transition(To::standby, reason);
        let holder = view.holder.as_ref().filter(|holder| !holder.me);
        self.app.has_changed_leader(health::Takeover {
            at: Timestamp::now(),
            from: Some(self.app.identity().pod.clone()),
            to: holder.map(|holder| holder.pod.clone()),
            epoch: holder.map(|_| view.epoch),
            reason: reason.to_owned(),
        });
        if reason == Reason::LeaseExpired.as_str() {
            warn!(
                epoch = self.epoch,
                database = view.database.error(),
                "this leader stopped at its fence: the lease database has not answered; the bot waits as behind a standby"
            );
        } else {
            info!(epoch = self.epoch, reason, to = holder.map(|h| h.pod.as_str()), "this replica stands by");
        }
    }

    fn apply_settings(&mut self, view: &View) {
        // Not their generation: a newer controller writes more of the same one.
        let json = view.settings.as_ref().map(|s| &s.json);
        if json == self.hot.as_ref() {
            return;
        }
        self.hot = json.cloned();
        let generation = view.settings.as_ref().map(|s| s.generation);
        let hot = json.map(HotSettings::read).unwrap_or_default();
        info!(generation, ?hot, "settings");
        self.bot.set_settings(hot.over(&self.settings));
    }

    fn observed(&mut self, status: &Status) {
        self.lease.set_ready(status.bot_polling);
        // A drain expects a handover whatever becomes of the bot.
        if self.missing != status.bot_missing && !self.app.drain().begun() {
            self.lease.expect_handover(status.bot_missing);
        }
        self.missing = status.bot_missing;
    }

    /// What the controller shows.
    fn tell(&mut self, status: &Status) {
        let foreign_poller = self.rival.look(status.foreign_conflicts, Timestamp::now());
        let calls = self.record.look(self.bot.gate().calls());
        let report = Report::new(self.bot.gate().bot_id(), status, foreign_poller, calls, &self.suppressed);
        if self.report.as_ref() != Some(&report) {
            self.lease.set_report(serde_json::json!(report));
            self.report = Some(report);
        }
    }

    fn happened(&mut self, event: &Event) {
        match event {
            Event::FirstPoll { epoch, at } => self.first_poll(*epoch, *at),
            Event::BotGone => warn!("the bot's process is gone: all its connections were closed"),
            Event::BotBack => info!("the bot's process is back"),
            Event::BotDeaf => {
                warn!("the bot asks for nothing any more; it may not lead until it does")
            }
            Event::LateRequest => {
                warn!("one late request of a paused predecessor took the polling session; it was taken back");
            }
            Event::ForeignPoller => error!(
                "somebody else polls with this token: a pod without a gate, a developer's machine, or a leaked token; \
                 stop it, or revoke the token at @BotFather"
            ),
            Event::TokenRejected => {
                error!("Telegram rejects the token: put the right one into the Secret; nothing needs to be restarted")
            }
            Event::Suppressed { method } => {
                // A library may repeat it with each of its retries; the controller makes one event of it.
                let first = self.suppressed.insert((*method).to_owned());
                if first {
                    warn!(method, "a call of the bot was not passed on, or not as it was made");
                }
            }
            other => info!(event = ?other, "gate"),
        }
    }

    /// The successor's line about a change of leader: from here on somebody polls again.
    fn first_poll(&self, epoch: i64, at: BootInstant) {
        self.lease.first_poll(at);
        let takeover = self.lease.view().borrow().takeover.clone().filter(|t| t.epoch == epoch);
        info!(
            pod = %self.app.identity().pod,
            epoch,
            from = takeover.as_ref().and_then(|t| t.from.as_deref()),
            evidence = takeover.as_ref().map(|t| t.evidence.as_str()),
            first_poll_ms = takeover.as_ref().map(|t| ms(at.saturating_since(t.at))),
            "took over"
        );
    }

    /// The gate looks at the token's file; the lease must know the digest of what it uses.
    fn notice_token(&mut self) {
        let digest = TokenDigest::of(self.bot.gate().token().expose());
        if digest != self.digest {
            info!("the token was changed");
            self.lease.set_token_digest(digest);
            self.digest = digest;
        }
    }

    fn mind_the_bot(&mut self, view: &View, status: &Status) {
        let leading_since = match view.role {
            Role::Leader { since, .. } => Some(since),
            Role::Standby => None,
        };
        let facts = Facts { leading_since, alive: status.bot_alive, polling: status.bot_polling, deaf: status.deaf };
        let leaving = self.app.drain().begun();
        let Some(why) = self.absence.look(facts, view.successor.is_some(), BootInstant::now()) else {
            return;
        };
        if leaving || self.giving {
            return;
        }
        self.giving = true;
        self.gave = Some(why.as_str());
        let (bot, lease, told, epoch) = (self.bot.clone(), self.lease.clone(), self.given.0.clone(), view.role.epoch());
        tokio::spawn(async move {
            let taken_back = bot.abandon().await;
            let reason = match why {
                Why::BotGone | Why::BotAbsent => Reason::BotGone,
                Why::BotDeaf => Reason::BotDeaf,
            };
            let began = BootInstant::now();
            let order = HandOver { only_to_successor: true, ..HandOver::new(reason) };
            let to = lease.hand_over(order).await;
            if taken_back && !matches!(to, HandedOver::To { .. } | HandedOver::Released) {
                bot.resume();
            }
            let switch = BootInstant::now() - began;
            let _ = told.send(Given { trigger: why.as_str(), epoch, drained: None, switch, to });
        });
    }

    /// A handover that somebody asked for.
    fn obey(&mut self, view: &View) {
        if self.giving || self.app.drain().begun() {
            return;
        }
        let Some(to_pod) = self.directed.look(view, &self.app.identity().pod, BootInstant::now()) else {
            return;
        };
        info!(to = to_pod, "a handover was asked for");
        self.giving = true;
        let trigger = Reason::Manual.as_str();
        self.gave = Some(trigger);
        let (bot, lease, told, epoch) = (self.bot.clone(), self.lease.clone(), self.given.0.clone(), view.role.epoch());
        tokio::spawn(async move {
            let (drained, to, switch) = directed::hand_over(&bot, &lease, to_pod).await;
            let _ = told.send(Given { trigger, epoch, drained: Some(drained), switch, to });
        });
    }

    fn given_away(&mut self, given: Given) {
        self.giving = false;
        let Given { trigger, epoch, drained, switch, to } = given;
        let drained = drained.as_ref();
        if let Some(drained) = drained {
            self.app.metrics().drained(drained.outcome.as_str(), drained.duration);
            // The drain of a pod that ends expects one on.
            if !self.app.drain().begun() {
                self.lease.expect_handover(false);
            }
        }
        let from = self.app.identity().pod.as_str();
        match to {
            HandedOver::To { pod, epoch: new_epoch } => {
                self.app.metrics().switched(switch);
                info!(
                    from,
                    to = pod,
                    epoch,
                    new_epoch,
                    trigger,
                    drain = drained.map_or("none", |d| d.outcome.as_str()),
                    drain_ms = drained.map(|d| ms(d.duration)),
                    switch_ms = ms(switch),
                    unacknowledged = drained.map(|d| d.unacknowledged),
                    owed = drained.map(|d| d.owed),
                    confirmed = drained.map(|d| d.confirmed),
                    "handed over"
                );
            }
            HandedOver::Kept if drained.is_none() => {
                self.gave = None;
                debug!(trigger, "the bot is not there, and nobody else is ready");
            }
            other => {
                self.gave = self.gave.take().filter(|_| other != HandedOver::Kept);
                warn!(from, epoch, trigger, outcome = ?other, "not handed over")
            }
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_gets_the_fence_of_the_lease_and_not_a_later_one() {
        let fence = BootInstant::from_boot(Duration::from_secs(9));
        let role = Role::Leader { epoch: 7, fence, since: BootInstant::ZERO };
        assert_eq!(leadership(&role), Leadership::Leader { epoch: 7, fence });
        assert_eq!(leadership(&Role::Standby), Leadership::Standby);
    }
}
