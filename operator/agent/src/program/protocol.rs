//! What agent and supervisor say to each other: JSON lines over the hook's socket, after the word `supervise`.
//!
//! Both are levels, not events: the newest line is all that counts, so a connection that was lost is made up for by one line.
//!
//! Instants are readings of `CLOCK_BOOTTIME`, which the containers of a pod share. They are absolute on purpose: a remaining
//! time would be dated by its reader, and a supervisor that was stopped would read an old one as a new one.

use std::time::Duration;

use pollux_clock::BootInstant;
use serde::{Deserialize, Serialize};

/// The request that opens such a connection.
pub const REQUEST: &str = "supervise";

/// From the agent: what may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// Rises with every order. 0: none was given yet, and whatever runs goes on until its fence.
    pub number: u64,
    /// The program shall run.
    pub run: bool,
    /// Under which epoch of the lease.
    pub epoch: i64,
    /// No process of the program may be left at this instant, whatever `run` says.
    pub until_nanoseconds: u64,
    /// How long a program that is told to end may take.
    pub stop_milliseconds: u64,
}

/// What the program does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// No process of it is left.
    #[default]
    Idle,
    /// It runs.
    Running,
    /// It was told to end, or what it left behind is being killed.
    Stopping,
}

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Exit {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// An end of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// How.
    pub exit: Exit,
    /// It was told to.
    pub told: bool,
    /// It did not end in time and was killed.
    pub killed: bool,
    /// When nothing was left of it.
    pub at_nanoseconds: u64,
}

/// From the supervisor: what is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The last order that this takes into account.
    pub order: u64,
    /// What the program does.
    pub state: State,
    /// The epoch that it was last started under, or went on under.
    pub epoch: i64,
    /// When it was last started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_nanoseconds: Option<u64>,
    /// The program, as it is found.
    pub program: String,
    /// Why it cannot be executed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_executable: Option<String>,
    /// Its last end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<End>,
}

// === impl Order ===

impl Order {
    /// See [`Order::until_nanoseconds`].
    pub fn until(&self) -> BootInstant {
        instant(self.until_nanoseconds)
    }

    /// See [`Order::stop_milliseconds`].
    pub fn stop(&self) -> Duration {
        Duration::from_millis(self.stop_milliseconds)
    }
}

// === impl Exit ===

impl Exit {
    /// The status that a shell, and a container, would end with.
    pub fn status(self) -> u8 {
        match self {
            Self::Code(code) => code.to_le_bytes()[0],
            Self::Signal(signal) => signal.to_le_bytes()[0].saturating_add(128),
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// An instant as it travels.
pub fn nanoseconds(at: BootInstant) -> u64 {
    u64::try_from(at.since_boot().as_nanos()).unwrap_or(u64::MAX)
}

/// An instant that has travelled.
pub fn instant(nanoseconds: u64) -> BootInstant {
    BootInstant::from_boot(Duration::from_nanos(nanoseconds))
}
