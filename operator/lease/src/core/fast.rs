//! Failover without waiting for the TTL: a session of the holder's own, whose end PostgreSQL tells by its lock. Opt-in, and
//! only where a session is one backend from beginning to end.
//!
//! * The holder takes an advisory lock under a random key on a session of its own, and writes key and *session fence* F into
//!   the row with its next renewal. From the moment that renewal is **sent** it may act only until F after the last heartbeat
//!   on that session **was sent** that was answered, by the very backend that has the lock (behind a pooler that nobody noticed it
//!   may be another one, which proves nothing). It is bound like this until a renewal without a key is confirmed: then the
//!   TTL's fence alone counts again. It never goes from one key to the next directly.
//!   A session that another backend answers is as good as ended; nothing is asked on it any more.
//! * The server ends the session when it is silent for some time (three times F, if nothing else is set), or at once when its
//!   connection is closed, and with it the lock.
//! * Candidates try the row's lock a few times a second; they never wait for it, because a blocked waiter would be granted
//!   it even while frozen, and would pin old rows. Every answered heartbeat was sent before the lock was free, so the fence of the old
//!   holder ends by F after the grant. A candidate waits for that, and takes over if the row has not changed.
//! * A grant proves the end of the holder's session only to a session that **was already refused** this key: a restart of the
//!   server ends all of them, and then the first try of somebody succeeds. That would be safe, but a leader would be deposed for
//!   nothing: it is back in the same moment.

use std::time::Duration;

use pollux_clock::BootInstant;
use serde_json::Value;

use super::types::{Ask, SessionProof, Told};
use super::{Action, Call, Core, Lead, Rule};
use crate::view::Evidence;

/// Unless the settings say otherwise.
const FENCE: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(3);
/// Nobody beats or tries more often.
const OFTEN: Duration = Duration::from_millis(100);

