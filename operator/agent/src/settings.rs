//! Settings that change under a running pod: the JSON that the controller writes for the bot's resource.
//!
//! An agent may be older than the controller, so unknown fields are not its business; and a value that makes no sense must
//! not stop a bot, so it counts as absent and is told in the log.

use std::time::Duration;

use pollux_gate::Ordering;
use serde_json::Value;
use tracing::warn;

/// What was understood; absent means the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HotSettings {
    /// Time to live of the lease.
    pub lease_duration: Option<Duration>,
    /// Upper bound of a bot's long poll.
    pub long_poll: Option<Duration>,
    /// After which silence a bot is deaf.
    pub deaf_after: Option<Duration>,
    /// What a handover waits for.
    pub ordering: Option<Ordering>,
}

/// The lease's own range: below, a slow database deposes leaders; above, nobody waits that long for a dead one.
const LEASE_SECONDS: (u64, u64) = (3, 60);
/// Telegram's own maximum is 50 s.
const LONG_POLL_SECONDS: (u64, u64) = (1, 50);
const DEAF_SECONDS: (u64, u64) = (10, 86_400);

// === impl HotSettings ===

impl HotSettings {
    /// Reads the controller's JSON.
    pub fn read(json: &Value) -> Self {
        Self {
            lease_duration: seconds(json, "leaseDurationSeconds", LEASE_SECONDS),
            long_poll: seconds(json, "longPollTimeoutSeconds", LONG_POLL_SECONDS),
            deaf_after: seconds(json, "deafAfterSeconds", DEAF_SECONDS),
            ordering: match json.get("ordering").and_then(Value::as_str) {
                Some("Fast") => Some(Ordering::Fast),
                Some("Strict") => Some(Ordering::Strict),
                _ => None,
            },
        }
    }
}

fn seconds(json: &Value, field: &str, (least, most): (u64, u64)) -> Option<Duration> {
    let value = json.get(field).filter(|v| !v.is_null())?;
    match value.as_u64() {
        Some(seconds) if (least..=most).contains(&seconds) => Some(Duration::from_secs(seconds)),
        _ => {
            warn!(field, %value, least, most, "a setting is out of its range, the default is used");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_controller_writes_is_understood() {
        let json = json!({
            "leaseDurationSeconds": 5, "longPollTimeoutSeconds": 30, "deafAfterSeconds": 90, "ordering": "Fast", "later": true
        });
        let expected = HotSettings {
            lease_duration: Some(Duration::from_secs(5)),
            long_poll: Some(Duration::from_secs(30)),
            deaf_after: Some(Duration::from_secs(90)),
            ordering: Some(Ordering::Fast),
        };
        assert_eq!(HotSettings::read(&json), expected);
    }

    #[test]
    fn a_senseless_setting_counts_as_absent() {
        for json in [
            json!(null),
            json!([]),
            json!({ "leaseDurationSeconds": 0, "longPollTimeoutSeconds": 51 }),
            json!({ "leaseDurationSeconds": -5, "longPollTimeoutSeconds": "30" }),
        ] {
            assert_eq!(HotSettings::read(&json), HotSettings::default(), "{json}");
        }
    }
}
