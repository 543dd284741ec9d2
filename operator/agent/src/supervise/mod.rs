//! `pollux-agent supervise -- PROGRAM ARGS…`: the first process of a bot's container with `polling.adapter: Process`.
//!
//! It starts the program while its pod leads, and ends it before another pod may lead. It runs in any image, as the copy
//! that the hook is, too: no shell, no library, any user id, a read-only root.
//!
//! * `core` decides: a state machine without I/O, whose documentation is the specification.
//! * `children` starts, signals, kills and reaps processes.
//! * `find` looks for the program, as `execvp` does.
//! * `connection` talks to the agent.
//! * [`execute`] is what the program's process does before it becomes the program.
//!
//! # Guarantees
//!
//! * The program runs only under an order of the agent, and nothing of it is left at the order's fence, whether the agent
//!   lives or not.
//! * It dies with the supervisor: the kernel kills it (`PR_SET_PDEATHSIG`), and everything else in the container when its
//!   first process dies.
//! * Descendants that left its process group are children of the supervisor when their parents die, and are killed, too.
//! * Two programs of one pod never live together: the second waits for a file lock that the first has inherited.
//!
//! # Caveats
//!
//! * A supervisor that is stopped alone (SIGSTOP) cannot keep the fence. What freezes the whole container (a cgroup, the
//!   machine's sleep) freezes the program as well; then the fence is kept when they go on, within milliseconds.
//! * A set-uid program is not killed with the supervisor, unless that is the container's first process.

mod children;
mod connection;
mod core;
pub mod execute;
mod find;
mod timer;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use pollux_clock::BootInstant;
use rustix::process::Signal as Number;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::cli::SuperviseOptions;
use crate::program::protocol::{Report, State};

use self::children::{Children, Start};
use self::connection::{Connection, News};
use self::core::{Action, Core, Input};
use self::timer::Timer;

/// How often a program that cannot be executed is looked for again: its volume may be filled later.
const LOOK: Duration = Duration::from_secs(1);

/// Runs the subcommand.
pub fn main(options: &SuperviseOptions) -> ExitCode {
    let ended = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(async { Supervisor::new(options)?.run().await }));
    match ended {
        Ok(status) => ExitCode::from(status),
        Err(e) => {
            say(&format!("the supervisor cannot run: {e}"));
            ExitCode::FAILURE
        }
    }
}

/// One line of the container's log, of which everything else is the program's.
fn say(line: &str) {
    eprintln!("pollux-agent supervise: {line}");
}

struct Supervisor {
    core: Core,
    children: Children,
    connection: Connection,
    program: String,
    timer: Timer,
    look: Interval,
    signals: Signals,
    told: Option<Report>,
    complained: Option<String>,
}

// === impl Supervisor ===

impl Supervisor {
    fn new(options: &SuperviseOptions) -> io::Result<Self> {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            core: Core::new(),
            children: Children::new(&options.shared_dir, &options.command)?,
            connection: Connection::new(&options.shared_dir),
            program: options.command.first().cloned().unwrap_or_default(),
            timer: Timer::new()?,
            look,
            signals: Signals::new()?,
            told: None,
            complained: None,
        })
    }

    async fn run(mut self) -> io::Result<u8> {
        loop {
            self.timer.set(self.core.wakeup())?;
            let input = tokio::select! {
                biased;
                () = self.timer.rings() => Input::Tick,
                _ = self.signals.child.recv() => Input::Tick,
                _ = self.signals.terminate.recv() => Input::Terminate,
                _ = self.signals.interrupt.recv() => Input::Terminate,
                _ = self.signals.quit.recv() => Input::Terminate,
                _ = self.signals.hangup.recv() => self.pass_on(Number::HUP),
                _ = self.signals.user1.recv() => self.pass_on(Number::USR1),
                _ = self.signals.user2.recv() => self.pass_on(Number::USR2),
                news = self.connection.news() => self.heard(news),
                _ = self.look.tick(), if self.core.looks() => Input::Found(find::find(&self.program)),
            };
            if let Some(status) = self.feed(input) {
                return Ok(status);
            }
        }
    }

    fn heard(&mut self, news: News) -> Input {
        match news {
            News::Connected => {
                self.told = None;
                Input::Connected
            }
            News::Order(order) => Input::Order(order),
            News::Nothing => Input::Tick,
        }
    }

    fn pass_on(&self, signal: Number) -> Input {
        self.children.signal(signal);
        Input::Tick
    }

    /// Gives the core what happened, and everything that follows from it; `Some` is the end.
    fn feed(&mut self, first: Input) -> Option<u8> {
        let mut inputs = vec![first];
        inputs.extend(self.children.reap());
        let mut end = None;
        while !inputs.is_empty() {
            for input in std::mem::take(&mut inputs) {
                let fence = |core: &Core| core.fence();
                for action in self.core.step(input, BootInstant::now()) {
                    match action {
                        Action::Start => inputs.push(self.start(fence(&self.core))),
                        Action::Terminate => {
                            say("the program is told to end (SIGTERM)");
                            self.children.signal_group(Number::TERM);
                        }
                        Action::Kill => {
                            self.children.kill();
                            inputs.extend(self.children.reap());
                        }
                        Action::Exit(status) => end = Some(status),
                    }
                }
            }
        }
        self.tell();
        end
    }

    fn start(&mut self, fence: BootInstant) -> Input {
        match self.children.start(fence) {
            Start::Started(pid) => {
                say(&format!("this pod leads: the program is started (process {pid})"));
                Input::Started
            }
            Start::Busy => Input::Busy,
            Start::Failed(why) => Input::NotStarted(why),
        }
    }

    /// Tells the agent and the log what has changed.
    fn tell(&mut self) {
        let report = self.core.report();
        if report.not_executable != self.complained {
            if let Some(why) = &report.not_executable {
                say(&format!("the program cannot be executed, so this pod cannot lead: {why}"));
            }
            self.complained.clone_from(&report.not_executable);
        }
        let ended = |report: &Option<Report>| report.as_ref().and_then(|r| r.ended);
        if let Some(end) = report.ended.filter(|_| report.ended != ended(&self.told) && report.state == State::Idle) {
            let why = if end.told { "as it was told to" } else { "without having been told: the supervisor ends, too" };
            let how = if end.killed { "; it did not in time and was killed" } else { "" };
            say(&format!("the program ended with {} {why}{how}", end.exit));
        }
        if self.told.as_ref() != Some(&report) && self.connection.tell(&report) {
            self.told = Some(report);
        }
    }
}

/// What a container's first process is sent.
struct Signals {
    child: Signal,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

// === impl Signals ===

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            child: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }
}
