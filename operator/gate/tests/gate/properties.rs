//! What holds for every order of events.

use std::collections::BTreeMap;
use std::time::Duration;

use pollux_clock::BootInstant;
use pollux_gate::core::{Action, Call, Closed, ConnectionId, Core, Input, Outcome, PollArgs, PollId, Reply, RequestId};
use pollux_gate::{Delivery, DrainOutcome, Leadership, Ordering, Settings};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Move {
    Lead {
        epoch: i64,
        ms: u64,
    },
    Standby,
    Ask {
        offset: i64,
        timeout: i64,
        limit: i64,
    },
    AskNext {
        timeout: i64,
    },
    Leave(usize),
    Written,
    Brings(u8),
    Fails(u8),
    StaleAnswer,
    Call(bool),
    Connect(u64),
    Disconnect(u64),
    Drain,
    Resume,
    Busy(bool),
    Terminate,
    Webhook,
    /// Time passes with wake-ups, or (`false`: the process was stopped) without.
    Pass(u64, bool),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => (1_i64..6, 0_u64..15_000).prop_map(|(epoch, ms)| Move::Lead { epoch, ms }),
        1 => Just(Move::Standby),
        3 => (-2_i64..30, -1_i64..60, 0_i64..101).prop_map(|(offset, timeout, limit)| Move::Ask { offset, timeout, limit }),
        5 => (0_i64..60).prop_map(|timeout| Move::AskNext { timeout }),
        2 => (0_usize..4).prop_map(Move::Leave),
        4 => Just(Move::Written),
        5 => (0_u8..12).prop_map(Move::Brings),
        2 => (0_u8..6).prop_map(Move::Fails),
        1 => Just(Move::StaleAnswer),
        3 => any::<bool>().prop_map(Move::Call),
        1 => (0_u64..3).prop_map(Move::Connect),
        1 => (0_u64..3).prop_map(Move::Disconnect),
        1 => prop_oneof![3 => Just(Move::Drain), 1 => Just(Move::Resume)],
        1 => any::<bool>().prop_map(Move::Busy),
        1 => prop_oneof![9 => Just(Move::Webhook), 1 => Just(Move::Terminate)],
        8 => (prop_oneof![0_u64..300, 300_u64..20_000], prop::bool::weighted(0.8)).prop_map(|(ms, awake)| Move::Pass(ms, awake)),
    ];
    prop::collection::vec(one, 1..120)
}

/// The edge and the oracle.
struct Run {
    core: Core,
    now: BootInstant,
    requests: u64,
    /// Request, since when, time-out, offset.
    open: Vec<(RequestId, BootInstant, i64, i64)>,
    poll: Option<PollId>,
    last_poll: Option<PollId>,
    /// Offsets that the bot has sent.
    sent: Vec<i64>,
    telegram: Telegram,
    settings: Settings,
    /// What the bot has got, and when it got it last.
    given: BTreeMap<i64, BootInstant>,
    /// Open calls.
    calls: Vec<BootInstant>,
    told: Told,
    terminated: bool,
    /// A drain was asked for and is not over.
    draining: bool,
    drains: usize,
    /// A confirmation of a drain was for what is not settled by its age.
    exact: bool,
}

/// The queue: `first..next` are there.
struct Telegram {
    first: i64,
    next: i64,
    /// Of the open poll.
    asked: i64,
    limit: usize,
}

/// What the owner has said last.
#[derive(Clone, Copy, Default)]
struct Told {
    fence: Option<BootInstant>,
    epoch: i64,
    drained: Option<i64>,
}

impl Run {
    fn new(settings: Settings) -> Self {
        Self {
            core: Core::new(settings.clone(), 7),
            settings,
            given: BTreeMap::new(),
            calls: Vec::new(),
            drains: 0,
            exact: false,
            now: BootInstant::from_boot(Duration::from_secs(1_000_000)),
            requests: 0,
            open: Vec::new(),
            poll: None,
            last_poll: None,
            sent: Vec::new(),
            telegram: Telegram { first: 1, next: 1, asked: 0, limit: 0 },
            told: Told::default(),
            terminated: false,
            draining: false,
        }
    }

    fn leads(&self) -> bool {
        self.told.fence.is_some_and(|fence| self.now < fence)
    }

    /// As the driver does: told at once only where somebody waits for it.
    fn call(&mut self, call: Call) {
        if self.core.minds_calls() {
            self.step(Input::Call(call));
        } else {
            self.core.called(call, self.now);
        }
    }

