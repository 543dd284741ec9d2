//! What goes in and out of the gate besides HTTP.

use std::time::Duration;

use pollux_clock::BootInstant;

/// Whether this process leads, as its lease says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// Somebody else leads, or nobody.
    Standby,
    /// This process leads until `fence`. Sent again with a later fence after each renewal.
    Leader {
        /// The fencing token of the lease.
        epoch: i64,
        /// The instant from which this process may do nothing any more, the lease's margin already taken off.
        fence: BootInstant,
    },
}

/// What is known of the token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenState {
    /// Telegram was not asked yet, or did not answer.
    #[default]
    Unknown,
    /// Telegram answered a call with this token.
    Accepted,
    /// Telegram answered 401 or 404.
    Rejected,
}

/// Why what the token file holds is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenProblem {
    /// It is the token of another bot, whose updates this lease has nothing to do with.
    OtherBot,
    /// Telegram refuses it.
    Refused,
    /// It is no token, or cannot be read.
    Unreadable,
}

/// The bot as Telegram names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BotIdentity {
    /// The bot's user id.
    pub id: i64,
    /// The bot's user name, without the `@`.
    pub username: String,
}

/// A snapshot of what the gate knows about its bot and about Telegram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Readiness of the pod: the bot has asked for updates since it started (R15, a latch).
    pub bot_ready: bool,
    /// The bot has a `getUpdates` open, or had one a moment ago: this process may take the lease (R14, a level).
    pub bot_polling: bool,
    /// The bot's process has a connection to the gate, or is between two of them (R14b).
    pub bot_alive: bool,
    /// All connections of the bot were closed as those of a process that dies. [`Self::bot_alive`] ends a moment later, unless
    /// it comes back (R14b).
    pub bot_missing: bool,
    /// The bot has neither polled nor called anything for [`crate::Settings::poll_gap`] (R14).
    pub deaf: bool,
    /// What Telegram says of the token (R26).
    pub token: TokenState,
    /// The token file holds something else, which is not used.
    pub token_problem: Option<TokenProblem>,
    /// Who the bot is, once `getMe` was answered.
    pub bot: Option<BotIdentity>,
    /// A webhook is set at Telegram, so that polling is refused (R18).
    pub webhook_active: bool,
    /// How many polls Telegram refused because somebody else polls with this token; 0 when that was ten minutes ago (R25).
    pub foreign_conflicts: u32,
    /// The gate polls with this epoch now; `None` on a standby, after the fence and while draining.
    pub leading: Option<i64>,
    /// A drain has begun, was not taken back, and this process has not led anew since.
    pub draining: bool,
    /// A drain is over and the bot's handlers still work ([`crate::Ordering::Fast`]).
    pub finishing: bool,
}

/// How the bot's calls of the Bot API went since this process began; `getUpdates` is none of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// That were made.
    pub made: u64,
    /// That were refused: 4xx other than 429, and 5xx.
    pub failed: u64,
}

/// Something that happened once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The first upstream poll of this leadership was written.
    FirstPoll {
        /// The epoch of the lease.
        epoch: i64,
        /// When the request was handed to the socket.
        at: BootInstant,
    },
    /// The bot's process is gone (R14b): hand over without a drain if somebody else is ready.
    BotGone,
    /// The bot's process is back after [`Event::BotGone`].
    BotBack,
    /// The bot neither polls nor calls (R14): hand over without a drain if somebody else is ready.
    BotDeaf,
    /// The one late request of a paused predecessor took the polling slot; it was taken back at once (R25).
    LateRequest,
    /// Somebody else polls with this token (R25).
    ForeignPoller,
    /// Telegram refuses the token (R26).
    TokenRejected,
    /// A bot asked to drop its pending updates, or to set a webhook; that was not passed on (R17-R19).
    Suppressed {
        /// The method, as Telegram spells it.
        method: &'static str,
    },
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainOutcome {
    /// There was nothing to do: this gate did not lead, or its bot was never given anything (R34).
    Nothing,
    /// The bot has acknowledged and finished everything it was given.
    Complete,
    /// The limit passed first: `unacknowledged` updates will be repeated, and work in the bot's memory may be lost (R33).
    TimedOut,
    /// The bot's process died meanwhile.
    BotGone,
    /// The lease's fence passed before the end.
    FenceLost,
}

/// What a drain achieved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drained {
    /// How it ended.
    pub outcome: DrainOutcome,
    /// From the request to the end, the confirmation at Telegram included.
    pub duration: Duration,
    /// When this process's last upstream `getUpdates` (poll or confirmation) ended; `None` when it never polled.
    pub last_poll_ended: Option<BootInstant>,
    /// Updates that were delivered and not acknowledged, or that are not settled: Telegram gives them to the next leader again.
    pub unacknowledged: usize,
    /// Updates that the bot was probably still working on (deliveries without a call of the bot).
    pub owed: usize,
    /// Telegram has the bot's last acknowledgement, or there was none that it had not.
    pub confirmed: bool,
}

// === impl DrainOutcome ===

impl DrainOutcome {
    /// A short word for logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Complete => "complete",
            Self::TimedOut => "timed_out",
            Self::BotGone => "bot_gone",
            Self::FenceLost => "fence_lost",
        }
    }
}
