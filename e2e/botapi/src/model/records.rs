//! What comes out: who polled, the life of every update, every other request.

use serde::{Deserialize, Serialize};

use super::{At, FaultKind, ms};

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The poller's name: that of the lane (`POST /lanes`, `Emulator::lane`), else the IP address.
    pub lane: String,
    /// The peer's IP address.
    pub ip: String,
    /// The connection, numbered from 1 over the emulator's life.
    pub connection: u64,
}

/// Why a 409 was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conflict {
    /// Terminated by another getUpdates.
    GetUpdates,
    /// A webhook is active.
    WebhookActive,
    /// Terminated by setWebhook.
    SetWebhook,
    /// A fault that a test asked for.
    Injected,
}

/// What became of a poll.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "end")]
pub enum PollEnd {
    /// Still waiting, or its delayed conflict is.
    Open,
    /// Answered 200.
    Answered,
    /// Answered 409.
    Conflict {
        /// Why.
        cause: Conflict,
    },
    /// Struck by a fault.
    Fault {
        /// Which one.
        kind: FaultKind,
    },
}

/// One getUpdates request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PollRecord {
    /// Number of the request over the emulator's life.
    pub request: u64,
    /// Who sent it.
    #[serde(flatten)]
    pub peer: Peer,
    /// When it arrived.
    #[serde(rename = "arrived_ms", with = "ms")]
    pub arrived: At,
    /// When it lost the slot, or was answered.
    #[serde(rename = "ended_ms", with = "ms::option")]
    pub ended: Option<At>,
    /// When its sender went away before it was answered.
    #[serde(rename = "gone_ms", with = "ms::option")]
    pub gone: Option<At>,
    /// How it ended.
    #[serde(flatten)]
    pub end: PollEnd,
    /// The poll that took its slot.
    pub evicted_by: Option<u64>,
    /// The raw offset; absent is 0.
    pub offset: i32,
    /// The limit that was asked for.
    pub limit: i32,
    /// The timeout that was asked for, in seconds.
    pub timeout: i32,
    /// The updates in its answer, first and last id.
    pub delivered: Option<(i32, i32)>,
    /// Number of updates in its answer.
    pub updates: usize,
    /// Polls that were open at its arrival, whose sender could still use the answer, itself included.
    pub open_polls: u32,
}

/// One delivery of one update: it was in the answer to a getUpdates request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delivery {
    /// When.
    #[serde(rename = "at_ms", with = "ms")]
    pub at: At,
    /// In the answer to this request.
    pub request: u64,
    /// To whom.
    #[serde(flatten)]
    pub peer: Peer,
    /// Whether the answer was handed to a connection that was still open.
    pub usable: bool,
}

/// Why an update left the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Removal {
    /// A getUpdates with a higher offset.
    Confirmed,
    /// A getUpdates with a negative offset.
    NegativeOffset,
    /// The webhook answered 2xx.
    Webhook,
    /// drop_pending_updates, or logOut.
    Dropped,
    /// Its time was over.
    Expired,
}

/// How an update left the queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Removed {
    /// When.
    #[serde(rename = "at_ms", with = "ms")]
    pub at: At,
    /// Why.
    pub why: Removal,
    /// By which request; none when it expired.
    pub request: Option<u64>,
    /// Whose request.
    pub lane: Option<String>,
}

/// A sendMessage whose text mentions the update.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reply {
    /// When.
    #[serde(rename = "at_ms", with = "ms")]
    pub at: At,
    /// The request.
    pub request: u64,
    /// Who sent it.
    #[serde(flatten)]
    pub peer: Peer,
}

/// The life of one update.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UpdateRecord {
    /// Its id.
    pub id: i32,
    /// When it was pushed.
    #[serde(rename = "pushed_ms", with = "ms")]
    pub pushed: At,
    /// From which chat.
    pub chat: i64,
    /// Every delivery.
    pub deliveries: Vec<Delivery>,
    /// How it left the queue.
    pub removed: Option<Removed>,
    /// Every reply.
    pub replies: Vec<Reply>,
}

/// The life of every update of a bot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ledger {
    /// The bot's username.
    pub username: String,
    /// In the order of their ids.
    pub updates: Vec<UpdateRecord>,
}

/// A request other than getUpdates.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RequestRecord {
    /// Its number.
    pub request: u64,
    /// Its method, as it was sent.
    pub method: String,
    /// Who sent it.
    #[serde(flatten)]
    pub peer: Peer,
    /// When it arrived.
    #[serde(rename = "arrived_ms", with = "ms")]
    pub arrived: At,
    /// The status that it was answered with; none: reset, or hanging.
    pub status: Option<u16>,
}

/// Who ended a connection, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionEnd {
    /// The client closed it (FIN, with TLS also close_notify).
    ClientFin,
    /// The client reset it.
    ClientReset,
    /// The emulator closed it.
    ServerFin,
    /// The emulator reset it: a fault.
    ServerReset,
}

/// One request on a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionRequest {
    /// Its number.
    pub request: u64,
    /// Its method, as it was sent.
    pub method: String,
    /// When it arrived.
    #[serde(rename = "arrived_ms", with = "ms")]
    pub arrived: At,
    /// When it was answered; none: not yet, or never.
    #[serde(rename = "answered_ms", with = "ms::option")]
    pub answered: Option<At>,
    /// With which status.
    pub status: Option<u16>,
    /// It was answered to a closed connection: nobody could read it.
    pub to_nobody: bool,
}

/// One connection to a Bot API port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionRecord {
    /// Who opened it.
    #[serde(flatten)]
    pub peer: Peer,
    /// The peer's port.
    pub port: u16,
    /// When it was opened.
    #[serde(rename = "opened_ms", with = "ms")]
    pub opened: At,
    /// When it was closed.
    #[serde(rename = "closed_ms", with = "ms::option")]
    pub closed: Option<At>,
    /// By whom, and how.
    pub end: Option<ConnectionEnd>,
    /// What came over it.
    pub requests: Vec<ConnectionRequest>,
}
