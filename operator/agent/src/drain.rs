//! The planned way out (R31-R36).
//!
//! Two triggers, the preStop hook of the bot's container and SIGTERM, and one drain: whoever comes second joins it. It is
//! cancelled by nothing but the death of the process, which is safe at any point of it: the lease expires, and Telegram still
//! has whatever was not confirmed.
//!
//! 1. The lease is told that this pod leaves (it takes no lease from now on) and that a handover comes (it looks for
//!    successors more often).
//! 2. The gate drains: nothing more is delivered, the bot finishes and acknowledges what it has, Telegram is told.
//! 3. The lease is handed to the best successor, or released.
//! 4. Where the handover did not wait for the bot's handlers (`Ordering::Fast`), the bot finishes, within the same limit.
//! 5. The gate lets the bot's last polls return quickly, because its library waits for them before it exits.
//! 6. The hook is answered, and Kubernetes signals a bot that has nothing left to lose.
//!
//! The kubelet runs the hook before it restarts the bot's container for a failed probe, too, and does not say which of both it
//! is. Whoever still lives when a pod that ends would be gone ([`Drain::outlived`]) was not ended, and has to start anew: here a
//! drain has no way back.
//!
//! Each step has an end: the drain's is configured, the handover's is [`HANDOVER_LIMIT`]. What was not reached by then is
//! told with counts; the pod goes anyway.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use pollux_clock::BootInstant;
use pollux_gate::{DrainOutcome, Drained};
use pollux_lease::{DrainReport, HandOver, HandedOver, Lease, Reason};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::bot::Bot;
use crate::metrics::Metrics;

/// A handover is one statement. A database that has not answered by then has the lease expire instead.
pub const HANDOVER_LIMIT: Duration = Duration::from_secs(3);
/// The gate keeps to its own limit and then confirms for a second or two; this only bounds a gate that does not.
const GATE_SLACK: Duration = Duration::from_secs(4);
/// The kubelet gives sidecars 2 s more, and is not always punctual.
const KUBELET_SLACK: Duration = Duration::from_secs(5);

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The preStop hook of the bot's container: the bot has not been told to stop yet.
    Hook,
    /// SIGTERM: the hook could not run, or ran before.
    Sigterm,
}

/// What a drain works on. An agent that waits for its credentials has less of it.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The bot.
    pub bot: Option<Bot>,
    /// The election.
    pub lease: Option<Lease>,
    /// Where its figures go.
    pub metrics: Metrics,
    /// How long the bot may take.
    pub drain_timeout: Duration,
    /// This pod, for the log.
    pub pod: String,
}

/// How it went: everything that one line of the log tells.
#[derive(Clone, Debug)]
pub struct Story {
    /// Who asked.
    pub trigger: Trigger,
    /// This pod.
    pub pod: String,
    /// The epoch that this pod led under; nothing on a standby.
    pub epoch: Option<i64>,
    /// What the bot's part of it achieved; nothing when the gate did not answer, or did not run.
    pub drained: Option<Drained>,
    /// What became of the lease; nothing on a standby.
    pub handed: Option<HandedOver>,
    /// From the end of the drain until the lease was somebody else's.
    pub switch: Duration,
    /// What the bot's handlers took after that.
    pub finish: Duration,
    /// All of it.
    pub total: Duration,
}

/// The one drain of this process; clones are the same one.
#[derive(Clone, Debug)]
pub struct Drain {
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Idle,
    Going,
    Over(Arc<Story>),
}

// === impl Drain ===

impl Default for Drain {
    fn default() -> Self {
        Self { state: Arc::new(watch::Sender::new(State::Idle)) }
    }
}

impl Drain {
    /// Begins it, or joins it. `parts` is asked for only by the first caller. Must be called within the runtime.
    pub fn begin(&self, trigger: Trigger, parts: impl FnOnce() -> Parts) {
        let first = self.state.send_if_modified(|state| {
            let first = matches!(state, State::Idle);
            if first {
                *state = State::Going;
            }
            first
        });
        if !first {
            return;
        }
        let (state, parts) = (self.state.clone(), parts());
        // A task of its own: a hook's client that goes away must not take the drain with it.
        tokio::spawn(async move {
            let story = parts.drain(trigger).await;
            story.tell();
            state.send_replace(State::Over(Arc::new(story)));
        });
    }

    /// It has begun; it may be over.
    pub fn begun(&self) -> bool {
        !matches!(*self.state.borrow(), State::Idle)
    }

    /// Its story, once it is over.
    pub fn story(&self) -> Option<Arc<Story>> {
        match &*self.state.borrow() {
            State::Over(story) => Some(story.clone()),
            State::Idle | State::Going => None,
        }
    }

    /// Waits for its end.
    pub async fn over(&self) -> Option<Arc<Story>> {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| matches!(state, State::Over(_))).await;
        self.story()
    }

    /// Returns when a drain is so long ago that its pod would be gone, if it had been ended.
    pub async fn outlived(&self, grace_period: Duration) {
        match self.over().await {
            Some(story) => sleep((grace_period + KUBELET_SLACK).saturating_sub(story.total)).await,
            None => std::future::pending().await,
        }
    }

    /// The longest that it can take.
    pub fn at_most(drain_timeout: Duration) -> Duration {
        drain_timeout + GATE_SLACK + HANDOVER_LIMIT
    }
}

// === impl Parts ===

