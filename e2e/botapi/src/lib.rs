//! An emulator of Telegram's Bot API server, faithful where bots and gates can tell, with a ledger of every update.

mod emulator;
mod model;

pub use emulator::Emulator;
pub use model::*;