/// What goes on beside the statements, on a session of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Lane {
    /// The key that this session would lock as a holder's, if there is a session.
    offer: Option<i64>,
    asked: Option<(Ask, BootInstant)>,
    next: Option<BootInstant>,
    /// This session has the lock under its own key.
    locked: Option<Locked>,
    /// What our fence depends on: a key that may be in the row.
    bound: Option<Bound>,
    /// The holder's key, as a candidate knows it.
    tried: Option<Tried>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Locked {
    key: i64,
    backend: i32,
    /// When the last heartbeat was sent that its backend answered.
    alive: BootInstant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Bound {
    proof: SessionProof,
    /// As [`Locked::alive`].
    alive: BootInstant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Tried {
    key: i64,
    backend: i32,
    refused: bool,
    /// This session has it.
    held: bool,
    /// Since when that is evidence.
    granted: Option<BootInstant>,
}

// === impl SessionProof ===

impl SessionProof {
    fn fence(self) -> Duration {
        Duration::from_millis(self.fence_ms.into())
    }
}

// === impl Core ===

impl Core {
    /// The session fence, if failover is to be fast and this connection can tell.
    fn fast(&self) -> Option<Duration> {
        let failover = self.settings.as_ref()?.json.get("failover").and_then(Value::as_str);
        (self.wakes && failover == Some("Fast")).then(|| self.setting_of_fast("fenceMilliseconds").unwrap_or(FENCE))
    }

    fn setting_of_fast(&self, name: &str) -> Option<Duration> {
        let millis = self.settings.as_ref()?.json.get("fast")?.get(name)?.as_u64()?;
        (100..=60_000).contains(&millis).then(|| Duration::from_millis(millis))
    }

    /// Whether a session of its own is wanted, and after which silence the server should end it.
    pub(crate) fn lane_wanted(&self) -> Option<Duration> {
        let wanted = if self.holds_open() { self.fast().is_some() } else { self.rival().is_some() };
        let silence = self.setting_of_fast("sessionTimeoutMilliseconds").unwrap_or(SILENCE);
        (wanted && !self.ending).then_some(silence)
    }

    /// The session of the holder that we could take over from.
    fn rival(&self) -> Option<SessionProof> {
        let row = self.row.as_ref().filter(|row| row.holder.is_some() && !self.is_me(row))?;
        row.session.filter(|_| self.wakes && self.doubt.is_none() && self.can_lead())
    }

    /// From when on a leader may not act for want of a heartbeat.
    pub(super) fn session_fence(&self) -> Option<BootInstant> {
        self.lane.bound.map(|bound| self.timing.fence(bound.alive, bound.proof.fence()))
    }

    /// What the next renewal says of our session.
    pub(super) fn session_to_write(&self) -> Option<SessionProof> {
        let (locked, fence) = (self.lane.locked?, self.fast()?);
        let proof = SessionProof { key: locked.key, fence_ms: u32::try_from(fence.as_millis()).ok()? };
        match self.lane.bound {
            // What the row may name is confirmed to be gone first.
            Some(bound) if bound.proof != proof => None,
            _ => Some(proof),
        }
    }

    /// The row names a session that is not there any more, or does not name one that is.
    pub(super) fn session_is_due(&self) -> bool {
        self.lane.bound.map(|bound| bound.proof) != self.session_to_write()
    }

    /// A renewal is sent that writes this.
    pub(super) fn binds(&mut self, proof: Option<SessionProof>) {
        match proof {
            Some(_) if self.keeps(Rule::BoundWhenSent) => self.bind(proof),
            None if !self.keeps(Rule::UnboundWhenConfirmed) => self.lane.bound = None,
            _ => {}
        }
    }

    fn bind(&mut self, proof: Option<SessionProof>) {
        if let (Some(proof), Some(locked)) = (proof, self.lane.locked) {
            self.lane.bound = Some(Bound { proof, alive: locked.alive });
        }
    }

    /// The row is confirmed to name this.
    pub(super) fn unbinds(&mut self, proof: Option<SessionProof>) {
        match proof {
            Some(_) if !self.keeps(Rule::BoundWhenSent) => self.bind(proof),
            Some(_) => {}
            None => self.lane.bound = None,
        }
    }

    // === the session ===

    pub(super) fn lane_up(&mut self, key: i64) {
        self.lane = Lane { offer: Some(key), bound: self.lane.bound, ..Lane::default() };
    }

    pub(super) fn lane_down(&mut self, now: BootInstant) {
        self.lane = Lane { bound: self.lane.bound, ..Lane::default() };
        if self.lane.bound.is_some() {
            self.renew_at = now; // without the key
        }
    }

    /// What a candidate knew is no evidence any more. A lock that it was granted it still has, and must give back.
    pub(super) fn forget_what_was_tried(&mut self) {
        if let Some(tried) = &mut self.lane.tried {
            tried.refused = false;
            tried.granted = None;
        }
    }

    pub(super) fn told(&mut self, told: Told, now: BootInstant) {
        let Some((ask, sent)) = self.lane.asked.take() else { return };
        match ask {
            Ask::Beat => self.beaten(told, sent, now),
            Ask::Try { key } if Some(key) == self.lane.offer => {
                let locked = Locked { key, backend: told.backend, alive: sent };
                self.lane.locked = told.granted.then_some(locked);
            }
            Ask::Try { key } => self.tried(key, told, now),
            Ask::Release { key } => {
                self.lane.tried = self.lane.tried.filter(|tried| tried.key != key);
                self.lane.locked = self.lane.locked.filter(|locked| locked.key != key);
            }
        }
    }

    fn beaten(&mut self, told: Told, sent: BootInstant, now: BootInstant) {
        let Some(backend) = self.lane.locked.map(|locked| locked.backend) else { return };
        if backend != told.backend && self.keeps(Rule::TheSameBackend) {
            // The lock cannot be reached any more. Renewals that went on naming it would keep the lease, and nobody would lead.
            if self.keeps(Rule::ALostSessionIsGivenUp) {
                self.lane_down(now);
            }
            return;
        }
        let sent = if self.keeps(Rule::HeartbeatFromSending) { sent } else { now };
        let Some(locked) = &mut self.lane.locked else { return };
        locked.alive = sent;
        let key = locked.key;
        if let Some(bound) = &mut self.lane.bound
            && bound.proof.key == key
        {
            bound.alive = sent;
            let ours = self.row.as_ref().filter(|row| self.is_me(row) && row.epoch > self.ended).map(|row| row.epoch);
            let good = |last: &Lead| self.doubt.is_none() && ours == Some(last.epoch);
            self.lead = self.lead.or(self.confirmed.filter(good));
        }
    }

    fn tried(&mut self, key: i64, told: Told, now: BootInstant) {
        let before = self.lane.tried.filter(|tried| tried.key == key && tried.backend == told.backend);
        let refused = before.is_some_and(|tried| tried.refused);
        let proof = refused || !self.keeps(Rule::AlreadyTrying);
        let granted = (told.granted && proof).then_some(now);
        let refused = refused || !told.granted;
        self.lane.tried = Some(Tried { key, backend: told.backend, refused, held: told.granted, granted });
    }

    /// The next thing to say on the session.
    pub(super) fn decide_lane(&mut self, now: BootInstant, actions: &mut Vec<Action>) {
        let Some(offer) = self.lane.offer.filter(|_| self.lane.asked.is_none()) else { return };
        let Some((ask, pause)) = self.next_ask(offer) else { return };
        if let Some(next) = self.lane.next.filter(|next| now < *next) {
            return self.wake_by(next);
        }
        self.lane.next = Some(now + pause);
        self.lane.asked = Some((ask, now));
        actions.push(Action::Ask(ask));
    }

    fn next_ask(&self, offer: i64) -> Option<(Ask, Duration)> {
        let held = self.lane.tried.filter(|tried| tried.held);
        if self.holds_open() {
            let pause = (self.fast()? / 4).max(OFTEN);
            return Some(match (held, self.lane.locked) {
                (Some(tried), _) => (Ask::Release { key: tried.key }, Duration::ZERO),
                (None, None) => (Ask::Try { key: offer }, pause),
                (None, Some(_)) => (Ask::Beat, pause),
            });
        }
        let rival = self.rival()?;
        if let Some(locked) = self.lane.locked {
            return Some((Ask::Release { key: locked.key }, Duration::ZERO));
        }
        Some(match held {
            // Nobody else gets it, and the session must not be ended for its silence.
            Some(tried) if tried.key == rival.key => (Ask::Beat, (rival.fence() / 4).max(OFTEN)),
            Some(tried) => (Ask::Release { key: tried.key }, Duration::ZERO),
            None => (Ask::Try { key: rival.key }, (rival.fence() / 5).max(OFTEN)),
        })
    }

    /// The takeover from a holder whose session has ended, or when it is due.
    pub(super) fn session_evidence(&self) -> Option<BootInstant> {
        let rival = self.rival()?;
        let granted = self.lane.tried.filter(|tried| tried.key == rival.key)?.granted?;
        let wait =
            if self.keeps(Rule::SessionFenceIsWaitedOut) { self.timing.silence(rival.fence()) } else { Duration::ZERO };
        Some(granted + wait)
    }

    pub(super) fn takeover_by_session(&self, epoch: i64, renew_seq: i64) -> Call {
        Call::Takeover { epoch, renew_seq, evidence: Evidence::Session, ttl: self.ttl(), vacate: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Event;
    use crate::core::incarnation::tests::Holder;

    /// A pooler that nobody noticed has gone on with another backend. The row must not go on naming a session that nothing
    /// more is heard of.
    #[test]
    fn a_holder_whose_heartbeat_another_backend_answers_leads_on_without_its_session() {
        let mut holder = Holder::leading();
        holder.at.now += Duration::from_millis(300);
        let asked = holder.core.step(Event::Tick, holder.now());
        assert!(asked.contains(&Action::Ask(Ask::Beat)), "{asked:?}");
        holder.step(Event::Told(Told { granted: true, backend: 2 }));
        assert_eq!(holder.server.row.session, None);
        holder.at.now += Duration::from_millis(1500);
        assert!(holder.leads());
    }
}