    fn step(&mut self, input: Input) {
        let updates = match &input {
            Input::PollEnded(_, Outcome::Updates(ids)) => ids.clone(),
            _ => Vec::new(),
        };
        let asked = if let Input::Poll { request, .. } = &input { Some(*request) } else { None };
        let actions = self.core.step(input, self.now);
        for action in actions {
            match action {
                Action::Poll { id, query, .. } => {
                    assert!(self.poll.is_none(), "two polls at once");
                    assert!(self.leads(), "polls without the lease");
                    if let Some(offset) = query.offset.filter(|offset| *offset > 0) {
                        let highest = self.sent.iter().max().copied().unwrap_or_default();
                        assert!(offset <= highest, "confirms {offset}, the bot sent {highest} at most");
                    }
                    assert!(query.offset.is_none_or(|offset| offset >= 0), "a negative offset deletes");
                    self.confirms(query.offset.unwrap_or_default(), query.limit);
                    let drained = self.told.drained.is_some_and(|drained| self.told.epoch <= drained);
                    let confirms = query.limit == 1 && query.timeout_seconds == 0 && self.draining;
                    assert!(confirms || !drained, "polls after its drain");
                    assert!(confirms || !self.terminated, "polls though the pod ends");
                    self.poll = Some(id);
                    self.last_poll = Some(id);
                }
                Action::Cancel(id) => assert_eq!(self.poll.take(), Some(id), "cancels what is not open"),
                Action::Answer(request, reply) => {
                    let known = self.open.iter().position(|open| open.0 == request);
                    let (.., offset) = self.open.remove(known.expect("an answer to nobody, or a second one"));
                    if let Reply::Updates { skip, take } = reply {
                        assert!(self.leads(), "delivers after its fence");
                        assert_ne!(Some(request), asked);
                        self.delivered(skip, take, &updates, offset);
                    }
                }
                Action::Drained(drained) => {
                    self.draining = false;
                    // Its fence may pass before the answer to the confirmation.
                    let complete = matches!(drained.outcome, DrainOutcome::Complete | DrainOutcome::FenceLost);
                    assert!(!self.exact || complete, "confirms what may be at work");
                    self.exact = false;
                }
                _ => {}
            }
        }
        if !self.leads() {
            assert!(self.poll.is_none(), "a poll is open after the fence");
        }
    }

    /// A poll with this offset reaches Telegram at once: the worst case.
    fn confirms(&mut self, offset: i64, limit: u16) {
        let telegram = &mut self.telegram;
        telegram.asked = if offset > telegram.next + 9 { 0 } else { offset };
        telegram.limit = limit.into();
        let forgotten = telegram.first..telegram.asked;
        telegram.first = telegram.first.max(telegram.asked);
        telegram.next = telegram.next.max(telegram.first);
        if self.settings.delivery == Delivery::Transparent {
            return;
        }
        for (id, at) in self.given.range(forgotten.start..forgotten.end.max(forgotten.start)) {
            let settled = *at + self.settings.settle;
            let old = self.now >= *at + self.settings.drain_timeout;
            let called = self.calls.iter().any(|began| (*at..settled).contains(began));
            if self.now < settled || called && !old {
                assert!(self.draining, "{id} is confirmed {:?} after its delivery, call {called}", self.now - *at);
                self.exact = true;
            }
        }
    }

    fn delivered(&mut self, skip: usize, take: usize, ids: &[i64], offset: i64) {
        assert!(take > 0 && skip + take <= ids.len(), "updates out of nowhere");
        let lags = ids.first().is_some_and(|first| *first < offset);
        assert!(skip == 0 || lags, "hides what the bot has not acknowledged");
        for id in &ids[skip..skip + take] {
            self.given.insert(*id, self.now);
        }
        if let Some(most) = self.settings.max_unsettled {
            assert!(take <= usize::from(most), "{take} at once");
        }
    }

    /// Telegram's answer to the open poll, after `count` more updates.
    fn brings(&mut self, count: u8) {
        self.telegram.next += i64::from(count);
        let ids = (self.telegram.first.max(self.telegram.asked)..self.telegram.next).take(self.telegram.limit);
        self.ends(Outcome::Updates(ids.collect()));
    }

    fn pass(&mut self, ms: u64, awake: bool) {
        let end = self.now + Duration::from_millis(ms);
        if awake {
            // Whatever was missed while the process was stopped is made up for at once.
            self.step(Input::Tick);
        }
        let mut steps = 0;
        while let Some(at) = self.core.wakeup().filter(|at| awake && *at <= end) {
            assert!(at > self.now, "wants to be called in the past");
            self.now = at;
            self.step(Input::Tick);
            steps += 1;
            assert!(steps < 1000, "spins");
        }
        self.now = end;
        if awake {
            self.step(Input::Tick);
            for (_, at, seconds, _) in &self.open {
                let wait = Duration::from_secs(seconds.clamp(&3, &50).unsigned_abs());
                assert!(self.now - *at <= wait + Duration::from_secs(4), "held longer than its time-out");
            }
        }
    }

