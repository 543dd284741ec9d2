//! The lease that decides which one of a bot's replicas polls Telegram, kept in PostgreSQL.
//!
//! One row per bot. Safety comes from compare-and-set and from each process's own clock, never from the database's;
//! speed comes from notifications, which are only ever a reason to look. The protocol itself is `core`, a pure state
//! machine whose documentation is the specification; everything else is its edge.
//!
//! An agent spawns a [`Lease`], tells it whether its bot could lead ([`Lease::set_ready`]) and obeys its [`View`]: it may
//! act for the bot only while [`Role::may_poll`] says so, asked immediately before the side effect. The controller uses an
//! [`Observer`] to see who leads and to write what agents should know, and [`admin`] to set the database up.
//!
//! This crate knows neither Kubernetes nor Telegram. PostgreSQL 14 and newer.

mod core;
mod database;
mod driver;
mod error;
mod filelock;
mod flaw;
mod identity;
mod lane;
mod lease;
mod metrics;
mod observer;
mod session;
mod statements;
mod tls;
mod view;
mod world;

pub mod admin;

pub use database::{Database, Roots, TlsPolicy, UriError};
pub use error::Error;
pub use identity::{BotKey, Replica, Resource, TokenDigest};
pub use lease::{Config, Lease};
pub use observer::{BotView, Candidate, FullLogin, Handover, LeaseRow, Look, Observer, ObserverState, Party, Setting};
pub use pollux_clock::BootInstant;
pub use view::{
    DatabaseState, DrainReport, Evidence, HandOver, HandedOver, Holder, Reason, Request, Role, Settings, Takeover, View,
};
