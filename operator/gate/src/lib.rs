//! The gate: the Bot API endpoint that a bot talks to instead of Telegram.
//!
//! A bot token has one polling session, so two replicas of a bot throw each other out. The gate ends that without the
//! bot's help: every replica has a gate of its own, all of them take `getUpdates` from their bot, and only the gate whose
//! process leads passes it on. For the bot behind a standby gate it is a quiet day.
//!
//! * [`Gate`] is the running endpoint; [`Gate::set_leadership`] is what its owner tells it, [`Gate::status`] and
//!   [`Gate::events`] what it says, [`Gate::drain`] the planned way out.
//! * [`core`] holds the rules, without any I/O.
//!
//! # Guarantees
//!
//! * Nothing is asked of Telegram, and nothing is given to the bot, after the fence of the lease (rules R8, R13).
//! * Never two polls open at once; never an offset above the one the bot sent (R9, R10).
//! * The bot never sees an error on `getUpdates` (R5, R11), and a call that was begun is always answered (R23).
//! * The token is in no log line, error, metric or status.

#![doc(test(attr(deny(warnings))))]

mod answer;
mod answers;
mod args;
mod body;
pub mod core;
mod driver;
mod fence;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gate;
mod get_me;
mod link;
mod metrics;
mod pending;
mod proxy;
mod server;
mod settings;
mod status;
mod token;
mod upstream;
mod webhook;

pub use gate::{Config, Gate, StartError, Upstream};
pub use settings::{Delivery, Ordering, PendingUpdates, Settings};
pub use status::{BotIdentity, Calls, DrainOutcome, Drained, Event, Leadership, Status, TokenProblem, TokenState};
pub use token::{Token, TokenError};
