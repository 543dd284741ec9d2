//! Settings that change under a running pod: the JSON that the controller writes for the bot's resource.
//!
//! An agent may be older than the controller, so unknown fields are not its business; and a value that makes no sense must
//! not stop a bot, so it counts as absent and is told in the log.

use std::time::Duration;

use pollux_gate::{Delivery, Ordering, PendingUpdates};
use serde_json::Value;
use tracing::warn;

/// What was understood; absent means the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HotSettings {
    /// Time to live of the lease.
    pub lease_duration: Option<Duration>,
    /// Upper bound of a bot's long poll.
    pub long_poll: Option<Duration>,
    /// When Telegram is told that the bot has an update.
    pub delivery: Option<Delivery>,
    /// After which time an update is settled.
    pub settle: Option<Duration>,
    /// Most updates of one delivery.
    pub max_batch: Option<u16>,
    /// Most updates that may be unsettled; absent means no limit.
    pub max_unsettled: Option<u16>,
    /// After which silence a bot is deaf.
    pub deaf_after: Option<Duration>,
    /// What becomes of a bot's wish to drop its pending updates.
    pub pending_updates: Option<PendingUpdates>,
    /// The silence that a drain waits for; absent means that the gate finds out.
    pub quiet: Option<Duration>,
    /// What a handover waits for.
    pub ordering: Option<Ordering>,
}

/// The lease's own range: below, a slow database deposes leaders; above, nobody waits that long for a dead one.
const LEASE_SECONDS: (u64, u64) = (3, 60);
/// Telegram's own maximum is 50 s.
const LONG_POLL_SECONDS: (u64, u64) = (1, 50);
/// The other ranges are those of the resource's schema.
const SETTLE_SECONDS: (u64, u64) = (1, 30);
const BATCH: (u64, u64) = (1, 100);
const UNSETTLED: (u64, u64) = (1, 10_000);
const DEAF_SECONDS: (u64, u64) = (10, 86_400);
const QUIET_SECONDS: (u64, u64) = (0, 600);

const DELIVERY: [(&str, Delivery); 2] = [("Transparent", Delivery::Transparent), ("Settled", Delivery::Settled)];
const PENDING_UPDATES: [(&str, PendingUpdates); 3] = [
    ("Keep", PendingUpdates::Keep),
    ("ColdStart", PendingUpdates::ColdStart),
    ("PassThrough", PendingUpdates::PassThrough),
];
const ORDERING: [(&str, Ordering); 2] = [("Strict", Ordering::Strict), ("Fast", Ordering::Fast)];

// === impl HotSettings ===

impl HotSettings {
    /// Reads the controller's JSON.
    pub fn read(json: &Value) -> Self {
        Self {
            lease_duration: seconds(json, "leaseDurationSeconds", LEASE_SECONDS),
            long_poll: seconds(json, "longPollTimeoutSeconds", LONG_POLL_SECONDS),
            delivery: word(json, "delivery", &DELIVERY),
            settle: seconds(json, "settleSeconds", SETTLE_SECONDS),
            max_batch: count(json, "maxBatch", BATCH),
            max_unsettled: count(json, "maxUnsettled", UNSETTLED),
            deaf_after: seconds(json, "deafAfterSeconds", DEAF_SECONDS),
            pending_updates: word(json, "pendingUpdates", &PENDING_UPDATES),
            quiet: seconds(json, "quietSeconds", QUIET_SECONDS),
            ordering: word(json, "ordering", &ORDERING),
        }
    }

    /// The gate's settings: these over those that the pod started with.
    pub fn over(self, base: &pollux_gate::Settings) -> pollux_gate::Settings {
        // They come at once, and the drain's limit only with a new pod: a silence that is meant for a longer one would make every
        // drain of this pod fail.
        let fits = |quiet: &Duration| quiet.is_zero() || *quiet < base.drain_timeout;
        if let Some(quiet) = self.quiet.filter(|quiet| !fits(quiet)) {
            let drain_timeout = base.drain_timeout;
            warn!(?quiet, ?drain_timeout, "quietSeconds does not fit into this pod's drain, the default is used");
        }
        pollux_gate::Settings {
            long_poll: self.long_poll.unwrap_or(base.long_poll),
            late_request_window: self.lease_duration.unwrap_or(base.late_request_window),
            delivery: self.delivery.unwrap_or(base.delivery),
            settle: self.settle.unwrap_or(base.settle),
            max_batch: self.max_batch.unwrap_or(base.max_batch),
            max_unsettled: self.max_unsettled.or(base.max_unsettled),
            poll_gap: self.deaf_after.unwrap_or(base.poll_gap),
            pending_updates: self.pending_updates.unwrap_or(base.pending_updates),
            quiet: self.quiet.filter(fits).or(base.quiet),
            ordering: self.ordering.unwrap_or(base.ordering),
            ..base.clone()
        }
    }
}

