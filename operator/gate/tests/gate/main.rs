//! The rules of the gate, one test each. `rules` and `properties` run the core with a made-up clock; the rest runs a gate
//! against the Bot API emulator, or against scripted servers where a server has to misbehave.

mod arguments;
mod calls;
mod cost;
mod crashes;
mod drains;
mod pending;
mod polls;
mod presence;
mod properties;
mod proxies;
mod rules;
mod secrets;
mod settled;
mod streams;
mod support;
mod upstreams;
mod webhooks;
