//! Real agents, as processes, between a bot and an emulator of the Bot API, with a real PostgreSQL. The emulator's ledger of
//! every update is the judge.

mod bot;
mod world;

mod controlled;
mod directed;
mod dying;
mod handover;
mod outage;
mod secrets;
mod starting;
mod streaming;

/// The agent that is tested.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_pollux-agent");
