//! What goes into the core and what comes out of it.

use std::sync::Arc;
use std::time::Duration;

use pollux_clock::BootInstant;

use crate::{Drained, Event, Leadership, Settings, TokenProblem};

/// One `getUpdates` request of the bot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(pub u64);

/// One connection of the bot to the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// One `getUpdates` request to Telegram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PollId(pub u64);

/// The arguments of a `getUpdates`, as the bot sent them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PollArgs {
    /// `offset`; absent and unreadable are both `None`, as the server treats them.
    pub offset: Option<i64>,
    /// `limit`.
    pub limit: Option<i64>,
    /// `timeout` in seconds.
    pub timeout: Option<i64>,
    /// `allowed_updates`, the text of a JSON array; anything else is `None` (some libraries send the text `null`).
    pub allowed_updates: Option<Arc<str>>,
}

/// The arguments of an upstream `getUpdates`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollQuery {
    /// The bot's offset or a lower one, never a higher one (R9).
    pub offset: Option<i64>,
    /// At most so many updates.
    pub limit: u16,
    /// Telegram answers after this many seconds at the latest.
    pub timeout_seconds: u16,
    /// The last list that the bot sent (R7).
    pub allowed_updates: Option<Arc<str>>,
}

/// What came of an upstream `getUpdates`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 200 with these update ids, in order.
    Updates(Vec<i64>),
    /// 409: another `getUpdates` took the slot.
    Conflict,
    /// 409: a webhook is set.
    WebhookActive,
    /// 429.
    FloodWait(Duration),
    /// 401, or 404 (which Telegram's front answers to a token that it does not know).
    Unauthorized,
    /// Any other answer, none in time, or a broken connection.
    Failed,
    /// The connection was closed before the request was answered; it had been idle, so that says nothing about Telegram.
    Stale,
}

/// In which state a connection of the bot was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// A request was open on it, or its answer was not wholly sent.
    Interrupted,
    /// Nothing was open on it.
    Idle {
        /// Since its last answer.
        since: Duration,
        /// It had carried more than one request: its client keeps connections.
        reused: bool,
    },
}

/// A call of the bot of a method that is not the gate's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// It began.
    Started {
        /// Whether it is one of those that a handler makes.
        counts: bool,
        /// When.
        began: BootInstant,
    },
    /// It was answered in full or broken off by the bot.
    Ended {
        /// Whether it was answered, and is one of those that a handler makes.
        counts: bool,
        /// When it was called.
        began: BootInstant,
    },
}

/// What happens to a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The lease was renewed, taken or lost.
    Leadership(Leadership),
    /// New settings.
    Settings(Settings),
    /// A connection made its first request with the bot's token.
    Connected(ConnectionId),
    /// Such a connection is closed.
    Disconnected(ConnectionId, Closed),
    /// The bot asks for updates.
    Poll {
        /// The request.
        request: RequestId,
        /// What it asks for.
        args: PollArgs,
    },
    /// The bot closed the connection of a held request, or was gone when its answer was ready.
    Abandoned(RequestId),
    /// The updates of an answer did not reach the bot: it was gone, or the fence had passed (R8).
    Undelivered(RequestId),
    /// Another method was called, or a call is over.
    Call(Call),
    /// The bot works on something that makes no call (`POST /busy`).
    Busy,
    /// It has done that (`POST /idle`).
    Idle,
    /// The bot called `deleteWebhook`, or `setWebhook` without a URL (R18).
    WebhookUnwanted {
        /// It asked to drop the pending updates too (R17).
        drop: bool,
    },
    /// In the epoch that is about to begin this process leads after nobody has for long (R17, `ColdStart`).
    ColdStart {
        /// The lease's epoch.
        epoch: i64,
    },
    /// The edge did not pass on a call of this method, or a part of it (R18, R19, R21).
    Suppressed(&'static str),
    /// What came of [`Action::DeleteWebhook`].
    WebhookDeleted(bool),
    /// The request of an upstream poll was handed to the socket at this instant.
    PollWritten(PollId, BootInstant),
    /// An upstream poll is over.
    PollEnded(PollId, Outcome),
    /// `getMe` was answered: the token is good, or (`false`) refused.
    TokenSeen(bool),
    /// The token file has another token of the same bot, and Telegram accepts it.
    TokenChanged,
    /// The token file holds something else than the token that is used, for this reason; `None`: it does not any more.
    TokenProblem(Option<TokenProblem>),
    /// Drain (R32).
    Drain,
    /// Take one [`Input::Drain`] back: the lease was kept.
    Resume,
    /// The pod ends (R32.5).
    Terminate,
    /// Nothing but time has passed.
    Tick,
}

/// What a held request is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `{"ok":true,"result":[]}`.
    Empty,
    /// Of the upstream answer that is being handled in this step, the updates but the first `skip`, `take` of them.
    Updates {
        /// The bot has acknowledged so many, and Telegram does not know yet.
        skip: usize,
        /// So many are for the bot.
        take: usize,
    },
}

/// What the edge has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Answer a held request.
    Answer(RequestId, Reply),
    /// Open an upstream poll. Only ever after the one before has ended or was cancelled.
    Poll {
        /// Its name.
        id: PollId,
        /// What to ask.
        query: PollQuery,
        /// Give up after this long.
        patience: Duration,
    },
    /// Reset the connection of the open upstream poll.
    Cancel(PollId),
    /// Have a connection to Telegram ready: the bot waits here, so this gate may have to poll at any moment.
    Warm,
    /// Call `deleteWebhook` upstream.
    DeleteWebhook {
        /// Drop the pending updates too (R17).
        drop: bool,
    },
    /// Tell the owner.
    Emit(Event),
    /// The drain is over.
    Drained(Drained),
}
