//! The protocol: a pure state machine. Events go in with the reading of the clock, actions come out; nothing here waits,
//! connects or looks at a clock. This page is the specification, and the code uses its words.
//!
//! # The row
//!
//! One row per bot: `epoch`, `renew_seq`, `ttl`, `holder`. Every statement is one transaction that compares before it sets,
//! and answers with the row as it is then. At most one statement is under way; a statement whose answer did not come in time
//! is given up together with its connection, and from then on **may be carried out at any later moment**.
//!
//! # The holder
//!
//! * *Fence.* A leader may act until `sent + ttl − margin`, where `sent` is the reading of the clock before its last confirmed
//!   renewal (or acquisition) was sent and `ttl` is what that statement wrote. Others may take over when they have seen the
//!   row unchanged for its `ttl`, which cannot begin before the statement was carried out, hence not before `sent`. The
//!   margin covers clocks that run at different speeds (I1, I4).
//! * A renewal that writes a **shorter** TTL may be carried out without its answer arriving, so the fence is brought
//!   forward when it is sent.
//! * `renew` compares `renew_seq` too: a renewal that was given up can then not be carried out after a later one and bring
//!   its older TTL back.
//! * Renewals go out every fifth of the TTL. At the fence the leader becomes a standby that tries to renew: if nobody has
//!   taken over it leads on under the same epoch (I10).
//! * A row that shows another holder or another epoch ends leadership at once (I5).
//!
//! # Becoming the holder
//!
//! Only a candidate: its bot is ready (R14), its pod does not end, it has its pod's file lock (if there is one), and its
//! revision is eligible.
//!
//! * *free*: nobody holds the lease. `acquire`.
//! * *ttl*: `(epoch, renew_seq)` was seen unchanged for `ttl` and a little more, on our own clock, from the moment at which
//!   the answer that first showed it **arrived**. After an outage of the database the holder is given a moment to
//!   renew, because everybody's renewals failed. `takeover`, which compares both numbers (I8).
//! * *pod*: the holder was an earlier process of our own pod, whose file lock we have: it is dead. `takeover` at once; a process
//!   that is not ready only vacates the lease, so that a ready one elsewhere need not wait for the TTL.
//! * *handover*: the row names us. The first fence is dated from the moment before our beat `grant_beat` was sent: that beat
//!   was seen by the old leader before it handed over. If we cannot lead (any more), we hand on at once.
//! * *retake*: the row names us under an epoch that we have given up (below) and the order did not come through: `takeover`
//!   from ourselves, because a new epoch makes the old order void.
//!
//! Each of them raises the epoch by compare-and-set (I2, I3). A candidate of the second choice (by the order of `eligible`, or
//! of another resource) waits a little first.
//!
//! # Handing over
//!
//! From the moment at which `handover` or `release` is **sent**, this process never acts under that epoch again, whatever the
//! answer (I7): the order may be carried out late. The successor needs a beat younger than 300 ms, so candidates are asked for
//! frequent beats when a drain begins, or when the bot may be dead; if none is fresh they are asked now, and the order is repeated for half a second
//! before the lease is released instead. With `only_to_successor` nothing is sent before a fresh successor was seen.
//!
//! # Looking
//!
//! A notification means: look. It carries nothing. Who gets none looks at least every tenth of the TTL, or every
//! second, by its beat.

use std::collections::VecDeque;
use std::time::Duration;

use pollux_clock::BootInstant;
use serde_json::Value;

use crate::view::{DatabaseState, Evidence, HandOver, Holder, Reason, Role, Settings, Takeover, View};

mod beats;
mod candidate;
mod connection;
mod fast;
mod giving;
mod incarnation;
mod next;
mod rules;
mod types;

#[cfg(test)]
mod against_sql;
#[cfg(test)]
mod model;
#[cfg(test)]
mod server;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use beats::Beats;
use fast::Lane;
use giving::Giving;
use rules::{Rule, Timing};
#[cfg(test)]
use types::Around;
pub(crate) use types::{Action, Answer, Ask, Call, Event, Known, Me, Row, Sign, Statement, Told};
use types::{Heir, Otherwise};

/// How often candidates beat while a handover is expected.
const QUICK_BEAT: Duration = Duration::from_millis(150);
/// How often they beat where no notification arrives.
const BLIND_BEAT: Duration = Duration::from_millis(250);
/// How long a candidate of the second choice lets the first choice go ahead.
const PRECEDENCE: Duration = Duration::from_millis(150);
/// How much later than everybody else a holder that lives may hear that the server is back: it tries every 750 ms at the latest.
const HOLDERS_RETURN: Duration = Duration::from_secs(1);
/// Shortest time that a holder gets to renew after an outage of the way to the database.
const AFTER_OUTAGE: Duration = Duration::from_secs(2);

