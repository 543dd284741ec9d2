//! One contender: a process that takes part in one election until it is killed.
//!
//! It says on its standard output, a line each, with readings of the machine's one `CLOCK_BOOTTIME` in nanoseconds:
//!
//! * `follows`: it takes part, and has seen that somebody else leads.
//! * `leads N`: from here on it may act.
//! * `stands N`: it may act no more.
//! * `gives N`: the order that gives leadership away was sent at N. `frees N` if it named no successor though it should have.
//!
//! and hears on its standard input `expect` (a drain begins) and `give` (it has ended). It ends when its input does. The
//! contenders in Go (`go/`) speak the same.

mod advisory_lock;
mod bare;
mod lease;
mod river;
mod ttl_row;

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use pollux_clock::BootInstant;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::{AsyncMessage, Client, NoTls};

/// The rules by which a contender contends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rules {
    /// This project's lease.
    Lease,
    /// No rules at all: what a commit, a notification and a read cost.
    Bare,
    /// A session's advisory lock, tried each second.
    AdvisoryLock,
    /// A row of 30 s, looked at every 10 s.
    TtlRow,
    /// River's.
    River,
}

/// Which election, and who.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Seat {
    /// The rules.
    rules: Rules,
    /// The database.
    #[arg(long)]
    uri: String,
    /// The election's name.
    #[arg(long)]
    election: String,
    /// The election's number.
    #[arg(long)]
    number: i64,
    /// This contender's name.
    #[arg(long)]
    me: String,
    /// The lease's TTL in milliseconds.
    #[arg(long, default_value_t = 10_000)]
    ttl_ms: u64,
}

/// What a contender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Expect,
    Give,
}

/// Says what changed, and nothing twice.
#[derive(Debug, Default)]
struct Voice {
    said: Option<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Leads,
    Follows,
    Stands,
}

/// Takes part until it is told to give, is killed, or its input ends.
pub(crate) fn contend(seat: Seat) -> Result<()> {
    // One thread, as little as possible between a message and what follows from it; the same for all.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let orders = orders();
    // As a task, like its connection's: the runtime's own future would have to wait for all of these.
    let contending = runtime.spawn(async {
        match seat.rules {
            Rules::Lease => lease::run(seat, orders).await,
            Rules::Bare => bare::run(seat, orders).await,
            Rules::AdvisoryLock => advisory_lock::run(seat, orders).await,
            Rules::TtlRow => ttl_row::run(seat, orders).await,
            Rules::River => river::run(seat, orders).await,
        }
    });
    runtime.block_on(contending)?
}

fn orders() -> UnboundedReceiver<Order> {
    let (tx, rx) = unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let order = match line.as_str() {
                "expect" => Order::Expect,
                "give" => Order::Give,
                _ => continue,
            };
            if tx.send(order).is_err() {
                return;
            }
        }
        // Whoever started this is gone.
        std::process::exit(0);
    });
    rx
}

// === impl Rules ===

impl Rules {
    /// As a command's argument.
    pub(crate) fn word(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

// === impl Seat ===

impl Seat {
    const fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }

    /// A connection, and what it is notified of.
    async fn connect(&self) -> Result<(Client, UnboundedReceiver<()>)> {
        let connecting = tokio_postgres::connect(&self.uri, NoTls);
        let (client, mut connection) = connecting.await.context("no connection")?;
        let (tx, rx) = unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                if matches!(message, AsyncMessage::Notification(_)) {
                    let _ = tx.send(());
                }
            }
        });
        Ok((client, rx))
    }
}

// === impl Voice ===

impl Voice {
    fn leads(&mut self) {
        self.turn(State::Leads, "leads", Some(BootInstant::now()));
    }

    fn follows(&mut self) {
        self.turn(State::Follows, "follows", None);
    }

    fn stands(&mut self) {
        if self.said == Some(State::Leads) {
            self.turn(State::Stands, "stands", Some(BootInstant::now()));
        }
    }

    fn gives(at: BootInstant) {
        line("gives", Some(at));
    }

    fn frees(at: BootInstant) {
        line("frees", Some(at));
    }

    fn turn(&mut self, state: State, word: &str, at: Option<BootInstant>) {
        if self.said != Some(state) {
            self.said = Some(state);
            line(word, at);
        }
    }
}

fn line(word: &str, at: Option<BootInstant>) {
    let at = at.map(|at| format!(" {}", at.since_boot().as_nanos())).unwrap_or_default();
    // One write: a kill leaves a whole line or none. Nobody who would read it is left if it fails.
    let _ = std::io::stdout().write_all(format!("{word}{at}\n").as_bytes());
}
