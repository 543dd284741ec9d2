//! An agent's handle on its bot's lease.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use pollux_clock::BootInstant;
use prometheus_client::registry::Registry;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::core::{Core, Me};
use crate::driver::{Driver, Probe};
use crate::identity::{BotKey, HolderId, Replica, TokenDigest};
use crate::lane::Lane;
use crate::metrics::Metrics;
use crate::statements::Caller;
use crate::view::{HandOver, HandedOver, View};
use crate::world::{Postgres, World};

/// What an agent brings along.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that holds the lease database's URI. It is read again for each connection, so a rotated password needs no
    /// restart.
    pub database_file: PathBuf,
    /// Whose lease.
    pub bot: BotKey,
    /// Proof that this agent knows the bot's token.
    pub token: TokenDigest,
    /// Who this is.
    pub replica: Replica,
    /// A file in a directory that lives as long as the pod and is seen by it alone. Its lock, held for the life of the
    /// process, lets a restarted agent take the lease of its predecessor at once; while a predecessor still has it, this
    /// process does not lead.
    pub alive_file: Option<PathBuf>,
    /// The TTL to write as long as no setting says otherwise.
    pub default_ttl: Duration,
}

/// A handle on the lease; clones are the same one. The lease is kept by a task of its own and goes on, whatever happens to
/// PostgreSQL, until [`Lease::shutdown`].
#[derive(Clone, Debug)]
pub struct Lease {
    commands: mpsc::UnboundedSender<Command>,
    view: watch::Receiver<View>,
    metrics: Metrics,
}

#[derive(Debug)]
pub(crate) enum Command {
    Ready(bool),
    Report(Value),
    Token(TokenDigest),
    ExpectHandover(bool),
    HandOver(HandOver, oneshot::Sender<HandedOver>),
    Leave,
    FirstPoll(BootInstant),
    Shutdown(oneshot::Sender<()>),
}

// === impl Lease ===

impl Lease {
    /// Begins to take part, as a standby that is not ready. Must be called within a tokio runtime.
    pub fn spawn(config: Config) -> Self {
        let world = Postgres::new(config.database_file.clone(), config.alive_file.clone());
        let (lease, driver) = Self::new(config, HolderId::random(), rand::make_rng(), world);
        tokio::spawn(driver.run());
        lease
    }

    /// A handle, and what keeps the lease as long as it is polled.
    pub(crate) fn new<W: World>(config: Config, id: HolderId, random: StdRng, world: W) -> (Self, Driver<W>) {
        let (commands, orders) = mpsc::unbounded_channel();
        let (published, view) = watch::channel(View::default());
        let metrics = Metrics::new();
        let me = Me { id, replica: config.replica, file_lock: config.alive_file.is_some() };
        let driver = Driver {
            world,
            random,
            core: Core::new(me.clone(), config.default_ttl),
            caller: Caller { bot: config.bot, token: config.token, new_tokens: VecDeque::new(), me },
            commands: orders,
            view: published,
            metrics: metrics.clone(),
            locked: false,
            waiting: Vec::new(),
            ending: Vec::new(),
            end_by: None,
            attempts: 0,
            probe: Probe::Wanted,
            lane: Lane::Off,
            #[cfg(test)]
            flaw: None,
        };
        (Self { commands, view, metrics }, driver)
    }

    /// What is known of the lease, and each change of it.
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Says whether this replica's bot could lead at once, that is, has a request for updates open. Only then may this
    /// process take or be given the lease. A leader that is not ready keeps it until it hands it over.
    pub fn set_ready(&self, ready: bool) {
        self.send(Command::Ready(ready));
    }

    /// What the controller should know of this replica; written when it changes. At most 8 KiB of JSON: more is not sent.
    pub fn set_report(&self, report: Value) {
        self.send(Command::Report(report));
    }

    /// The bot's token was rotated: the same bot, another proof.
    pub fn set_token_digest(&self, token: TokenDigest) {
        self.send(Command::Token(token));
    }

    /// The lease will probably be given away soon: candidates are asked for frequent beats, so that the handover finds a
    /// successor which is known to be alive. `false` takes that back. A handover ends it, too.
    pub fn expect_handover(&self, expected: bool) {
        self.send(Command::ExpectHandover(expected));
    }

    /// Gives the lease to the best ready successor, or to nobody. From the moment at which the order is sent the role is
    /// [`crate::Role::Standby`], whatever the reply, and whether or not there is one: the order may be carried out late.
    ///
    /// Returns when PostgreSQL answered, at the latest after a few seconds. Calls that overlap are one handover.
    pub async fn hand_over(&self, order: HandOver) -> HandedOver {
        let (done, outcome) = oneshot::channel();
        self.send(Command::HandOver(order, done));
        outcome.await.unwrap_or(HandedOver::Unknown)
    }

    /// The pod ends: never a candidate again. A lease that reaches this process anyway is handed on at once. Does not give
    /// up a lease that is held: that is what [`Lease::hand_over`] is for, after the drain.
    pub fn leave(&self) {
        self.send(Command::Leave);
    }

    /// This leader sent its first request for updates at `at`: ends the gap in the log of handovers.
    pub fn first_poll(&self, at: BootInstant) {
        self.send(Command::FirstPoll(at));
    }

    /// Releases the lease if it is still held, signs off, and ends. Takes a second at most.
    pub async fn shutdown(&self) {
        let (done, ended) = oneshot::channel();
        self.send(Command::Shutdown(done));
        let _ = ended.await;
    }

    /// Adds the lease's metrics to a registry: `pollux_agent_lease_renewals_total{result}` and
    /// `pollux_agent_lease_renew_duration_seconds`.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    pub(crate) fn send(&self, command: Command) {
        // The task lives until the shutdown; what is said after it is of no interest any more.
        let _ = self.commands.send(command);
    }
}