    fn ask(&mut self, offset: i64, timeout: i64, limit: Option<i64>) {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.open.push((request, self.now, timeout, offset));
        if offset > 0 {
            self.sent.push(offset);
        }
        let args = PollArgs { offset: Some(offset), timeout: Some(timeout), limit, allowed_updates: None };
        self.step(Input::Poll { request, args });
    }

    fn ends(&mut self, outcome: Outcome) {
        if let Some(id) = self.poll {
            // At the fence the core cancels before it looks at the answer.
            if self.leads() {
                self.poll = None;
            }
            self.step(Input::PollEnded(id, outcome));
        }
    }

    fn make(&mut self, action: Move) {
        match action {
            Move::Lead { epoch, ms } => {
                let epoch = epoch.max(self.told.epoch);
                let anew = !self.leads() || epoch != self.told.epoch;
                if ms > 0 && anew && self.told.drained.is_none_or(|drained| epoch > drained) {
                    self.drains = 0;
                }
                let fence = self.now + Duration::from_millis(ms);
                self.told = Told { fence: Some(fence), epoch, ..self.told };
                self.step(Input::Leadership(Leadership::Leader { epoch, fence }));
            }
            Move::Standby => {
                self.told.fence = None;
                self.step(Input::Leadership(Leadership::Standby));
            }
            Move::Ask { offset, timeout, limit } => self.ask(offset, timeout, Some(limit)),
            Move::AskNext { timeout } => {
                let next = self.given.last_key_value().map_or(0, |(id, _)| id + 1);
                self.ask(next, timeout, None);
            }
            Move::Leave(index) => {
                if index < self.open.len() {
                    let (request, ..) = self.open.remove(index);
                    self.step(Input::Abandoned(request));
                }
            }
            Move::Written => {
                if let Some(id) = self.poll {
                    self.step(Input::PollWritten(id, self.now));
                }
            }
            Move::Brings(count) => self.brings(count),
            Move::Fails(kind) => {
                let outcomes = [
                    Outcome::Failed,
                    Outcome::Conflict,
                    Outcome::WebhookActive,
                    Outcome::FloodWait(Duration::from_secs(3)),
                    Outcome::Unauthorized,
                    Outcome::Stale,
                ];
                self.ends(outcomes[usize::from(kind)].clone());
            }
            Move::StaleAnswer => {
                // Of a poll that was cancelled or is over.
                if let Some(id) = self.last_poll.filter(|id| self.poll != Some(*id)) {
                    self.step(Input::PollEnded(id, Outcome::Updates(vec![self.telegram.next])));
                }
            }
            Move::Call(counts) => {
                let began = self.now;
                if counts || self.calls.is_empty() {
                    self.calls.push(began);
                    self.call(Call::Started { counts: true, began });
                } else {
                    let began = self.calls.swap_remove(0);
                    self.call(Call::Ended { counts: true, began });
                }
            }
            Move::Connect(id) => self.step(Input::Connected(ConnectionId(id))),
            Move::Disconnect(id) => self.step(Input::Disconnected(ConnectionId(id), Closed::Interrupted)),
            Move::Drain => {
                if self.leads() {
                    self.told.drained = Some(self.told.epoch);
                }
                self.draining = true;
                self.drains += 1;
                self.step(Input::Drain);
            }
            Move::Resume => {
                self.drains = self.drains.saturating_sub(1);
                if self.drains == 0 {
                    self.told.drained = None;
                    self.draining = false;
                    self.exact = false;
                }
                self.step(Input::Resume);
            }
            Move::Busy(busy) => self.step(if busy { Input::Busy } else { Input::Idle }),
            Move::Terminate => {
                self.terminated = true;
                self.step(Input::Terminate);
            }
            Move::Webhook => self.step(Input::WebhookUnwanted { drop: false }),
            Move::Pass(ms, awake) => self.pass(ms, awake),
        }
    }
}

fn settings() -> impl Strategy<Value = Settings> {
    (any::<bool>(), any::<bool>(), prop::option::of(1_u16..5)).prop_map(|(settled, fast, max_unsettled)| Settings {
        delivery: if settled { Delivery::Settled } else { Delivery::Transparent },
        ordering: if fast { Ordering::Fast } else { Ordering::Strict },
        max_unsettled,
        ..Settings::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn r08_r09_r10_r13_never_two_polls_never_after_the_fence_never_above_what_the_bot_sent_or_what_is_settled(
        moves in moves(),
        settings in settings(),
    ) {
        let mut run = Run::new(settings);
        for action in moves {
            run.make(action);
        }
        run.pass(21_000, true);
        run.make(Move::Fails(0));
        run.make(Move::Fails(0));
        assert!(!run.draining, "a drain that does not end");
    }
}
