//! What Prometheus sees of the controller. No label has values without bound: bots are counted by their names, never by
//! chats, users or tokens.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use pollux_api::TelegramBotStatus;
use pollux_api::words::Phase;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Result_ {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Write {
    verb: String,
    kind: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Bot {
    namespace: String,
    bot: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BotPhase {
    namespace: String,
    bot: String,
    phase: &'static str,
}

/// The controller's metrics; clones are the same ones.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    leader: Gauge,
    reconciles: Family<Result_, Counter>,
    duration: Histogram,
    writes: Family<Write, Counter>,
    phase: Family<BotPhase, Gauge>,
    desired: Family<Bot, Gauge>,
    ready: Family<Bot, Gauge>,
    gap: Family<Bot, Gauge<f64, AtomicU64>>,
}

// === impl Metrics ===

impl Metrics {
    /// All of them, at zero.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let leader = Gauge::default();
        let reconciles = Family::default();
        let duration = Histogram::new([0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]);
        let writes = Family::default();
        let (phase, desired, ready, gap) = (Family::default(), Family::default(), Family::default(), Family::default());
        let controller = registry.sub_registry_with_prefix("pollux_controller");
        controller.register("build", "The running version", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        controller.register("leader", "1 in the replica that reconciles", leader.clone());
        controller.register("reconcile", "Reconciles, by how they ended", reconciles.clone());
        controller.register_with_unit(
            "reconcile_duration",
            "How long reconciles took",
            Unit::Seconds,
            duration.clone(),
        );
        controller.register("writes", "Calls of the Kubernetes API that write", writes.clone());
        let bots = registry.sub_registry_with_prefix("pollux_bot");
        bots.register("phase", "1 for the phase that the bot is in", phase.clone());
        bots.register("replicas_desired", "Pods that the bot should have", desired.clone());
        bots.register("replicas_ready", "Pods that could lead at once", ready.clone());
        bots.register_with_unit(
            "last_handover_gap",
            "Time without a poll at the last change of leadership",
            Unit::Seconds,
            gap.clone(),
        );
        Self(Arc::new(Inner { registry, leader, reconciles, duration, writes, phase, desired, ready, gap }))
    }

    /// Whether this replica reconciles. One that does not knows nothing of the bots: what it told last would get old beside
    /// what the new leader tells.
    pub(crate) fn leads(&self, leads: bool) {
        self.0.leader.set(i64::from(leads));
        if !leads {
            self.0.phase.clear();
            self.0.desired.clear();
            self.0.ready.clear();
            self.0.gap.clear();
        }
    }

    /// A reconcile ended.
    pub(crate) fn reconciled(&self, result: &'static str, took: Duration) {
        self.0.reconciles.get_or_create(&Result_ { result }).inc();
        self.0.duration.observe(took.as_secs_f64());
    }

    /// A write is about to be sent.
    pub(crate) fn wrote(&self, verb: &str, kind: &str) {
        self.0.writes.get_or_create(&Write { verb: verb.to_owned(), kind: kind.to_owned() }).inc();
    }

    /// What a bot's status says.
    pub(crate) fn bot(&self, namespace: &str, bot: &str, desired: i32, status: &TelegramBotStatus) {
        let labels = Bot { namespace: namespace.to_owned(), bot: bot.to_owned() };
        for phase in Phase::ALL {
            let labels = BotPhase { namespace: namespace.to_owned(), bot: bot.to_owned(), phase: phase.as_str() };
            self.0.phase.get_or_create(&labels).set(i64::from(*phase == status.phase));
        }
        self.0.desired.get_or_create(&labels).set(desired.into());
        self.0.ready.get_or_create(&labels).set(status.ready_replicas.into());
        if let Some(gap) = status.last_handover.as_ref().and_then(|handover| handover.gap_milliseconds) {
            self.0.gap.get_or_create(&labels).set(Duration::from_millis(gap.unsigned_abs()).as_secs_f64());
        }
    }

    /// A bot is gone, and its series with it.
    pub(crate) fn forget(&self, namespace: &str, bot: &str) {
        let labels = Bot { namespace: namespace.to_owned(), bot: bot.to_owned() };
        for phase in Phase::ALL {
            self.0.phase.remove(&BotPhase {
                namespace: namespace.to_owned(),
                bot: bot.to_owned(),
                phase: phase.as_str(),
            });
        }
        self.0.desired.remove(&labels);
        self.0.ready.remove(&labels);
        self.0.gap.remove(&labels);
    }

    /// In Prometheus' text format.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.0.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replica_that_leads_no_more_tells_of_no_bots() {
        let metrics = Metrics::new();
        metrics.leads(true);
        metrics.bot("bots", "echo", 2, &TelegramBotStatus::default());
        assert!(metrics.text().contains("bot=\"echo\""), "{}", metrics.text());
        metrics.leads(false);
        assert!(!metrics.text().contains("bot=\"echo\""), "{}", metrics.text());
    }
}