fn seconds(json: &Value, field: &str, range: (u64, u64)) -> Option<Duration> {
    whole(json, field, range).map(Duration::from_secs)
}

fn count(json: &Value, field: &str, range: (u64, u64)) -> Option<u16> {
    whole(json, field, range).and_then(|count| u16::try_from(count).ok())
}

fn whole(json: &Value, field: &str, (least, most): (u64, u64)) -> Option<u64> {
    let value = json.get(field).filter(|v| !v.is_null())?;
    let whole = value.as_u64().filter(|whole| (least..=most).contains(whole));
    if whole.is_none() {
        warn!(field, %value, least, most, "a setting is out of its range, the default is used");
    }
    whole
}

fn word<T: Copy>(json: &Value, field: &str, words: &[(&str, T)]) -> Option<T> {
    let value = json.get(field).filter(|v| !v.is_null())?;
    let known = words.iter().find(|(word, _)| value.as_str() == Some(word)).map(|(_, meaning)| *meaning);
    if known.is_none() {
        warn!(field, %value, "a setting is a word that this agent does not know, the default is used");
    }
    known
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn all() -> Value {
        json!({
            "leaseDurationSeconds": 5, "longPollTimeoutSeconds": 30, "delivery": "Settled", "settleSeconds": 4, "maxBatch": 7,
            "maxUnsettled": 9, "deafAfterSeconds": 90, "pendingUpdates": "ColdStart", "quietSeconds": 0, "ordering": "Fast",
            "later": true,
        })
    }

    #[test]
    fn what_the_controller_writes_is_understood() {
        let expected = HotSettings {
            lease_duration: Some(Duration::from_secs(5)),
            long_poll: Some(Duration::from_secs(30)),
            delivery: Some(Delivery::Settled),
            settle: Some(Duration::from_secs(4)),
            max_batch: Some(7),
            max_unsettled: Some(9),
            deaf_after: Some(Duration::from_secs(90)),
            pending_updates: Some(PendingUpdates::ColdStart),
            quiet: Some(Duration::ZERO),
            ordering: Some(Ordering::Fast),
        };
        assert_eq!(HotSettings::read(&all()), expected);
        let words = json!({"delivery": "Transparent", "pendingUpdates": "PassThrough", "ordering": "Strict"});
        let HotSettings { delivery, pending_updates, ordering, .. } = HotSettings::read(&words);
        assert_eq!(
            (delivery, pending_updates, ordering),
            (Some(Delivery::Transparent), Some(PendingUpdates::PassThrough), Some(Ordering::Strict))
        );
    }

    #[test]
    fn a_senseless_setting_counts_as_absent() {
        for json in [
            json!(null),
            json!([]),
            json!({ "leaseDurationSeconds": 0, "longPollTimeoutSeconds": 51 }),
            json!({ "leaseDurationSeconds": -5, "longPollTimeoutSeconds": "30" }),
            json!({ "delivery": "settled", "pendingUpdates": "", "ordering": 1 }),
            json!({ "settleSeconds": 31, "deafAfterSeconds": 9, "quietSeconds": 601 }),
            json!({ "maxBatch": 0, "maxUnsettled": 0 }),
            json!({ "maxBatch": 101, "maxUnsettled": 65_536 }),
            json!({ "maxUnsettled": null, "quietSeconds": null }),
        ] {
            assert_eq!(HotSettings::read(&json), HotSettings::default(), "{json}");
        }
    }

    #[test]
    fn the_gate_gets_what_is_set_and_keeps_the_rest() {
        let base = pollux_gate::Settings { drain_timeout: Duration::from_secs(33), ..Default::default() };
        assert_eq!(HotSettings::default().over(&base), base);
        let gate = HotSettings::read(&all()).over(&base);
        let expected = pollux_gate::Settings {
            long_poll: Duration::from_secs(30),
            late_request_window: Duration::from_secs(5),
            delivery: Delivery::Settled,
            settle: Duration::from_secs(4),
            max_batch: 7,
            max_unsettled: Some(9),
            poll_gap: Duration::from_secs(90),
            pending_updates: PendingUpdates::ColdStart,
            quiet: Some(Duration::ZERO),
            ordering: Ordering::Fast,
            ..base
        };
        assert_eq!(gate, expected);
    }

    /// Both were raised in one manifest, and this pod still has the shorter drain.
    #[test]
    fn a_silence_that_this_pods_drain_cannot_wait_for_counts_as_absent() {
        let base = pollux_gate::Settings { drain_timeout: Duration::from_secs(20), ..Default::default() };
        let quiet = |seconds: u64| HotSettings::read(&json!({ "quietSeconds": seconds })).over(&base).quiet;
        assert_eq!(quiet(19), Some(Duration::from_secs(19)));
        assert_eq!(quiet(20), None);
        let none = pollux_gate::Settings { drain_timeout: Duration::ZERO, ..base };
        assert_eq!(HotSettings::read(&json!({ "quietSeconds": 0 })).over(&none).quiet, Some(Duration::ZERO));
    }
}
