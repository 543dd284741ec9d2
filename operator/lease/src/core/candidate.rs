//! Becoming the holder.

use std::time::Duration;

use pollux_clock::BootInstant;

use super::{AFTER_OUTAGE, BLIND_BEAT, Call, Core, HOLDERS_RETURN, PRECEDENCE, QUICK_BEAT, Rule};
use crate::view::{DatabaseState, Evidence};

/// A state of somebody else's (or nobody's) row, and since when it has been seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Observed {
    epoch: i64,
    renew_seq: i64,
    since: BootInstant,
}

// === impl Core ===

impl Core {
    /// Notes since when the row has been what it is. `now` is the moment at which the answer arrived: it may be old by
    /// then, but it cannot be of the future.
    pub(super) fn observe(&mut self, now: BootInstant) {
        let Some(row) = &self.row else { return };
        if self.is_me(row) {
            self.observed = None;
            return;
        }
        self.former_pod.clone_from(&row.replica.pod);
        let same =
            self.observed.as_ref().is_some_and(|seen| (seen.epoch, seen.renew_seq) == (row.epoch, row.renew_seq));
        if !same {
            self.observed = Some(Observed { epoch: row.epoch, renew_seq: row.renew_seq, since: now });
        }
    }

    /// Since when the row of somebody else, or of nobody, has been what it is.
    pub(super) fn observed_since(&self) -> Option<BootInstant> {
        self.observed.as_ref().map(|observed| observed.since)
    }

    /// What a candidate would see that measures with a clock which was set.
    #[cfg(test)]
    pub(super) fn age_what_was_observed(&mut self, by: std::time::Duration) {
        if let Some(observed) = &mut self.observed {
            observed.since = observed.since.saturating_sub(by);
        }
    }

    /// Everybody's renewals failed during an outage: the holder gets a moment, or every restart of the database would change
    /// leaders.
    pub(super) fn grace_after_outage(&mut self, now: BootInstant) {
        if std::mem::take(&mut self.outage) {
            let ttl = self.row.as_ref().map_or(Duration::ZERO, super::Row::ttl);
            self.no_takeover_before = now + (ttl / 2).max(AFTER_OUTAGE).min(ttl);
        }
    }

    /// The statement that makes this process the holder, if it is time for one.
    pub(super) fn candidacy(&mut self, now: BootInstant) -> Option<Call> {
        if self.giving.is_some() || self.ending {
            return None;
        }
        let row = self.row.as_ref()?;
        let (epoch, renew_seq, ttl) = (row.epoch, row.renew_seq, self.ttl());
        if let Some(until) = self.doubt.filter(|until| now < *until) {
            self.wake_by(until);
            return None;
        }
        if row.holder.is_some() && (self.given_up() || self.forgotten() || self.predecessor()) {
            let vacate = !self.can_lead();
            return Some(Call::Takeover { epoch, renew_seq, evidence: Evidence::Pod, ttl, vacate });
        }
        if self.holds() || !self.can_lead() {
            return None;
        }
        let seen = self.observed.as_ref()?.since;
        let (due, call) = if row.holder.is_none() {
            (seen + self.precedence(), Call::Acquire { epoch, ttl })
        } else {
            let written = if self.keeps(Rule::SilenceOfTheWrittenTtl) { row.ttl() } else { ttl };
            // In doubt the holder goes first, though it may have heard of the server later.
            let grace = self.doubt.map_or(BootInstant::ZERO, |until| until + HOLDERS_RETURN);
            let due = (seen + self.timing.silence(written) + self.precedence()).max(self.no_takeover_before).max(grace);
            let ended = self.session_evidence().map(|at| at + self.precedence());
            if let Some(at) = ended.filter(|at| *at < due) {
                let call = self.takeover_by_session(epoch, renew_seq);
                return self.when(at, call, now);
            }
            (due, Call::Takeover { epoch, renew_seq, evidence: Evidence::Ttl, ttl, vacate: false })
        };
        self.when(due, call, now)
    }

    fn when(&mut self, due: BootInstant, call: Call, now: BootInstant) -> Option<Call> {
        if now < due {
            self.wake_by(due);
            return None;
        }
        Some(call)
    }

    /// The row names us under an epoch that we may not use any more.
    fn given_up(&self) -> bool {
        self.row.as_ref().is_some_and(|row| self.is_me(row) && row.epoch <= self.ended)
    }

    /// The row names a process of our pod that had the file lock which is ours now.
    fn predecessor(&self) -> bool {
        let mine = &self.me.replica.pod_uid;
        self.me.file_lock
            && (self.locked || !self.keeps(Rule::ThePodsLock))
            && !mine.is_empty()
            && self.row.as_ref().is_some_and(|row| row.locked && row.replica.pod_uid == *mine && !self.is_me(row))
    }

    pub(super) fn can_lead(&self) -> bool {
        self.shows_ready() && !self.ending && (self.rank().is_some() || !self.keeps(Rule::EligibleOnly))
    }

    /// Our revision's place in the order of those that may lead.
    fn rank(&self) -> Option<u32> {
        match self.settings.as_ref().and_then(|settings| settings.eligible.as_ref()) {
            None => Some(0),
            Some(eligible) => {
                let place = eligible.iter().position(|name| *name == self.me.replica.revision)?;
                Some(u32::try_from(place).unwrap_or(u32::MAX).min(10))
            }
        }
    }

    /// How long those go ahead who should rather lead than we.
    fn precedence(&self) -> Duration {
        let strangers = self.row.as_ref().is_some_and(|row| {
            !row.replica.resource.name.is_empty() && row.replica.resource != self.me.replica.resource
        });
        PRECEDENCE * (self.rank().unwrap_or(0) + u32::from(strangers))
    }

    /// How long after the last beat the next one is due.
    pub(super) fn beat_interval(&self) -> Duration {
        let row = self.row.as_ref();
        let ttl = row.map(super::Row::ttl).filter(|ttl| !ttl.is_zero()).unwrap_or(self.default_ttl);
        let calm = (ttl / 10).clamp(Duration::from_millis(50), Duration::from_secs(1));
        let calm =
            if matches!(self.database, DatabaseState::Up { wakes: false }) { calm.min(BLIND_BEAT) } else { calm };
        if row.is_some_and(|row| row.handover_expected) && self.shows_ready() { calm.min(QUICK_BEAT) } else { calm }
    }
}
