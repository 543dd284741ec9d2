//! What a supervisor does, without any I/O.
//!
//! ```text
//!            run, and room before the fence                     told to end, or near the fence: SIGTERM
//!   Idle ────────────────────────────────────► Running ───────────────────────────────────────────────► Stopping
//!    ▲                                            │ it ended by itself                                      │ it ended, or was
//!    │   nothing is left                          ▼                                                         ▼ killed in time
//!    └─────────────────────────────────────── Sweeping ◄─────────────────────────────────────────────────────
//! ```
//!
//! * *Fence.* Nothing of the program is left at [`Order::until`]. SIGKILL is sent [`Lines::kill`] before it, so that the
//!   kernel has time to end it and to close its connections; SIGTERM some time before that, if nobody renews. Only an order
//!   moves the fence; a lost connection does not.
//! * *Crash.* A program that ends without having been told ends the supervisor, with the same status.
//! * *SIGTERM* ends the program, and then the supervisor: with the status of the program, or 0 if none ran.

use std::time::Duration;

use pollux_clock::BootInstant;

use crate::program::protocol::{End, Exit, Order, Report, State, nanoseconds};

/// Pause before a former program of this pod that is not quite dead is looked at again.
const BUSY: Duration = Duration::from_millis(5);
/// What a fork that raced with a kill gets until the next one.
const KILL_AGAIN: Duration = Duration::from_millis(50);

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// An agent listens, which counts its orders from anew.
    Connected,
    /// From the agent.
    Order(Order),
    /// The program was looked for.
    Found(Result<String, String>),
    /// It was started.
    Started,
    /// It could not be.
    NotStarted(String),
    /// Not yet: a former program of this pod is not quite dead.
    Busy,
    /// Its first process has ended.
    Ended(Exit),
    /// No child is left.
    Swept,
    /// SIGTERM of the container.
    Terminate,
    /// Time has passed.
    Tick,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Start the program.
    Start,
    /// SIGTERM to its process group.
    Terminate,
    /// SIGKILL to whatever is left of it.
    Kill,
    /// End with this status.
    Exit(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Starting,
    Running,
    Stopping { since: BootInstant, killed: bool },
    Sweeping { exit: Exit, told: bool, killed: bool },
    Over,
}

/// The two instants before a fence.
#[derive(Clone, Copy, Debug)]
struct Lines {
    terminate: BootInstant,
    kill: BootInstant,
}

#[derive(Debug)]
pub(super) struct Core {
    order: Order,
    lines: Lines,
    phase: Phase,
    terminating: bool,
    /// The next of what is done again and again.
    again: BootInstant,
    report: Report,
}

// === impl Lines ===

impl Lines {
    const NONE: Self = Self { terminate: BootInstant::ZERO, kill: BootInstant::ZERO };

    /// Both keep away from a fence in proportion to what is left when it is set: leases of half a minute and of a second are
    /// renewed in proportion, too.
    fn before(fence: BootInstant, now: BootInstant) -> Self {
        let left = fence - now;
        let margin = (left / 16).clamp(Duration::from_millis(20), Duration::from_millis(200));
        let notice = (left / 8).min(Duration::from_secs(2));
        let kill = fence.saturating_sub(margin);
        Self { terminate: kill.saturating_sub(notice), kill }
    }
}

// === impl Core ===

impl Core {
    pub(super) fn new() -> Self {
        Self {
            order: Order::default(),
            lines: Lines::NONE,
            phase: Phase::Idle,
            terminating: false,
            again: BootInstant::ZERO,
            report: Report { not_executable: Some("it has not been looked for yet".to_owned()), ..Report::default() },
        }
    }

