//! The emulator over real sockets and in a real browser. Its rules are tested without them, beside the code.

mod common;
mod connections;
mod files;
mod http;
mod ledger;
mod page;
mod retention;
mod webhooks;
