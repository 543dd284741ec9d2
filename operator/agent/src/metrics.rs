//! What the agent counts. The gate adds its own metrics to the same registry.
//!
//! `namespace` and `bot` are on every series, put there by the registry, so that a dashboard of five hundred bots needs no
//! join. No label is ever taken from a chat, a user or an update: their number must stay bounded.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::VERSION;
use crate::config::Identity;

/// The agent's metrics; clones are the same ones.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    leader: Gauge,
    epoch: Gauge,
    lease_expiry: Gauge<f64, AtomicU64>,
    database_up: Gauge,
    leaderless: Gauge<f64, AtomicU64>,
    transitions: Family<Transition, Counter>,
    drain: Family<Outcome, Histogram>,
    switch: Histogram,
    sigterm_to_release: Histogram,
    stale_takeovers: Family<Evidence, Counter>,
}

/// What is true at the moment of a scrape.
#[derive(Clone, Copy, Debug, Default)]
pub struct Levels {
    /// This replica leads.
    pub leader: bool,
    /// The lease's epoch, as far as it was seen.
    pub epoch: i64,
    /// The wall clock's reading at this leader's fence; nothing on a standby.
    pub lease_expiry: Option<f64>,
    /// The lease database answers.
    pub database_up: bool,
    /// For how long this standby has known of no leader; zero on a leader.
    pub leaderless: Duration,
}

