//! What is counted of a lease's renewals.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Clones are the same metrics.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    renewals: Family<Outcome, Counter>,
    duration: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn new() -> Self {
        let buckets = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5];
        Self { renewals: Family::default(), duration: Histogram::new(buckets) }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "pollux_agent_lease_renewals",
            "Renewals of the lease: ok, lost (somebody else has it), error",
            self.renewals.clone(),
        );
        registry.register(
            "pollux_agent_lease_renew_duration_seconds",
            "How long PostgreSQL took to answer a renewal",
            self.duration.clone(),
        );
    }

    pub(crate) fn renewal(&self, result: &'static str, took: Duration) {
        self.renewals.get_or_create(&Outcome { result }).inc();
        self.duration.observe(took.as_secs_f64());
    }
}
