//! What the gate counts. No label holds anything of a chat, a user or the token, and every label has few values.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::answer::Update;
use crate::status::Calls;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Code {
    code: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    r#type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Call {
    method: &'static str,
    code: End,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum End {
    /// It was answered with this status code.
    Answered(u16),
    /// Somebody broke it off.
    Broken,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Called {
    method: &'static str,
}

type Seconds = Gauge<f64, AtomicU64>;

/// The gate's metrics; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    polls: Family<Code, Counter>,
    poll_duration: Histogram,
    last_poll: Seconds,
    updates: Family<Kind, Counter>,
    unconfirmed: Gauge,
    calls: Family<Call, Counter>,
    call_duration: Family<Called, Histogram, fn() -> Histogram>,
    pub(crate) late_requests: Counter,
    update_age: Histogram,
    pending: Gauge,
    made: AtomicU64,
    failed: AtomicU64,
}

/// Too many requests: the bot is busy, and not wrong.
const FLOOD: u16 = 429;

/// The methods that are counted by name. A few: each has a histogram.
const METHODS: [&str; 5] = ["sendMessage", "editMessageText", "answerCallbackQuery", "getMe", "file"];

/// The label of a method, from its lower-case name.
pub(crate) fn label(lower_case: &str) -> &'static str {
    METHODS.into_iter().find(|known| known.eq_ignore_ascii_case(lower_case)).unwrap_or("other")
}

fn call_buckets() -> Histogram {
    Histogram::new([0.01, 0.05, 0.1, 0.25, 1.0, 5.0])
}

impl std::ops::Deref for Metrics {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

// === impl End ===

impl EncodeLabelValue for End {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Answered(code) => code.encode(encoder),
            Self::Broken => "broken".encode(encoder),
        }
    }
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            polls: Family::default(),
            poll_duration: Histogram::new([0.05, 0.25, 1.0, 5.0, 10.0, 25.0, 50.0]),
            last_poll: Seconds::default(),
            updates: Family::default(),
            unconfirmed: Gauge::default(),
            calls: Family::default(),
            call_duration: Family::new_with_constructor(call_buckets),
            late_requests: Counter::default(),
            update_age: Histogram::new([1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 3600.0]),
            pending: Gauge::default(),
            made: AtomicU64::default(),
            failed: AtomicU64::default(),
        }))
    }

    /// A poll is over, answered with a status code, `none`, or `cancelled`.
    pub(crate) fn polled(&self, code: &str, took: Duration) {
        self.polls.get_or_create(&Code { code: code.to_owned() }).inc();
        self.poll_duration.observe(took.as_secs_f64());
        if code == "200" {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.last_poll.set(now.as_secs_f64());
        }
    }

    /// The bot is given these.
    pub(crate) fn received<'a>(&self, updates: impl Iterator<Item = &'a Update>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for update in updates {
            self.updates.get_or_create(&Kind { r#type: update.kind }).inc();
            if let Some(date) = update.date {
                self.update_age.observe(now.saturating_sub(Duration::from_secs(date)).as_secs_f64());
            }
        }
    }

    /// Telegram has so many updates for the bot; `None`: this replica does not lead, and does not ask.
    pub(crate) fn pending(&self, count: Option<i64>) {
        self.pending.set(count.unwrap_or_default());
    }

    pub(crate) fn unconfirmed(&self, count: usize) {
        self.unconfirmed.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A call of the bot was answered; `method` is what [`label`] gave.
    pub(crate) fn called(&self, method: &'static str, code: u16, took: Duration) {
        self.called_with(method, End::Answered(code), took);
    }

    /// The bot, or Telegram in the middle of its answer, broke a call off.
    pub(crate) fn broken(&self, method: &'static str, took: Duration) {
        self.called_with(method, End::Broken, took);
    }

    /// How the bot's calls went so far.
    pub(crate) fn calls(&self) -> Calls {
        Calls { made: self.made.load(Ordering::Relaxed), failed: self.failed.load(Ordering::Relaxed) }
    }

    fn called_with(&self, method: &'static str, code: End, took: Duration) {
        self.made.fetch_add(1, Ordering::Relaxed);
        if matches!(code, End::Answered(code) if code >= 400 && code != FLOOD) {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        self.calls.get_or_create(&Call { method, code }).inc();
        self.call_duration.get_or_create(&Called { method }).observe(took.as_secs_f64());
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        let polls = "getUpdates requests to Telegram, by status code (none: no answer; cancelled: by this agent)";
        registry.register("pollux_agent_poll_requests", polls, self.polls.clone());
        let took = "Duration of a getUpdates request to Telegram";
        registry.register("pollux_agent_poll_duration_seconds", took, self.poll_duration.clone());
        let last = "When Telegram last answered a getUpdates request with 200";
        registry.register("pollux_agent_last_successful_poll_timestamp_seconds", last, self.last_poll.clone());
        let updates = "Updates of Telegram that the bot was given, by type";
        registry.register("pollux_agent_updates_received", updates, self.updates.clone());
        let age = "From the date of a message, which is in whole seconds, until the bot is given it";
        registry.register("pollux_agent_update_age_seconds", age, self.update_age.clone());
        let pending = "Updates that Telegram has for the bot, asked once a minute while this replica leads; else 0";
        registry.register("pollux_agent_pending_updates", pending, self.pending.clone());
        let unconfirmed = "Updates that the bot was given and has not acknowledged";
        registry.register("pollux_agent_updates_unconfirmed", unconfirmed, self.unconfirmed.clone());
        let calls = "Bot API calls of the bot, by method and status code (broken: not answered in full)";
        registry.register("pollux_agent_api_requests", calls, self.calls.clone());
        let took = "Time from a Bot API call of the bot to the end of its answer";
        registry.register("pollux_agent_api_request_duration_seconds", took, self.call_duration.clone());
        let late = "Requests of a paused predecessor that took the polling slot after this process had taken over";
        registry.register("pollux_agent_late_requests", late, self.late_requests.clone());
    }
}
