//! What a crash at any instant would lose: bots that acknowledge first, and a Telegram that forgets what is confirmed.
//!
//! A crash takes with it whatever the bot has not finished. So nothing is lost at any instant if no poll ever confirms an
//! update whose handler has not ended.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use pollux_clock::BootInstant;
use pollux_gate::core::{Action, Call, Core, Input, Outcome, PollArgs, PollId, PollQuery, Reply, RequestId};
use pollux_gate::{Delivery, Leadership, Settings};
use proptest::prelude::*;

const STEP: u64 = 5;

/// An update's way through the bot: how long its handler is silent before it calls, and how long the call takes.
#[derive(Clone, Copy, Debug)]
struct Work {
    after: u64,
    silent: u64,
    call: u64,
}

#[derive(Clone, Copy, Debug)]
enum Doing {
    Silent(u64),
    Calling(BootInstant, u64),
}

struct World {
    core: Core,
    now: u64,
    /// Updates that Telegram has not forgotten: `first..next`.
    first: usize,
    next: usize,
    poll: Option<(PollId, PollQuery)>,
    asked: u64,
    /// When it was asked without any waiting.
    short_polls: Vec<u64>,
    requests: u64,
    work: Vec<Work>,
    workers: usize,
    queue: VecDeque<usize>,
    doing: BTreeMap<usize, Doing>,
    done: Vec<bool>,
    given: Vec<u32>,
    /// The bot asks again.
    asks: Option<usize>,
}

impl World {
    fn new(work: Vec<Work>, workers: usize) -> Self {
        let settings = Settings { delivery: Delivery::Settled, ..Settings::default() };
        let count = work.len();
        Self {
            core: Core::new(settings, 3),
            now: 1_000_000,
            first: 0,
            next: 0,
            poll: None,
            asked: 0,
            short_polls: Vec::new(),
            requests: 0,
            work,
            workers,
            queue: VecDeque::new(),
            doing: BTreeMap::new(),
            done: vec![false; count],
            given: vec![0; count],
            asks: Some(0),
        }
    }

    fn at(&self) -> BootInstant {
        BootInstant::from_boot(Duration::from_millis(self.now))
    }

    /// As the driver does: told at once only where somebody waits for it.
    fn call(&mut self, call: Call) {
        if self.core.minds_calls() {
            self.step(Input::Call(call));
        } else {
            self.core.called(call, self.at());
        }
    }

    fn step(&mut self, input: Input) {
        let ids = match &input {
            Input::PollEnded(_, Outcome::Updates(ids)) => ids.clone(),
            _ => Vec::new(),
        };
        for action in self.core.step(input, self.at()) {
            match action {
                Action::Poll { id, query, .. } => self.poll(id, query),
                Action::Cancel(_) => self.poll = None,
                Action::Answer(_, reply) => {
                    let (skip, take) = if let Reply::Updates { skip, take } = reply { (skip, take) } else { (0, 0) };
                    let got = &ids[skip..skip + take];
                    for id in got {
                        let index = usize::try_from(*id).unwrap() - 1;
                        self.given[index] += 1;
                        self.queue.push_back(index);
                    }
                    self.asks = Some(self.given.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1));
                }
                _ => {}
            }
        }
    }

    /// The update with the index `n` has the id `n + 1`.
    fn poll(&mut self, id: PollId, query: PollQuery) {
        let offset = usize::try_from(query.offset.unwrap_or_default()).unwrap().saturating_sub(1);
        for index in self.first..offset {
            assert!(self.done[index], "a crash {} ms in loses {}", self.now - 1_000_000, index + 1);
        }
        self.first = self.first.max(offset);
        self.asked = self.now;
        if query.timeout_seconds == 0 {
            self.short_polls.push(self.now);
        }
        self.poll = Some((id, query));
    }

    fn answer(&mut self) {
        let Some((id, query)) = self.poll.clone() else { return };
        let due = self.asked + u64::from(query.timeout_seconds) * 1000;
        let ids: Vec<i64> = (self.first..self.next).take(query.limit.into()).map(|n| n as i64 + 1).collect();
        if !ids.is_empty() || self.now >= due {
            self.poll = None;
            self.step(Input::PollWritten(id, self.at()));
            self.step(Input::PollEnded(id, Outcome::Updates(ids)));
        }
    }

    fn work(&mut self) {
        let doing: Vec<_> = self.doing.iter().map(|(index, doing)| (*index, *doing)).collect();
        for (index, doing) in doing {
            match doing {
                Doing::Silent(until) if self.now >= until => {
                    let began = self.at();
                    self.call(Call::Started { counts: true, began });
                    self.doing.insert(index, Doing::Calling(began, self.now + self.work[index].call));
                }
                Doing::Calling(began, until) if self.now >= until => {
                    self.done[index] = true;
                    self.call(Call::Ended { counts: true, began });
                    self.doing.remove(&index);
                }
                _ => {}
            }
        }
        while self.doing.len() < self.workers
            && let Some(index) = self.queue.pop_front()
        {
            self.doing.insert(index, Doing::Silent(self.now + self.work[index].silent));
        }
    }

    /// Until everything is confirmed.
    fn run(&mut self) {
        let fence = BootInstant::from_boot(Duration::from_secs(1_000_000));
        self.step(Input::Leadership(Leadership::Leader { epoch: 1, fence }));
        let mut arrives = self.now;
        let limit = self.now + 400_000;
        while self.first < self.work.len() {
            assert!(self.now < limit, "{} of {} confirmed, {} given", self.first, self.work.len(), self.next);
            while self.next < self.work.len() && self.now >= arrives + self.work[self.next].after {
                arrives += self.work[self.next].after;
                self.next += 1;
            }
            if let Some(next) = self.asks.take() {
                self.requests += 1;
                let offset = Some(next as i64 + 1);
                let args = PollArgs { offset, timeout: Some(30), ..PollArgs::default() };
                self.step(Input::Poll { request: RequestId(self.requests), args });
            }
            self.answer();
            self.work();
            self.now += STEP;
            if self.core.wakeup().is_some_and(|at| at <= self.at()) {
                self.step(Input::Tick);
            }
        }
        assert!(self.given.iter().all(|count| *count == 1), "doubled without a crash: {:?}", self.given);
        let pace = self.short_polls.windows(2).map(|polls| polls[1] - polls[0]).min();
        assert!(pace.is_none_or(|pace| pace >= 600), "two short polls within {pace:?} ms");
    }
}

fn work(silent: u64) -> impl Strategy<Value = Vec<Work>> {
    let one =
        (prop_oneof![4 => 0_u64..400, 1 => 400_u64..6000], prop_oneof![3 => 0_u64..200, 1 => 0..silent], 0_u64..600);
    prop::collection::vec(one.prop_map(|(after, silent, call)| Work { after, silent, call }), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn r28_a_crash_at_any_instant_loses_nothing_that_is_handled_at_once(work in work(2900)) {
        World::new(work, usize::MAX).run();
    }

    /// Its queue may be minutes long: only a handler's own time is bounded.
    #[test]
    fn r28_a_crash_at_any_instant_loses_nothing_of_a_one_worker_queue(work in work(2900)) {
        World::new(work, 1).run();
    }
}
