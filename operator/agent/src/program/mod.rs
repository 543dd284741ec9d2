//! The agent's side of `polling.adapter: Process`: the bot is a program that runs only while this pod leads.
//!
//! The program's supervisor ([`crate::supervise`]) is the first process of the bot's container. It connects to the hook's
//! socket, says what is, and is told what may be ([`protocol`]).
//!
//! # Guarantees
//!
//! * A supervisor is told `run` only while this pod leads, with the lease's fence, and with every later fence.
//! * [`Program::stop`] returns when nothing of the program is left, by one of these: the supervisor says so, in answer to this
//!   very order; the file lock that all processes of the program inherit is free; the last fence that was ever given has passed.
//! * An agent that was restarted says nothing until it leads or drains: the program goes on until its fence, and is taken over if
//!   its pod takes its own lease again before.
//!
//! The socket is open to the bot's container. What a program can do with it is to end itself.

mod link;
pub mod protocol;

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pollux_clock::BootInstant;
use pollux_gate::{DrainOutcome, Drained, Leadership};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use self::protocol::{Order, Report, State, instant, nanoseconds};

/// Name of the file in the shared directory that a running program has locked.
pub const LOCK: &str = "program.lock";

/// How often the lock of a program is tried whose supervisor is gone.
const LOOK: Duration = Duration::from_millis(5);
/// A program that did not end in time is killed; so much later its fence has passed.
const KILL_SLACK: Duration = Duration::from_secs(1);
/// The longest lease: what a former agent of this pod may have given.
const LONGEST_LEASE: Duration = Duration::from_secs(60);

/// The bot's program, as its agent sees it; clones are the same one.
#[derive(Clone, Debug)]
pub struct Program {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    lock_file: PathBuf,
    drain_timeout: Duration,
    will: Mutex<Will>,
    orders: watch::Sender<Order>,
    seen: watch::Sender<Seen>,
}

/// What is wanted of the program.
#[derive(Clone, Copy, Debug)]
struct Will {
    leadership: Leadership,
    /// It is not to run under this epoch, or an earlier one; its fence does not go beyond the instant.
    withheld: Option<(i64, BootInstant)>,
    /// The latest fence that was ever given.
    given: BootInstant,
}

/// What is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// What its supervisor said last, while it is connected.
    pub report: Option<Report>,
    /// Nothing of it is left, as far as is known without a supervisor.
    pub dead: bool,
}

// === impl Program ===

