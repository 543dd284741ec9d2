//! The ways in which a leader that died is found, as programs beside the controller set them.

use std::time::Duration;

use serde_json::{Value, json};

/// What ends a leader before its TTL does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failover {
    /// Nothing.
    Ttl,
    /// Its database session.
    Fast,
    /// The same, with a fence of 300 ms and a session that is ended after 600 ms of silence.
    Fast300,
}

// === impl Failover ===

impl Failover {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ttl, Self::Fast, Self::Fast300];

    /// Its name in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ttl => "ttl",
            Self::Fast => "fast",
            Self::Fast300 => "fast300",
        }
    }

    /// Whether holders have a session of their own, and candidates try its lock.
    pub fn has_sessions(self) -> bool {
        self != Self::Ttl
    }

    /// The hot settings of a resource, as the controller would write them.
    pub fn setting(self, ttl: Duration) -> Value {
        let mut setting = json!({"leaseDurationSeconds": ttl.as_secs_f64()});
        if self.has_sessions() {
            setting["failover"] = json!("Fast");
        }
        if self == Self::Fast300 {
            setting["fast"] = json!({"fenceMilliseconds": 300, "sessionTimeoutMilliseconds": 600});
        }
        setting
    }
}