impl Parts {
    async fn drain(&self, trigger: Trigger) -> Story {
        let began = BootInstant::now();
        let epoch = self.lease.as_ref().and_then(|lease| lease.view().borrow().role.epoch());
        info!(?trigger, pod = %self.pod, epoch, "drain begins");
        if let Some(lease) = &self.lease {
            lease.leave();
            if epoch.is_some() {
                lease.expect_handover(true);
            }
        }
        let drained = self.drain_bot().await;
        let drain_ended = BootInstant::now();
        let handed = self.hand_over(drained.as_ref()).await;
        let given = BootInstant::now();
        let switch = given - drain_ended;
        if let Some(bot) = &self.bot {
            // The gate keeps to the drain's limit by itself.
            let _ = timeout(self.drain_timeout + GATE_SLACK, bot.finished()).await;
            bot.terminate();
        }
        let ended = BootInstant::now();
        let (finish, total) = (ended - given, ended - began);
        let story = Story { trigger, pod: self.pod.clone(), epoch, drained, handed, switch, finish, total };
        self.measure(&story);
        story
    }

    async fn drain_bot(&self) -> Option<Drained> {
        let bot = self.bot.as_ref()?;
        timeout(self.drain_timeout + GATE_SLACK, bot.drain()).await.ok()
    }

    /// The lease itself says whether there is something to give: one that came while the gate was asked, and one that was
    /// about to be given away because the bot is gone, are given on too.
    async fn hand_over(&self, drained: Option<&Drained>) -> Option<HandedOver> {
        let lease = self.lease.as_ref()?;
        let order = HandOver {
            drain: drained.map(report),
            last_poll_ended: drained.and_then(|d| d.last_poll_ended),
            ..HandOver::new(Reason::PodDeleted)
        };
        let handed = timeout(HANDOVER_LIMIT, lease.hand_over(order)).await;
        Some(handed.unwrap_or(HandedOver::Unknown)).filter(|handed| *handed != HandedOver::NotLeader)
    }

    fn measure(&self, story: &Story) {
        if story.epoch.is_none() {
            return;
        }
        if let Some(drained) = &story.drained {
            self.metrics.drained(drained.outcome.as_str(), drained.duration);
        }
        if let Some(HandedOver::To { .. } | HandedOver::Released) = story.handed {
            self.metrics.switched(story.switch);
            if story.trigger == Trigger::Sigterm {
                self.metrics.released_after_sigterm(story.total);
            }
        }
    }
}

/// What the log of handovers is told of a drain.
pub(crate) fn report(drained: &Drained) -> DrainReport {
    let count = |updates: usize| u32::try_from(updates).unwrap_or(u32::MAX);
    DrainReport {
        took: drained.duration,
        outcome: drained.outcome.as_str().to_owned(),
        unacknowledged: count(drained.unacknowledged),
        owed: count(drained.owed),
    }
}

// === impl Story ===

impl Story {
    /// One line, with everything in it.
    fn tell(&self) {
        if self.epoch.is_none() && self.handed.is_none() {
            info!(pod = %self.pod, trigger = ?self.trigger, total_ms = ms(self.total), "drained: this replica did not lead");
            return;
        }
        let drained = self.drained.as_ref();
        let (to, new_epoch) = match &self.handed {
            Some(HandedOver::To { pod, epoch }) => (Some(pod.as_str()), Some(*epoch)),
            _ => (None, None),
        };
        macro_rules! line {
            ($level:ident) => {
                $level!(
                    from = %self.pod,
                    to,
                    epoch = self.epoch,
                    new_epoch,
                    trigger = ?self.trigger,
                    lease = self.lease(),
                    drain = drained.map_or("no_answer", |d| d.outcome.as_str()),
                    drain_ms = drained.map(|d| ms(d.duration)),
                    switch_ms = ms(self.switch),
                    finish_ms = ms(self.finish),
                    total_ms = ms(self.total),
                    unacknowledged = drained.map(|d| d.unacknowledged),
                    owed = drained.map(|d| d.owed),
                    confirmed = drained.map(|d| d.confirmed),
                    "handed over"
                )
            };
        }
        if self.clean() { line!(info) } else { line!(warn) }
    }

    /// Nothing will be repeated, nothing lost, and somebody knows that the lease is free.
    fn clean(&self) -> bool {
        let bot = self.drained.as_ref().is_some_and(|d| {
            matches!(d.outcome, DrainOutcome::Complete | DrainOutcome::Nothing | DrainOutcome::BotGone)
                && d.confirmed
                && d.unacknowledged == 0
        });
        bot && matches!(self.handed, None | Some(HandedOver::To { .. } | HandedOver::Released))
    }

    fn lease(&self) -> &'static str {
        match self.handed {
            Some(HandedOver::To { .. }) => "handed_over",
            Some(HandedOver::Released) => "released: nobody was ready",
            Some(HandedOver::Kept) => "kept",
            Some(HandedOver::Unknown) => "unknown: the database did not answer, it expires",
            Some(HandedOver::NotLeader) | None => "not_held",
        }
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.epoch.is_none() && self.handed.is_none() {
            return write!(f, "this replica did not lead");
        }
        match &self.handed {
            Some(HandedOver::To { pod, epoch }) => write!(f, "handed over to {pod} (epoch {epoch})")?,
            _ => write!(f, "lease {}", self.lease())?,
        }
        match &self.drained {
            None => write!(f, "; the gate did not answer"),
            Some(d) => write!(
                f,
                "; drain {} in {} ms, switch {} ms, {} updates unacknowledged",
                d.outcome.as_str(),
                ms(d.duration),
                ms(self.switch),
                d.unacknowledged
            ),
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
