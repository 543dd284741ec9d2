//! Real agents, as processes, between a bot and an emulator of the Bot API, with a real PostgreSQL. The emulator's ledger of
//! every update is the judge.

mod bot;
mod process;
mod world;

mod controlled;
mod dying;
mod handover;
mod outage;
mod secrets;
mod starting;
mod streaming;