/// One bot's lease, as one process keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Core {
    me: Me,
    default_ttl: Duration,
    timing: Timing,
    #[cfg(test)]
    without: Option<Rule>,
    // what the agent says
    ready: bool,
    locked: bool,
    leaving: Option<i64>,
    report: Value,
    expecting: bool,
    ending: bool,
    /// How many tokens are to be changed to, one after the other.
    rotations: u32,
    // the connection
    connected: bool,
    wakes: bool,
    database: DatabaseState,
    outage: bool,
    no_takeover_before: BootInstant,
    in_flight: Option<(Statement, BootInstant)>,
    hold_off: Option<(BootInstant, Duration)>,
    // what was read
    known: Known,
    /// The row may have been forgotten, and we cannot tell: until then nobody takes it.
    doubt: Option<BootInstant>,
    /// No fence of a row that we have seen ends after this.
    fences_end: BootInstant,
    row: Option<Row>,
    registered: bool,
    settings: Option<Settings>,
    request: Option<crate::view::Request>,
    heir: Option<Heir>,
    former_pod: String,
    last_answer: Option<BootInstant>,
    observed: Option<candidate::Observed>,
    // leadership
    lead: Option<Lead>,
    /// The last fence that was confirmed, also of an epoch that was given up since.
    confirmed: Option<Lead>,
    led: Option<(i64, BootInstant)>,
    /// Nothing is done any more under this epoch and those before it.
    ended: i64,
    /// The last epoch under which an order that gives the lease away was sent.
    ordered: i64,
    renew_at: BootInstant,
    takeover: Option<Takeover>,
    giving: Option<Giving>,
    /// Ends of gaps that the log has not been told of, by the epoch that began: our last poll as the one before, or our first.
    gaps: VecDeque<(i64, BootInstant)>,
    /// The epoch whose first poll is awaited.
    began: Option<i64>,
    // signs of life
    beats: Beats,
    lane: Lane,
    woken: bool,
    wake_at: Option<BootInstant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Lead {
    epoch: i64,
    fence: BootInstant,
}

// === impl Core ===

impl Core {
    pub(crate) fn new(me: Me, default_ttl: Duration) -> Self {
        Self {
            // Where there is no file to lock there is nothing to wait for.
            locked: !me.file_lock,
            me,
            default_ttl,
            timing: Timing::PRODUCTION,
            #[cfg(test)]
            without: None,
            ready: false,
            leaving: None,
            report: Value::Object(serde_json::Map::new()),
            expecting: false,
            ending: false,
            rotations: 0,
            connected: false,
            wakes: false,
            database: DatabaseState::Connecting,
            outage: false,
            no_takeover_before: BootInstant::ZERO,
            in_flight: None,
            hold_off: None,
            known: Known::default(),
            doubt: None,
            fences_end: BootInstant::ZERO,
            row: None,
            registered: false,
            settings: None,
            request: None,
            heir: None,
            former_pod: String::new(),
            last_answer: None,
            observed: None,
            lead: None,
            confirmed: None,
            led: None,
            ended: 0,
            ordered: 0,
            renew_at: BootInstant::ZERO,
            takeover: None,
            giving: None,
            gaps: VecDeque::new(),
            began: None,
            beats: Beats::new(),
            lane: Lane::default(),
            woken: false,
            wake_at: None,
        }
    }

    /// What happened, and what is to be done about it. The view is to be published before the actions are carried out.
    pub(crate) fn step(&mut self, event: Event, now: BootInstant) -> Vec<Action> {
        self.expire(now);
        let mut actions = Vec::new();
        match event {
            Event::Tick => {}
            Event::Up { wakes } => self.connected(wakes, now),
            Event::Down { error } => self.disconnected(error, now),
            Event::Blind => self.wakes = false,
            Event::Woken => self.woken(now),
            Event::Answered(answer) => self.answered(*answer, now, &mut actions),
            Event::Refused { error, another_token } => self.refused(error, another_token, now),
            Event::Ready(ready) => {
                self.beats.dirty |= self.ready != ready;
                self.ready = ready;
            }
            Event::Locked => {
                self.locked = true;
                self.beats.dirty = true;
            }
            Event::Report(report) => self.set_report(report),
            Event::Rotated => self.rotations += 1,
            Event::Expect(expecting) => self.expecting = expecting,
            Event::HandOver(order) => self.begin_giving(order, now, &mut actions),
            Event::Leave => self.leave(),
            Event::FirstPoll(at) => self.first_poll(at),
            Event::Shutdown => self.shutdown(now),
            Event::LaneUp { key } => self.lane_up(key),
            Event::LaneDown => self.lane_down(now),
            Event::Told(told) => self.told(told, now),
        }
        // What was confirmed may be bound by a session that was silent in the meantime.
        self.expire(now);
        self.decide(now, &mut actions);
        self.decide_lane(now, &mut actions);
        actions
    }

