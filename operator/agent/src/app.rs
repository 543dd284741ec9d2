//! What every part of the agent can see: who this is, what is awaited, and the parts that have been started so far.
//!
//! Probes and hooks are answered from the first moment on, long before there is a gate or a lease; so those are filled in when
//! they exist, once.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pollux_clock::BootInstant;
use pollux_gate::{Gate, Status, TokenState};
use pollux_lease::{Lease, Role, View};
use tokio::time::timeout;
use tracing::warn;

use crate::VERSION;
use crate::bot::Bot;
use crate::config::{Config, Identity};
use crate::credentials::{Need, Waiting};
use crate::drain::{Drain, Parts, Trigger};
use crate::health::{self, BotProcess, Database, Facts, Health, Leadership};
use crate::hook::{Answers, Report};
use crate::metrics::{Levels, Metrics};
use crate::program::Program;

/// The agent, as its parts see it; clones are the same one.
#[derive(Clone, Debug)]
pub struct App {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    identity: Identity,
    drain_timeout: Duration,
    listen: SocketAddr,
    started: BootInstant,
    /// No agent of this pod has been up before: its bot does not run yet.
    first_start: bool,
    waiting: Waiting,
    metrics: Metrics,
    drain: Drain,
    program: Option<Program>,
    bot: OnceLock<Bot>,
    lease: OnceLock<Lease>,
    last_takeover: Mutex<Option<health::Takeover>>,
}

// === impl App ===

