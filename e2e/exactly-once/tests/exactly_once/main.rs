//! Effects that happen once: the users' SQL on a real PostgreSQL, and the programs of docs/exactly-once.md.

mod bots;
mod database;
mod fence;
mod installed;
mod pods;
mod programs;
mod races;
mod updates;