    /// When the next [`Event::Tick`] is due, if nothing else happens before.
    pub(crate) fn wake_at(&self) -> Option<BootInstant> {
        let fence = self.lead.map(|lead| self.effective(lead));
        [self.wake_at, fence].into_iter().flatten().min()
    }

    /// How long a statement may take.
    pub(crate) fn patience(&self) -> Duration {
        (self.ttl() / 3).clamp(Duration::from_millis(300), Duration::from_millis(1500))
    }

    /// When the statement under way was sent.
    #[cfg(test)]
    pub(crate) fn in_flight_since(&self) -> Option<BootInstant> {
        self.in_flight.as_ref().map(|(_, sent)| *sent)
    }

    /// Whether the row names this process: then reconnecting is urgent.
    pub(crate) fn holds(&self) -> bool {
        self.row.as_ref().is_some_and(|row| self.is_me(row))
    }

    pub(crate) fn role(&self) -> Role {
        self.lead.map_or(Role::Standby, |lead| Role::Leader {
            epoch: lead.epoch,
            fence: self.effective(lead),
            since: self.led.map_or(BootInstant::ZERO, |(_, since)| since),
        })
    }

    pub(crate) fn view(&self, now: BootInstant) -> View {
        let holder = self.row.as_ref().filter(|row| row.holder.is_some()).map(|row| Holder {
            resource: row.replica.resource.clone(),
            pod: row.replica.pod.clone(),
            node: row.replica.node.clone(),
            revision: row.replica.revision.clone(),
            me: self.is_me(row),
        });
        View {
            at: now,
            role: self.role(),
            epoch: self.row.as_ref().map_or(0, |row| row.epoch),
            holder,
            leaderless_from: self.leaderless_from(),
            successor: self.heir.as_ref().map(|heir| heir.pod.clone()),
            database: self.database.clone(),
            settings: self.settings.clone(),
            request: self.request.clone(),
            last_answer: self.last_answer,
            takeover: self.takeover.clone(),
        }
    }

    fn leaderless_from(&self) -> Option<BootInstant> {
        if let Some(lead) = self.lead {
            return Some(self.effective(lead));
        }
        let row = self.row.as_ref()?;
        match self.observed_since() {
            Some(since) if row.holder.is_some() => Some(since + row.ttl()),
            Some(since) => Some(since),
            // The row still names this process, which stopped at its fence because it was not answered.
            None => self.last_answer,
        }
    }

    fn is_me(&self, row: &Row) -> bool {
        row.holder.as_deref() == Some(self.me.id.as_str())
    }

    /// The TTL that this process writes.
    fn ttl(&self) -> Duration {
        let set = self.settings.as_ref().and_then(|s| s.json.get("leaseDurationSeconds")).and_then(Value::as_f64);
        set.filter(|s| (0.1..=3600.0).contains(s)).map_or(self.default_ttl, Duration::from_secs_f64)
    }

    fn expire(&mut self, now: BootInstant) {
        self.lead = self.lead.filter(|lead| now < self.effective(*lead));
    }

    /// The TTL's fence, or that of the session if it is earlier.
    fn effective(&self, lead: Lead) -> BootInstant {
        let session = self.session_fence().filter(|_| self.keeps(Rule::BoundByTheSession));
        session.map_or(lead.fence, |fence| fence.min(lead.fence))
    }

    // === answers ===

    fn answered(&mut self, answer: Answer, now: BootInstant, actions: &mut Vec<Action>) {
        let Some((statement, sent)) = self.in_flight.take() else { return };
        self.last_answer = Some(now);
        self.hold_off = None;
        self.database = DatabaseState::Up { wakes: self.wakes };
        if let Some(around) = answer.around {
            self.settings = around.setting;
            self.request = around.request;
            self.heir = around.heir;
            self.registered = around.registered;
        }
        self.row = answer.lease;
        self.recollect(answer.incarnation, now);
        self.observe(now);
        self.stand_down();
        let sent = if self.keeps(Rule::FenceFromSending) { sent } else { now };
        match statement.call {
            Call::Renew { ttl, session, .. } if answer.done => {
                self.unbinds(session);
                self.lead_until(sent, ttl, None, now);
            }
            // A renewal that was given up has been carried out after all: with the row's number at once again.
            Call::Renew { .. } => self.renew_at = now,
            Call::Acquire { ttl, .. } if answer.done => self.lead_until(sent, ttl, Some(Evidence::Free), now),
            Call::Takeover { ttl, evidence, vacate: false, .. } if answer.done => {
                self.lead_until(sent, ttl, Some(evidence), now);
            }
            Call::Handover { .. } => self.given(answer.done, now, actions),
            Call::Rotate => self.rotations -= 1,
            Call::Gap { .. } => drop(self.gaps.pop_front()),
            Call::Depart => actions.push(Action::Done),
            _ => {}
        }
        self.follow_giving(actions);
        self.arrived(now, actions);
    }

