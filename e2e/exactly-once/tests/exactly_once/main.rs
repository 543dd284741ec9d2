//! Effects that happen once: the users' SQL on a real PostgreSQL.

mod database;
mod fence;
mod installed;
mod races;
mod updates;
