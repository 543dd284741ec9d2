//! What goes in (bots, updates, faults, load, marks) and what comes out (polls, updates' lives, verdicts).
//!
//! All of it is JSON on the admin port, with the same names; times are durations since the emulator's start, written as
//! milliseconds in fields that end with `_ms`.

use std::time::Duration;

mod input;
mod kind;
mod records;
mod verdict;

pub use input::*;
pub use kind::*;
pub use records::*;
pub use verdict::*;

/// A time on the emulator's own monotonic clock: the duration since its start.
pub type At = Duration;

/// `Duration` as a number of milliseconds (with microseconds behind the point).
pub(crate) mod ms {
    use super::Duration;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(d.as_micros() as f64 / 1000.0)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        let ms = f64::deserialize(d)?;
        Duration::try_from_secs_f64(ms / 1000.0).map_err(serde::de::Error::custom)
    }

    pub(crate) mod option {
        use super::Duration;
        use serde::{Deserialize, Deserializer, Serializer};

        pub(crate) fn serialize<S: Serializer>(d: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
            match d {
                Some(d) => super::serialize(d, s),
                None => s.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
            let ms = Option::<f64>::deserialize(d)?;
            ms.map(|ms| Duration::try_from_secs_f64(ms / 1000.0).map_err(serde::de::Error::custom)).transpose()
        }
    }
}

/// `Duration` as a number of seconds: what people write in requests.
pub(crate) mod secs {
    use super::Duration;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(d.as_secs_f64())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(d)?).map_err(serde::de::Error::custom)
    }

    pub(crate) mod option {
        use super::Duration;
        use serde::{Deserialize, Deserializer, Serializer};

        pub(crate) fn serialize<S: Serializer>(d: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
            match d {
                Some(d) => super::serialize(d, s),
                None => s.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
            let secs = Option::<f64>::deserialize(d)?;
            secs.map(|s| Duration::try_from_secs_f64(s).map_err(serde::de::Error::custom)).transpose()
        }
    }
}

/// What was asked for is not possible.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// No bot has this token.
    #[error("no bot has this token: add it with POST /bots {{token, username}}")]
    UnknownBot,
    /// The token is not `<digits>:<secret>`.
    #[error("a token looks like 123456:secret")]
    Token,
    /// A number is out of range.
    #[error("{0}")]
    Value(String),
}
