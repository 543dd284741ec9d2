//! What goes into the protocol and what comes out of it.

use std::time::Duration;

use pollux_clock::BootInstant;
use serde::Deserialize;
use serde_json::Value;

use crate::identity::{HolderId, Replica};
use crate::view::{Evidence, HandOver, HandedOver, Request, Settings};

/// Who this process is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Me {
    pub(crate) id: HolderId,
    pub(crate) replica: Replica,
    /// It takes part in its pod's file lock.
    pub(crate) file_lock: bool,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Nothing but time has passed.
    Tick,
    /// There is a connection; `wakes` if notifications arrive on it.
    Up { wakes: bool },
    /// There is none any more (or still none). A statement under way may be carried out later.
    Down { error: String },
    /// A notification.
    Woken,
    /// Notifications do not arrive on this connection.
    Blind,
    /// The statement under way was answered.
    Answered(Box<Answer>),
    /// The statement under way was answered with an error: it had no effect.
    Refused { error: String, another_token: bool },
    /// The bot could lead at once, or no longer.
    Ready(bool),
    /// The pod's file lock is ours.
    Locked,
    /// What the controller should know.
    Report(Value),
    /// The token was rotated.
    Rotated,
    /// The lease will probably be given away soon; or not, after all.
    Expect(bool),
    /// The lease is to be given away.
    HandOver(HandOver),
    /// The pod ends.
    Leave,
    /// The leader sent its first poll.
    FirstPoll(BootInstant),
    /// The process ends.
    Shutdown,
    /// There is a session for locks; a random number is its key.
    LaneUp { key: i64 },
    /// There is none any more.
    LaneDown,
    /// What was asked on it was answered.
    Told(Told),
}

/// What is asked on the session for locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ask {
    /// Take this lock, if it is free.
    Try { key: i64 },
    /// A heartbeat.
    Beat,
    /// Give this lock back.
    Release { key: i64 },
}

/// The answer: whether the lock was granted, and which backend it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Told {
    pub(crate) granted: bool,
    pub(crate) backend: i32,
}

/// The session by which a holder can be seen to be alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
pub(crate) struct SessionProof {
    /// Of its lock.
    pub(crate) key: i64,
    /// How long the holder may act after a heartbeat.
    pub(crate) fence_ms: u32,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send this statement. The reading of the clock that went into the step is the one it is dated with.
    Send(Statement),
    /// Ask this on the session for locks; dated in the same way.
    Ask(Ask),
    /// Whoever waits for a handover is to be told.
    Settle(HandedOver),
    /// The process has signed off.
    Done,
}

/// A call, and what its caller takes for granted: the server compares it with what is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Statement {
    pub(crate) call: Call,
    pub(crate) known: Known,
}

/// What a process knows of the server's past.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Known {
    /// The incarnation of the server that answered last; empty before the first answer.
    pub(crate) incarnation: String,
    /// The highest epoch ever seen.
    pub(crate) epoch: i64,
}

/// A sign of life, with what may have changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sign {
    pub(crate) beat: i64,
    pub(crate) ready: bool,
    pub(crate) leaving: bool,
    pub(crate) locked: bool,
    pub(crate) report: Option<Value>,
}

/// What is asked of the server: the name of a function and its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Look,
    Beat(Sign),
    Renew { epoch: i64, renew_seq: i64, ttl: Duration, session: Option<SessionProof>, sign: Sign },
    Acquire { epoch: i64, ttl: Duration },
    Takeover { epoch: i64, renew_seq: i64, evidence: Evidence, ttl: Duration, vacate: bool },
    Expect { epoch: i64, expected: bool },
    Handover { epoch: i64, ttl: Duration, otherwise: Otherwise, order: HandOver },
    Gap { epoch: i64, ago: Duration },
    Rotate,
    Depart,
}

/// What a handover does when no successor has a fresh beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Otherwise {
    /// Nothing.
    Keep,
    /// Ask ready candidates for beats; release if there are none.
    Wait,
    /// Release.
    Release,
}

/// What every statement is answered with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
pub(crate) struct Answer {
    /// The statement did what it is for.
    pub(crate) done: bool,
    /// The server since its last start: with every other one it may have forgotten what it once confirmed.
    #[serde(default)]
    pub(crate) incarnation: String,
    #[serde(default)]
    pub(crate) lease: Option<Row>,
    /// As it was, if nothing is said of it.
    #[serde(default)]
    pub(crate) around: Option<Around>,
}

/// What an agent is told beside the lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
pub(crate) struct Around {
    /// The row of this agent is there.
    pub(crate) registered: bool,
    #[serde(default)]
    pub(crate) setting: Option<Settings>,
    #[serde(default)]
    pub(crate) request: Option<Request>,
    #[serde(default)]
    pub(crate) heir: Option<Heir>,
}

/// The lease's row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
pub(crate) struct Row {
    pub(crate) epoch: i64,
    /// Rises with every change that a fence depends on.
    pub(crate) renew_seq: i64,
    /// It was last written in this incarnation of the server, by somebody who had a right to.
    pub(crate) settled: bool,
    pub(crate) ttl_ms: u32,
    pub(crate) holder: Option<String>,
    pub(crate) locked: bool,
    pub(crate) grant_beat: Option<i64>,
    pub(crate) handover_expected: bool,
    /// The holder was asked to let go, and is refused every renewal.
    pub(crate) release: bool,
    /// The session by whose end the holder's can be told.
    #[serde(default)]
    pub(crate) session: Option<SessionProof>,
    /// The holder, or the last one there was.
    #[serde(flatten)]
    pub(crate) replica: Replica,
}

/// Who would get the lease now.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
pub(crate) struct Heir {
    pub(crate) pod: String,
    /// Its beat is young enough for a handover.
    pub(crate) fresh: bool,
}

// === impl Row ===

impl Row {
    pub(crate) fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms.into())
    }
}

// === impl Otherwise ===

impl Otherwise {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Wait => "wait",
            Self::Release => "release",
        }
    }
}
