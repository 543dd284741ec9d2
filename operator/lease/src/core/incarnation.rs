//! A server that may have forgotten: a standby that lagged, a restored snapshot, a crash that lost the last commits.
//!
//! The server's incarnation is named after its start, so each of these shows. The row as it is then may be older than what
//! some process relies on, and nobody can tell from the row. So it is *unsettled* until somebody has written it who knew:
//!
//! * A holder that hears of the new incarnation **before its fence** (in Fast that of its session, if it is earlier) vouches for
//!   its row: as long as its fence holds nobody else was given the lease, so nothing but its own renewals can have been
//!   forgotten. It renews, and all is as before.
//! * Everybody else waits until every fence that was ever given must have passed (125 % of the longest TTL in use, on their
//!   own clocks, from the moment they heard). Then the lease is taken by a new epoch, above all that may have been forgotten:
//!   it goes on from the time in milliseconds, so two rollbacks to the same row do not grant the same epoch twice. A
//!   holder that heard too late goes first, but needs a new epoch like anybody else.
//!
//! Every statement names the incarnation that its sender knew and is void in any other, because it may be carried out late.

use pollux_clock::BootInstant;

use super::{Core, Rule};

// === impl Core ===

impl Core {
    /// An answer came from this incarnation.
    pub(super) fn recollect(&mut self, incarnation: String, now: BootInstant) {
        let Some(row) = &self.row else { return };
        let settled = row.settled;
        self.known.epoch = self.known.epoch.max(row.epoch);
        let longest = row.ttl().max(self.ttl()).max(self.default_ttl);
        self.fences_end = self.fences_end.max(now + row.ttl() * self.timing.doubt_percent / 100);
        if self.known.incarnation != incarnation {
            let until = self.fences_end.max(now + longest * self.timing.doubt_percent / 100);
            let until = if self.keeps(Rule::DoubtIsWaitedOut) { until } else { now };
            self.doubt = (!self.vouches(now)).then_some(until);
            self.known.incarnation = incarnation;
            if self.keeps(Rule::ObservedAnew) {
                self.observed = None;
                self.forget_what_was_tried();
            }
            // Before the fence, if it is ours to vouch for.
            self.renew_at = now;
        }
        if settled {
            self.doubt = None;
        }
    }

    /// The row is ours, and nobody else can have been given the lease: our fence holds, and we have not given it away.
    fn vouches(&self, now: BootInstant) -> bool {
        let Some(row) = self.row.as_ref().filter(|row| self.is_me(row)) else { return false };
        let kept = row.epoch > self.ordered || !self.keeps(Rule::VouchedWithoutAnOrder);
        // The session's fence, too: after it a candidate may have been granted the lease on the session's end.
        let within = self.keeps(Rule::VouchedWithinTheSession);
        let fence = |last| if within { self.effective(last) } else { last.fence };
        let holds = self.confirmed.is_some_and(|last| last.epoch == row.epoch && now < fence(last));
        kept && holds || !self.keeps(Rule::VouchedWithinTheFence)
    }

    /// The row is ours and cannot be trusted.
    pub(super) fn forgotten(&self) -> bool {
        self.doubt.is_some() && self.holds()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use super::super::server::{Asker, Moment, Server};
    use super::super::{Action, Event, Me, Told};
    use super::*;
    use crate::identity::{HolderId, Replica};

    pub(in crate::core) struct Holder {
        pub(in crate::core) core: Core,
        pub(in crate::core) server: Server,
        pub(in crate::core) at: Moment,
    }

    impl Holder {
        /// It leads, in Fast, with a TTL of 10 s, and has just been answered on its session.
        pub(in crate::core) fn leading() -> Self {
            let me = Me { id: HolderId::named("me"), replica: Replica::default(), file_lock: false };
            let core = Core::new(me, Duration::from_secs(10));
            let at = Moment { now: Duration::from_secs(100), incarnation: 1, without: None };
            let mut holder = Self { core, server: Server { written_in: 1, ..Server::default() }, at };
            holder.server.set(Duration::from_secs(10), None, true);
            for event in [Event::Ready(true), Event::Up { wakes: true }, Event::LaneUp { key: 5 }, Event::Tick] {
                holder.step(event);
            }
            assert!(holder.leads());
            assert!(holder.server.row.session.is_some());
            holder
        }

        pub(in crate::core) fn now(&self) -> BootInstant {
            BootInstant::from_boot(self.at.now)
        }

        pub(in crate::core) fn leads(&self) -> bool {
            self.core.role().may_poll(self.now())
        }

        /// Whatever it asks is answered at once.
        pub(in crate::core) fn step(&mut self, event: Event) {
            let who = Asker { id: "me".into(), replica: Replica::default() };
            let mut events = VecDeque::from([event]);
            while let Some(event) = events.pop_front() {
                events.extend(self.core.step(event, self.now()).into_iter().filter_map(|action| match action {
                    Action::Send(statement) => {
                        Some(Event::Answered(Box::new(self.server.carry_out(self.at, &who, &statement).0)))
                    }
                    Action::Ask(_) => Some(Event::Told(Told { granted: true, backend: 1 })),
                    Action::Settle(_) | Action::Done => None,
                }));
            }
        }

        /// The server is away for this time and comes back as another one.
        fn outage(&mut self, time: Duration) {
            for lost in [Event::Down { error: "cut".into() }, Event::LaneDown] {
                self.core.step(lost, self.now());
            }
            self.at.now += time;
            self.at.incarnation += 1;
            self.step(Event::Up { wakes: true });
        }
    }

    #[test]
    fn a_holder_vouches_within_the_fence_of_its_session() {
        let mut holder = Holder::leading();
        holder.outage(Duration::from_millis(500));
        assert!(holder.leads());
        assert!(holder.core.doubt.is_none());
    }

    /// After it somebody may have taken over by the end of the session, and that was forgotten: the TTL's fence, which is
    /// later, says nothing.
    #[test]
    fn a_holder_does_not_vouch_after_the_fence_of_its_session() {
        let mut holder = Holder::leading();
        holder.outage(Duration::from_millis(1500));
        assert!(!holder.leads());
        assert!(holder.core.doubt.is_some());
    }
}