    pub(super) fn step(&mut self, input: Input, now: BootInstant) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::Connected => self.order.number = 0,
            Input::Order(order) => self.take(order, now),
            Input::Found(Ok(program)) => (self.report.program, self.report.not_executable) = (program, None),
            Input::Found(Err(why)) => self.report.not_executable = Some(why),
            Input::Started => {
                self.phase = Phase::Running;
                self.again = BootInstant::ZERO;
                self.report.started_nanoseconds = Some(nanoseconds(now));
            }
            Input::NotStarted(why) => {
                self.phase = Phase::Idle;
                self.report.not_executable = Some(why);
            }
            Input::Busy => {
                self.phase = Phase::Idle;
                self.again = now + BUSY;
            }
            Input::Ended(exit) => {
                let (told, killed) = match self.phase {
                    Phase::Stopping { killed, .. } => (true, killed),
                    _ => (false, false),
                };
                self.phase = Phase::Sweeping { exit, told, killed };
                self.again = now;
            }
            Input::Swept => self.swept(now, &mut actions),
            Input::Terminate => self.terminating = true,
            Input::Tick => {}
        }
        self.act(now, &mut actions);
        actions
    }

    /// What the agent is told.
    pub(super) fn report(&self) -> Report {
        let state = match self.phase {
            Phase::Idle | Phase::Over => State::Idle,
            Phase::Starting | Phase::Running => State::Running,
            Phase::Stopping { .. } | Phase::Sweeping { .. } => State::Stopping,
        };
        Report { order: self.order.number, state, epoch: self.order.epoch, ..self.report.clone() }
    }

    /// The program should be looked for from time to time.
    pub(super) fn looks(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// Until when a program that is started now may live.
    pub(super) fn fence(&self) -> BootInstant {
        self.lines.kill
    }

    /// When to call again, if nothing happens.
    pub(super) fn wakeup(&self) -> Option<BootInstant> {
        match self.phase {
            Phase::Idle => Some(self.again).filter(|again| *again > BootInstant::ZERO),
            Phase::Starting | Phase::Over => None,
            Phase::Running => Some(self.lines.terminate),
            Phase::Stopping { since, killed } => Some(if killed { self.again } else { self.kill_at(since) }),
            Phase::Sweeping { .. } => Some(self.again),
        }
    }

    fn take(&mut self, order: Order, now: BootInstant) {
        if order.until_nanoseconds != self.order.until_nanoseconds {
            self.lines = Lines::before(order.until(), now);
        }
        self.order = order;
    }

    fn kill_at(&self, since: BootInstant) -> BootInstant {
        (since + self.order.stop()).min(self.lines.kill)
    }

    fn act(&mut self, now: BootInstant, actions: &mut Vec<Action>) {
        match self.phase {
            Phase::Idle if self.terminating => actions.push(Action::Exit(0)),
            Phase::Idle if now >= self.again => {
                self.again = BootInstant::ZERO;
                if self.order.run && self.report.not_executable.is_none() && now < self.lines.terminate {
                    self.phase = Phase::Starting;
                    actions.push(Action::Start);
                }
            }
            Phase::Idle | Phase::Starting | Phase::Over => {}
            Phase::Running => {
                if self.terminating || !self.order.run || now >= self.lines.terminate {
                    self.phase = Phase::Stopping { since: now, killed: false };
                    actions.push(Action::Terminate);
                    self.kill_in_time(now, now, false, actions);
                }
            }
            Phase::Stopping { since, killed } => self.kill_in_time(since, now, killed, actions),
            Phase::Sweeping { .. } => self.kill_again(now, actions),
        }
    }

    fn kill_in_time(&mut self, since: BootInstant, now: BootInstant, killed: bool, actions: &mut Vec<Action>) {
        if killed {
            self.kill_again(now, actions);
        } else if now >= self.kill_at(since) {
            self.phase = Phase::Stopping { since, killed: true };
            self.again = now;
            self.kill_again(now, actions);
        }
    }

    fn kill_again(&mut self, now: BootInstant, actions: &mut Vec<Action>) {
        if now >= self.again {
            self.again = now + KILL_AGAIN;
            actions.push(Action::Kill);
        }
    }

    fn swept(&mut self, now: BootInstant, actions: &mut Vec<Action>) {
        let Phase::Sweeping { exit, told, killed } = self.phase else {
            return;
        };
        (self.phase, self.again) = (Phase::Idle, BootInstant::ZERO);
        self.report.ended = Some(End { exit, told, killed, at_nanoseconds: nanoseconds(now) });
        if self.terminating || !told {
            actions.push(Action::Exit(exit.status()));
            self.phase = Phase::Over;
        }
    }
}

#[cfg(test)]
#[path = "core_test.rs"]
mod tests;