impl App {
    /// An agent of which nothing runs yet. `listen` is where the gate will be; `program` is the bot, if it is one.
    pub fn new(config: &Config, listen: SocketAddr, first_start: bool, program: Option<Program>) -> Self {
        let waiting = Waiting::default();
        waiting.begin(Need::Token, "the token file has not been read yet".to_owned());
        waiting.begin(Need::LeaseUri, "the file with the lease database's URI has not been read yet".to_owned());
        let inner = Inner {
            identity: config.identity.clone(),
            drain_timeout: config.drain_timeout,
            listen,
            started: BootInstant::now(),
            first_start,
            waiting,
            metrics: Metrics::new(&config.identity),
            drain: Drain::default(),
            program,
            bot: OnceLock::new(),
            lease: OnceLock::new(),
            last_takeover: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What is awaited.
    pub fn waiting(&self) -> &Waiting {
        &self.inner.waiting
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// This replica.
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// The gate runs from now on.
    pub fn has_bot(&self, bot: Bot) {
        self.inner.metrics.extend(|registry| bot.gate().register_metrics(registry));
        let _ = self.inner.bot.set(bot);
    }

    /// This replica takes part in the election from now on.
    pub fn has_lease(&self, lease: Lease) {
        self.inner.metrics.extend(|registry| lease.register_metrics(registry));
        let _ = self.inner.lease.set(lease);
    }

    /// The leader changed, and this replica had a part in it.
    pub fn has_changed_leader(&self, takeover: health::Takeover) {
        *self.inner.last_takeover.lock().unwrap_or_else(PoisonError::into_inner) = Some(takeover);
    }

    /// The way out.
    pub fn drain(&self) -> &Drain {
        &self.inner.drain
    }

    /// Begins the way out, or joins it.
    pub fn begin_drain(&self, trigger: Trigger) {
        self.inner.drain.begin(trigger, || Parts {
            bot: self.inner.bot.get().cloned(),
            lease: self.inner.lease.get().cloned(),
            metrics: self.inner.metrics.clone(),
            drain_timeout: self.inner.drain_timeout,
            pod: self.inner.identity.pod.clone(),
        });
    }

    /// The last steps of the process: calls in flight are answered, the lease's row is left in order.
    pub async fn sign_off(&self, last_calls: Duration, lease: Duration) {
        if let Some(bot) = self.inner.bot.get()
            && timeout(last_calls, bot.shutdown()).await.is_err()
        {
            let calls_in_flight = bot.gate().calls_in_flight();
            warn!(calls_in_flight, "calls did not end in time and are cut off");
        }
        if let Some(handle) = self.inner.lease.get()
            && timeout(lease, handle.shutdown()).await.is_err()
        {
            warn!("the lease database did not answer in time, its row is left as it is");
        }
    }

    fn view(&self) -> View {
        self.inner.lease.get().map(|lease| lease.view().borrow().clone()).unwrap_or_default()
    }

    fn status(&self) -> Status {
        self.inner.bot.get().map(|bot| bot.status().borrow().clone()).unwrap_or_default()
    }
}

// === impl Answers for App ===

impl Answers for App {
    fn begin_drain(&self) -> Duration {
        Self::begin_drain(self, Trigger::Hook);
        Drain::at_most(self.inner.drain_timeout)
    }

    async fn drained(&self) -> String {
        match self.inner.drain.over().await {
            Some(story) => story.to_string(),
            None => "the agent ends".to_owned(),
        }
    }

    fn report(&self) -> Report {
        let waiting = &self.inner.waiting;
        let uri = || self.inner.first_start.then(|| waiting.why(Need::LeaseUri)).flatten();
        Report {
            version: VERSION.to_owned(),
            listen: self.inner.listen,
            not_yet: waiting.why(Need::Token).or_else(uri),
        }
    }

    fn program(&self) -> Option<Program> {
        self.inner.program.clone()
    }
}

// === impl Facts for App ===

impl Facts for App {
    fn health(&self) -> Health {
        let now = BootInstant::now();
        let (view, status, identity) = (self.view(), self.status(), &self.inner.identity);
        let leads = view.role.may_poll(now);
        let age = |at: BootInstant| now.saturating_since(at).as_secs_f64();
        Health {
            role: if leads { health::Role::Active } else { health::Role::Passive },
            leadership: if leads { Leadership::Leader } else { Leadership::Standby },
            namespace: identity.namespace.clone(),
            bot: identity.bot.clone(),
            pod: identity.pod.clone(),
            node: identity.node.clone(),
            revision: identity.revision.clone(),
            version: VERSION,
            uptime_seconds: age(self.inner.started),
            epoch: (view.epoch > 0).then_some(view.epoch),
            lease_remaining_seconds: fence(&view.role).filter(|_| leads).map(|f| (f - now).as_secs_f64()),
            heartbeat_age_seconds: view.last_answer.map(age),
            idle_seconds: self.inner.bot.get().map(Bot::gate).and_then(Gate::last_activity).map(age),
            last_takeover: self.inner.last_takeover.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            database: Database { up: view.database.is_up(), error: view.database.error().map(str::to_owned) },
            holder: view.holder.map(|holder| health::Holder {
                pod: holder.pod,
                node: holder.node,
                revision: holder.revision,
                me: holder.me,
            }),
            bot_process: BotProcess {
                alive: status.bot_alive,
                polling: status.bot_polling,
                ready: status.bot_ready,
                deaf: status.deaf,
                username: status.bot.map(|bot| bot.username),
                token: match status.token {
                    TokenState::Unknown => "unknown",
                    TokenState::Accepted => "accepted",
                    TokenState::Rejected => "rejected",
                },
            },
            draining: self.inner.drain.begun(),
            waiting_for: self.inner.waiting.all(),
        }
    }

    fn ready(&self) -> Result<(), String> {
        if let Some(why) = self.inner.waiting.all().into_iter().next() {
            return Err(why);
        }
        let Some(bot) = self.inner.bot.get() else {
            return Err("the gate does not run yet".to_owned());
        };
        // A rollout must not end the pod that leads for the sake of one that does not take part any more.
        if self.inner.drain.begun() {
            return Err(
                "this replica has handed over, because its pod ends or its bot's container is restarted".to_owned()
            );
        }
        bot.ready()?;
        // Once is enough: when the database goes away later, pods stay as ready as they can be. But one that has never reached
        // it must not replace one that leads.
        let view = self.view();
        if view.last_answer.is_none() {
            return Err(format!(
                "the lease database has not answered yet{}",
                view.database.error().map(|error| format!(": {error}")).unwrap_or_default()
            ));
        }
        Ok(())
    }

    fn metrics(&self) -> String {
        let (view, now) = (self.view(), BootInstant::now());
        let leader = view.role.may_poll(now);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.inner.metrics.text(&Levels {
            leader,
            epoch: view.epoch,
            lease_expiry: fence(&view.role).filter(|_| leader).map(|f| (wall + (f - now)).as_secs_f64()),
            database_up: view.database.is_up(),
            leaderless: match leader {
                true => Duration::ZERO,
                false => now.saturating_since(view.leaderless_from.unwrap_or(self.inner.started)),
            },
        })
    }
}

fn fence(role: &Role) -> Option<BootInstant> {
    match role {
        Role::Standby => None,
        Role::Leader { fence, .. } => Some(*fence),
    }
}