/// What this replica became.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "these are the label's values")]
pub enum To {
    /// It leads.
    leader,
    /// It stands by.
    standby,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Transition {
    to: To,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Evidence {
    evidence: String,
}

// === impl Metrics ===

impl Metrics {
    /// Registers everything.
    pub fn new(identity: &Identity) -> Self {
        let labels = [("namespace", &identity.namespace), ("bot", &identity.bot)];
        let labels = labels.into_iter().map(|(name, value)| (name.into(), value.clone().into()));
        let mut registry = Registry::with_labels(labels);
        let metrics = Self {
            registry: Arc::default(),
            leader: Gauge::default(),
            epoch: Gauge::default(),
            lease_expiry: Gauge::default(),
            database_up: Gauge::default(),
            leaderless: Gauge::default(),
            transitions: Family::default(),
            drain: Family::new_with_constructor(|| Histogram::new([0.05, 0.5, 2.0, 3.0, 5.0, 10.0, 20.0, 60.0])),
            switch: Histogram::new([0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0]),
            sigterm_to_release: Histogram::new([0.01, 0.05, 0.25, 1.0, 3.0, 5.0, 10.0, 30.0]),
            stale_takeovers: Family::default(),
        };
        metrics.register(&mut registry);
        *metrics.registry.lock().unwrap_or_else(PoisonError::into_inner) = registry;
        metrics
    }

    fn register(&self, r: &mut Registry) {
        r.register("pollux_agent_build", "Version of the agent", Info::new(vec![("version", VERSION)]));
        r.register("pollux_agent_leader", "1 while this replica leads", self.leader.clone());
        r.register(
            "pollux_agent_lease_epoch",
            "The lease's fencing token, as far as this replica has seen",
            self.epoch.clone(),
        );
        r.register(
            "pollux_agent_lease_expiry_timestamp_seconds",
            "When this leader stops by itself if nothing renews its lease; 0 on a standby",
            self.lease_expiry.clone(),
        );
        r.register("pollux_agent_lease_database_up", "1 while the lease database answers", self.database_up.clone());
        r.register(
            "pollux_agent_standby_seconds_without_leader",
            "For how long this standby has known of no leader, or has not heard of any; 0 on a leader",
            self.leaderless.clone(),
        );
        r.register(
            "pollux_agent_leadership_transitions",
            "How often this replica began or ceased to lead, and why",
            self.transitions.clone(),
        );
        r.register(
            "pollux_agent_handover_drain_seconds",
            "How long the bot took to finish what it had before a handover",
            self.drain.clone(),
        );
        r.register(
            "pollux_agent_handover_switch_seconds",
            "From the end of the drain until the lease was somebody else's",
            self.switch.clone(),
        );
        r.register(
            "pollux_agent_sigterm_to_release_seconds",
            "From SIGTERM until the lease was somebody else's, where no hook had run before",
            self.sigterm_to_release.clone(),
        );
        r.register(
            "pollux_agent_stale_takeovers",
            "Leases taken from a leader that had died, by the evidence of its death",
            self.stale_takeovers.clone(),
        );
    }

    /// Lets another part add its metrics.
    pub fn extend(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// This replica began or ceased to lead.
    pub fn transition(&self, to: To, reason: &str) {
        self.transitions.get_or_create(&Transition { to, reason: reason.to_owned() }).inc();
    }

    /// A drain is over.
    pub fn drained(&self, outcome: &'static str, took: Duration) {
        self.drain.get_or_create(&Outcome { outcome }).observe(took.as_secs_f64());
    }

    /// The lease was handed over.
    pub fn switched(&self, took: Duration) {
        self.switch.observe(took.as_secs_f64());
    }

    /// A handover that SIGTERM began is over.
    pub fn released_after_sigterm(&self, took: Duration) {
        self.sigterm_to_release.observe(took.as_secs_f64());
    }

    /// The lease of a dead leader was taken.
    pub fn took_over(&self, evidence: &str) {
        self.stale_takeovers.get_or_create(&Evidence { evidence: evidence.to_owned() }).inc();
    }

    /// Everything in Prometheus' text format.
    pub fn text(&self, levels: &Levels) -> String {
        self.leader.set(levels.leader.into());
        self.epoch.set(levels.epoch);
        self.lease_expiry.set(levels.lease_expiry.unwrap_or_default());
        self.database_up.set(levels.database_up.into());
        self.leaderless.set(levels.leaderless.as_secs_f64());
        let mut text = String::new();
        // Writing to a string cannot fail; a metric that cannot be encoded ends the text where it stands.
        let _ = encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_names_its_bot_and_the_names_are_the_documented_ones() {
        let identity = Identity {
            cluster: "c".into(),
            namespace: "shop".into(),
            bot: "echo".into(),
            pod: "p".into(),
            pod_uid: "u".into(),
            node: "n".into(),
            revision: "r".into(),
        };
        let metrics = Metrics::new(&identity);
        metrics.transition(To::leader, "LeaseExpired");
        metrics.took_over("ttl");
        metrics.drained("complete", Duration::from_millis(30));
        let leaderless = Duration::from_millis(2500);
        let text =
            metrics.text(&Levels { leader: true, epoch: 7, lease_expiry: Some(1.5), database_up: true, leaderless });
        for line in [
            format!("pollux_agent_build_info{{version=\"{VERSION}\",namespace=\"shop\",bot=\"echo\"}} 1"),
            "pollux_agent_leader{namespace=\"shop\",bot=\"echo\"} 1".into(),
            "pollux_agent_lease_epoch{namespace=\"shop\",bot=\"echo\"} 7".into(),
            "pollux_agent_lease_expiry_timestamp_seconds{namespace=\"shop\",bot=\"echo\"} 1.5".into(),
            "pollux_agent_lease_database_up{namespace=\"shop\",bot=\"echo\"} 1".into(),
            "pollux_agent_standby_seconds_without_leader{namespace=\"shop\",bot=\"echo\"} 2.5".into(),
            "pollux_agent_leadership_transitions_total{namespace=\"shop\",bot=\"echo\",to=\"leader\",reason=\"LeaseExpired\"} 1".into(),
            "pollux_agent_stale_takeovers_total{namespace=\"shop\",bot=\"echo\",evidence=\"ttl\"} 1".into(),
            "pollux_agent_handover_drain_seconds_count{namespace=\"shop\",bot=\"echo\",outcome=\"complete\"} 1".into(),
        ] {
            let (name, rest) = line.split_once('{').unwrap();
            let labels: Vec<_> = rest.split('}').next().unwrap().split(',').collect();
            let value = line.rsplit(' ').next().unwrap();
            let found = text.lines().any(|l| {
                l.starts_with(&format!("{name}{{")) && labels.iter().all(|label| l.contains(label)) && l.ends_with(&format!(" {value}"))
            });
            assert!(found, "{line}\nis not in\n{text}");
        }
        let series = text.lines().filter(|l| !l.starts_with('#'));
        assert!(series.clone().all(|l| l.contains("namespace=\"shop\"") && l.contains("bot=\"echo\"")), "{text}");
    }
}