impl Program {
    /// A program of which nothing is known yet. Makes the file for its lock.
    ///
    /// # Errors
    /// What the system said.
    pub fn new(shared_dir: &Path, drain_timeout: Duration) -> io::Result<Self> {
        let lock_file = shared_dir.join(LOCK);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_file)?;
        // Locking takes no right to write, and the bot's user has none.
        file.set_permissions(Permissions::from_mode(0o644))?;
        let will = Will { leadership: Leadership::Standby, withheld: None, given: BootInstant::now() + LONGEST_LEASE };
        let program = Self {
            inner: Arc::new(Inner {
                lock_file,
                drain_timeout,
                will: Mutex::new(will),
                orders: watch::Sender::new(Order::default()),
                seen: watch::Sender::new(Seen::default()),
            }),
        };
        let dead = program.is_free();
        program.inner.seen.send_modify(|seen| seen.dead = dead);
        Ok(program)
    }

    /// What is known, and each change of it.
    pub fn seen(&self) -> watch::Receiver<Seen> {
        self.inner.seen.subscribe()
    }

    /// To be called after each renewal of the lease, with the new fence.
    pub fn set_leadership(&self, leadership: Leadership) {
        let mut will = self.will();
        will.leadership = leadership;
        self.order(&mut will);
    }

    /// Takes a [`Program::stop`] back: the lease was kept.
    pub fn resume(&self) {
        let mut will = self.will();
        will.withheld = None;
        self.order(&mut will);
    }

    /// Ends the program, which is not started again before a later epoch or [`Program::resume`]. The lease must still be renewed
    /// meanwhile. Returns when nothing of it is left.
    pub async fn stop(&self) -> Drained {
        let began = BootInstant::now();
        let number = {
            let mut will = self.will();
            let epoch = match will.leadership {
                Leadership::Leader { epoch, .. } => epoch,
                Leadership::Standby => 0,
            };
            let end = began + self.inner.drain_timeout + KILL_SLACK;
            will.withheld = Some(will.withheld.filter(|(other, _)| *other == epoch).unwrap_or((epoch, end)));
            self.order(&mut will)
        };
        let was_there = !self.is_dead();
        let outcome = self.ended(number, was_there).await;
        let ended = self.inner.seen.borrow().report.as_ref().and_then(|report| report.ended);
        let at = ended.map(|end| instant(end.at_nanoseconds)).filter(|at| *at >= began);
        Drained {
            outcome,
            duration: BootInstant::now() - began,
            last_poll_ended: was_there.then(|| at.unwrap_or_else(BootInstant::now)),
            unacknowledged: 0,
            owed: 0,
            confirmed: true,
        }
    }

    /// Why this pod could not lead now.
    ///
    /// # Errors
    /// The reason, and what to do.
    pub fn ready(&self) -> Result<(), String> {
        match &self.inner.seen.borrow().report {
            None => {
                Err("the supervisor of the bot's program is not there: the bot's container does not run, or has just \
                         ended; see its log and its last state"
                    .to_owned())
            }
            Some(Report { not_executable: Some(why), .. }) => {
                Err(format!("the bot's program cannot be executed: {why}"))
            }
            Some(_) => Ok(()),
        }
    }

    async fn ended(&self, number: u64, was_there: bool) -> DrainOutcome {
        let mut seen = self.seen();
        loop {
            let now = seen.borrow_and_update().clone();
            let until = self.will().given;
            match &now.report {
                Some(report) if report.order >= number && report.state == State::Idle => {
                    return match report.ended {
                        _ if !was_there => DrainOutcome::Nothing,
                        Some(end) if end.killed => DrainOutcome::TimedOut,
                        _ => DrainOutcome::Complete,
                    };
                }
                None if now.dead || self.is_free() => {
                    return if was_there { DrainOutcome::BotGone } else { DrainOutcome::Nothing };
                }
                _ if BootInstant::now() >= until => {
                    warn!("the supervisor does not say that the bot's program has ended; its last fence has passed");
                    return DrainOutcome::TimedOut;
                }
                Some(_) => {
                    let _ = timeout(until - BootInstant::now(), seen.changed()).await;
                }
                None => {
                    let _ = timeout(LOOK, seen.changed()).await;
                }
            }
        }
    }

    /// Nothing of it is left.
    fn is_dead(&self) -> bool {
        let seen = self.inner.seen.borrow().clone();
        let number = self.inner.orders.borrow().number;
        match seen.report {
            // It may just be about to obey an order to run.
            Some(report) => report.state == State::Idle && (report.order == number || number == 0) && self.is_free(),
            None => seen.dead,
        }
    }

    fn is_free(&self) -> bool {
        // A lock that cannot be asked for proves nothing.
        std::fs::File::open(&self.inner.lock_file).is_ok_and(|file| file.try_lock().is_ok())
    }

    /// Gives the order that follows from what is wanted, and says its number.
    fn order(&self, will: &mut Will) -> u64 {
        let stop = self.inner.drain_timeout;
        let (run, epoch, until) = match will.leadership {
            Leadership::Standby if self.inner.orders.borrow().number == 0 && will.withheld.is_none() => return 0,
            Leadership::Standby => (false, 0, BootInstant::ZERO),
            Leadership::Leader { epoch, fence } => match will.withheld {
                Some((withheld, end)) if epoch <= withheld => (false, epoch, fence.min(end)),
                _ => {
                    will.withheld = None;
                    (true, epoch, fence)
                }
            },
        };
        // What ends a program at once does not prove that it has ended.
        if until > BootInstant::ZERO {
            will.given = until;
        }
        let mut number = 0;
        self.inner.orders.send_modify(|order| {
            number = order.number + 1;
            *order = Order {
                number,
                run,
                epoch,
                until_nanoseconds: nanoseconds(until),
                stop_milliseconds: u64::try_from(stop.as_millis()).unwrap_or(u64::MAX),
            };
        });
        number
    }

    fn will(&self) -> MutexGuard<'_, Will> {
        self.inner.will.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its supervisor has connected; `false` if there is one already.
    fn connected(&self, report: Report) -> bool {
        self.inner.seen.send_if_modified(|seen| {
            let first = seen.report.is_none();
            if first {
                info!(program = report.program, not_executable = report.not_executable, state = ?report.state,
                    "the supervisor of the bot's program is there");
                *seen = Seen { report: Some(report), dead: false };
            }
            first
        })
    }

    fn said(&self, report: Report) {
        self.inner.seen.send_if_modified(|seen| {
            let changed = seen.report.as_ref() != Some(&report);
            let former = seen.report.replace(report.clone());
            if changed {
                tell(&former.unwrap_or_default(), &report);
            }
            changed
        });
    }

    /// Its supervisor is gone; the program is dead when that is proved.
    fn disconnected(&self) {
        warn!("the supervisor of the bot's program is gone");
        self.inner.seen.send_replace(Seen::default());
        let program = self.clone();
        tokio::spawn(async move {
            let until = program.will().given;
            while program.inner.seen.borrow().report.is_none() {
                if program.is_free() || BootInstant::now() >= until {
                    program.inner.seen.send_if_modified(|seen| {
                        seen.dead |= seen.report.is_none();
                        seen.dead
                    });
                    return;
                }
                sleep(LOOK).await;
            }
        });
    }
}

/// Changes go to the log.
fn tell(former: &Report, report: &Report) {
    if former.not_executable != report.not_executable {
        match &report.not_executable {
            Some(why) => warn!(why, "the bot's program cannot be executed: this pod cannot lead"),
            None => info!(program = report.program, "the bot's program can be executed"),
        }
    }
    if former.started_nanoseconds != report.started_nanoseconds {
        info!(epoch = report.epoch, program = report.program, "the bot's program is started");
    }
    if let Some(end) = report.ended.filter(|_| former.ended != report.ended) {
        match end.told {
            true => info!(exit = %end.exit, killed = end.killed, "the bot's program has ended"),
            false => warn!(exit = %end.exit, "the bot's program has ended without having been told"),
        }
    }
}
