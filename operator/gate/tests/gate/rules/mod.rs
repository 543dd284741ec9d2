//! The core's rules with a made-up clock: no I/O, no waiting.

mod draining;
mod pending;
mod polling;
mod presence;
mod settled;

use std::time::Duration;

use pollux_clock::BootInstant;
use pollux_gate::core::{Action, Call, Core, Input, Outcome, PollArgs, PollId, PollQuery, Reply, RequestId};
use pollux_gate::{Drained, Event, Leadership, Settings, Status};

pub(crate) const TTL: u64 = 10_000;

/// A core, a clock, and what the edge would remember.
pub(crate) struct World {
    pub(crate) core: Core,
    pub(crate) now: BootInstant,
    pub(crate) last: u64,
    /// The open upstream poll.
    pub(crate) poll: Option<(PollId, PollQuery)>,
    pub(crate) answers: Vec<(RequestId, Reply)>,
    pub(crate) events: Vec<Event>,
    pub(crate) drained: Vec<Drained>,
    pub(crate) deletes: usize,
    /// Of these, with the pending updates.
    pub(crate) drops: usize,
    pub(crate) cancels: usize,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        Self {
            core: Core::new(settings, 1),
            now: BootInstant::from_boot(Duration::from_secs(1_000_000)),
            last: 0,
            poll: None,
            answers: Vec::new(),
            events: Vec::new(),
            drained: Vec::new(),
            deletes: 0,
            drops: 0,
            cancels: 0,
        }
    }

    pub(crate) fn step(&mut self, input: Input) {
        for action in self.core.step(input, self.now) {
            match action {
                Action::Answer(request, reply) => self.answers.push((request, reply)),
                Action::Poll { id, query, .. } => {
                    assert!(self.poll.is_none(), "two polls at once");
                    self.poll = Some((id, query));
                }
                Action::Cancel(id) => {
                    assert_eq!(self.poll.take().map(|poll| poll.0), Some(id));
                    self.cancels += 1;
                }
                Action::Warm => {}
                Action::DeleteWebhook { drop } => {
                    self.deletes += 1;
                    self.drops += usize::from(drop);
                }
                Action::Emit(event) => self.events.push(event),
                Action::Drained(drained) => self.drained.push(drained),
            }
        }
    }

    /// Lets time pass, waking the core whenever it asks for it.
    pub(crate) fn pass(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while let Some(at) = self.core.wakeup().filter(|at| *at <= end) {
            assert!(at > self.now, "the core wants to be called in the past");
            self.now = at;
            self.step(Input::Tick);
        }
        self.now = end;
        self.step(Input::Tick);
    }

    pub(crate) fn lead(&mut self, epoch: i64) {
        self.lead_for(epoch, TTL);
    }

    pub(crate) fn lead_for(&mut self, epoch: i64, ms: u64) {
        let fence = self.now + Duration::from_millis(ms);
        self.step(Input::Leadership(Leadership::Leader { epoch, fence }));
    }

    pub(crate) fn ask(&mut self, offset: i64, timeout: i64) -> RequestId {
        self.ask_with(PollArgs { offset: Some(offset), timeout: Some(timeout), ..PollArgs::default() })
    }

    pub(crate) fn ask_with(&mut self, args: PollArgs) -> RequestId {
        self.last += 1;
        let request = RequestId(self.last);
        self.step(Input::Poll { request, args });
        request
    }

    /// The open poll's request is written to the socket.
    pub(crate) fn written(&mut self) {
        let (id, _) = self.poll.clone().expect("a poll is open");
        self.step(Input::PollWritten(id, self.now));
    }

    pub(crate) fn ends(&mut self, outcome: Outcome) {
        self.written();
        let (id, _) = self.poll.take().unwrap();
        self.step(Input::PollEnded(id, outcome));
    }

    /// The edge gives up waiting for the answer to a request that was written.
    pub(crate) fn ends_unanswered(&mut self) {
        let (id, _) = self.poll.take().expect("a poll is open");
        self.step(Input::PollEnded(id, Outcome::Failed));
    }

    pub(crate) fn brings(&mut self, ids: &[i64]) {
        self.ends(Outcome::Updates(ids.to_vec()));
    }

    pub(crate) fn query(&self) -> &PollQuery {
        &self.poll.as_ref().expect("a poll is open").1
    }

    pub(crate) fn query_offset(&self) -> Option<i64> {
        self.poll.as_ref().and_then(|poll| poll.1.offset)
    }

    pub(crate) fn call(&mut self, ms: u64) {
        let began = self.now;
        self.step(Input::Call(Call::Started { counts: true, began }));
        self.pass(ms);
        self.step(Input::Call(Call::Ended { counts: true, began }));
    }

    /// All updates of the answer were for the bot.
    pub(crate) fn given(&self, request: RequestId, count: usize) -> bool {
        self.answered(request) == Some(Reply::Updates { skip: 0, take: count })
    }

    pub(crate) fn answered(&self, request: RequestId) -> Option<Reply> {
        self.answers.iter().find(|answer| answer.0 == request).map(|answer| answer.1)
    }

    pub(crate) fn status(&self) -> Status {
        self.core.status(None, self.now)
    }
}
