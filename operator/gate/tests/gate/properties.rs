//! What holds for every order of events.

use std::time::Duration;

use pollux_clock::BootInstant;
use pollux_gate::core::{Action, Closed, ConnectionId, Core, Input, Outcome, PollArgs, PollId, Reply, RequestId};
use pollux_gate::{Leadership, Settings};
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
        1 => Just(Move::Drain),
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
    open: Vec<(RequestId, BootInstant, i64)>,
    poll: Option<PollId>,
    last_poll: Option<PollId>,
    /// Offsets that the bot has sent.
    sent: Vec<i64>,
    next_update: i64,
    told: Told,
    terminated: bool,
    /// A drain was asked for and is not over.
    draining: bool,
}

/// What the owner has said last.
#[derive(Clone, Copy, Default)]
struct Told {
    fence: Option<BootInstant>,
    epoch: i64,
    drained: Option<i64>,
}

impl Run {
    fn new() -> Self {
        Self {
            core: Core::new(Settings::default(), 7),
            now: BootInstant::from_boot(Duration::from_secs(1_000_000)),
            requests: 0,
            open: Vec::new(),
            poll: None,
            last_poll: None,
            sent: Vec::new(),
            next_update: 1,
            told: Told::default(),
            terminated: false,
            draining: false,
        }
    }

    fn leads(&self) -> bool {
        self.told.fence.is_some_and(|fence| self.now < fence)
    }

    fn step(&mut self, input: Input) {
        let updates = matches!(input, Input::PollEnded(_, Outcome::Updates(_)));
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
                    self.open.remove(known.expect("an answer to nobody, or a second one"));
                    if reply == Reply::Updates {
                        assert!(updates, "updates out of nowhere");
                        assert!(self.leads(), "delivers after its fence");
                        assert_ne!(Some(request), asked);
                    }
                }
                Action::Drained(_) => self.draining = false,
                _ => {}
            }
        }
        if !self.leads() {
            assert!(self.poll.is_none(), "a poll is open after the fence");
        }
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
            for (_, at, seconds) in &self.open {
                let wait = Duration::from_secs(seconds.clamp(&3, &50).unsigned_abs());
                assert!(self.now - *at <= wait + Duration::from_secs(4), "held longer than its time-out");
            }
        }
    }

    fn ask(&mut self, offset: i64, timeout: i64, limit: Option<i64>) {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.open.push((request, self.now, timeout));
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
                let fence = self.now + Duration::from_millis(ms);
                self.told = Told { fence: Some(fence), epoch, ..self.told };
                self.step(Input::Leadership(Leadership::Leader { epoch, fence }));
            }
            Move::Standby => {
                self.told.fence = None;
                self.step(Input::Leadership(Leadership::Standby));
            }
            Move::Ask { offset, timeout, limit } => self.ask(offset, timeout, Some(limit)),
            Move::AskNext { timeout } => self.ask(self.next_update, timeout, None),
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
            Move::Brings(count) => {
                let ids: Vec<i64> = (self.next_update..).take(count.into()).collect();
                self.next_update += i64::from(count);
                self.ends(Outcome::Updates(ids));
            }
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
                    self.step(Input::PollEnded(id, Outcome::Updates(vec![self.next_update])));
                }
            }
            Move::Call(counts) => {
                self.step(Input::CallStarted { counts: true });
                self.step(Input::CallEnded { counts });
            }
            Move::Connect(id) => self.step(Input::Connected(ConnectionId(id))),
            Move::Disconnect(id) => self.step(Input::Disconnected(ConnectionId(id), Closed::Interrupted)),
            Move::Drain => {
                if self.leads() {
                    self.told.drained = Some(self.told.epoch);
                }
                self.draining = true;
                self.step(Input::Drain);
            }
            Move::Terminate => {
                self.terminated = true;
                self.step(Input::Terminate);
            }
            Move::Webhook => self.step(Input::WebhookUnwanted),
            Move::Pass(ms, awake) => self.pass(ms, awake),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn r08_r09_r10_r13_never_two_polls_never_after_the_fence_never_above_what_the_bot_sent(moves in moves()) {
        let mut run = Run::new();
        for action in moves {
            run.make(action);
        }
        run.pass(21_000, true);
        run.make(Move::Fails(0));
        run.make(Move::Fails(0));
        assert!(!run.draining, "a drain that does not end");
    }
}
