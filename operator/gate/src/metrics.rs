//! What the gate counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// The gate's metrics; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) late_requests: Counter,
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "pollux_agent_late_requests",
            "Requests of a paused predecessor that took the polling slot after this process had taken over",
            self.late_requests.clone(),
        );
    }
}
