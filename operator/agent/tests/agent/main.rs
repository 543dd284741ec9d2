//! Real agents, as processes, between a bot and an emulator of the Bot API, with a real PostgreSQL. The emulator's ledger of
//! every update is the judge.

mod bot;
mod data_centre;
mod world;

mod controlled;
mod directed;
mod dying;
mod handover;
mod outage;
mod process;
mod secrets;
mod starting;
mod streaming;
mod supervised;

/// The agent that is tested.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_pollux-agent");