    /// The row decides who leads, not we.
    fn stand_down(&mut self) {
        let (Some(lead), Some(row)) = (self.lead, &self.row) else { return };
        if row.epoch != lead.epoch || !self.is_me(row) {
            self.lead = None;
        }
    }

    /// A statement that was sent at `sent` made this process the holder for `ttl`.
    fn lead_until(&mut self, sent: BootInstant, ttl: Duration, became: Option<Evidence>, now: BootInstant) {
        let Some(row) = self.row.as_ref().filter(|row| self.is_me(row)) else { return };
        let epoch = row.epoch;
        if let Some(evidence) = became {
            let from = Some(self.former_pod.clone()).filter(|pod| !pod.is_empty());
            self.takeover = Some(Takeover { epoch, from, evidence, at: now });
            self.began = Some(epoch);
            self.unbinds(None); // a new holder's row names no session
        }
        if epoch <= self.ended || (self.led.is_none_or(|(led, _)| led != epoch) && !self.can_start(epoch)) {
            return;
        }
        let ttl = if self.keeps(Rule::FenceFromTheWrittenTtl) { ttl } else { self.ttl() };
        let fence = self.timing.fence(sent, ttl);
        if now < fence {
            self.lead = Some(Lead { epoch, fence });
            self.confirmed = self.lead;
            if self.led.is_none_or(|(led, _)| led != epoch) {
                self.led = Some((epoch, now));
            }
        }
    }

    /// The lease came to us by a handover, or by a statement whose answer was lost.
    fn arrived(&mut self, now: BootInstant, actions: &mut Vec<Action>) {
        let Some(row) = self.row.as_ref().filter(|row| self.is_me(row)) else { return };
        let (epoch, ttl, grant) = (row.epoch, row.ttl(), row.grant_beat);
        if row.release && epoch > self.ended {
            return self.begin_giving(HandOver::new(Reason::ForcedRelease), now, actions);
        }
        if epoch <= self.ended || self.led.is_some_and(|(led, _)| led == epoch) || self.doubt.is_some() {
            return;
        }
        if !self.can_start(epoch) {
            return self.hand_on(epoch, now);
        }
        if let Some(sent) = grant.and_then(|beat| self.beats.sent(beat)) {
            let sent = if self.keeps(Rule::GrantFromTheBeat) { sent } else { now };
            self.lead_until(sent, ttl, Some(Evidence::Handover), now);
            self.renew_at = now;
        } else if grant.is_none() && self.takeover.as_ref().is_none_or(|t| t.epoch != epoch) {
            self.renew_at = now;
        }
    }

    /// Whether this process may begin to lead under `epoch`, which it already holds.
    fn can_start(&self, epoch: i64) -> bool {
        self.ready && !self.ending && self.leaving.is_none_or(|left| epoch <= left)
    }

    // === what the agent says ===

    fn set_report(&mut self, report: Value) {
        if self.report != report {
            self.report = report;
            self.beats.again();
        }
    }

    fn leave(&mut self) {
        if self.leaving.is_none() {
            // What is held now is given up by an order; what arrives later is handed on.
            let mine = self.row.as_ref().filter(|row| self.is_me(row)).map(|row| row.epoch);
            self.leaving = Some(mine.unwrap_or(0));
            self.beats.dirty = true;
        }
    }

    fn shutdown(&mut self, now: BootInstant) {
        self.leave();
        self.ending = true;
        if self.holds() {
            self.release_at_end(now);
        }
    }

    /// A notification: a reason to look, and no more than that.
    fn woken(&mut self, now: BootInstant) {
        self.woken = true;
        if !self.keeps(Rule::NotificationsGrantNothing) {
            let epoch = self.row.as_ref().map_or(0, |row| row.epoch) + 1;
            self.lead = Some(Lead { epoch, fence: now + self.timing.first_grant });
        }
    }

    fn first_poll(&mut self, at: BootInstant) {
        self.gaps.extend(self.began.take().map(|epoch| (epoch, at)));
    }

    fn shows_ready(&self) -> bool {
        self.ready && self.locked && self.leaving.is_none()
    }
}

/// The part of a long test that somebody asks for: `VARIABLE=FROM..TO`.
#[cfg(test)]
fn asked(variable: &str) -> Option<std::ops::Range<u64>> {
    let asked = std::env::var(variable).ok()?;
    let range = asked.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    Some(range.unwrap_or_else(|| panic!("{variable}={asked}: FROM..TO, two numbers")))
}
