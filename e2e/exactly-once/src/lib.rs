//! What is promised in docs/exactly-once.md, tested: the SQL that users install (`config/sql/exactly-once.sql`), with races
//! on a real PostgreSQL.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The file that users install.
pub fn kit_file() -> PathBuf {
    repository().join("config/sql/exactly-once.sql")
}

/// What it says.
///
/// # Panics
/// If it is not there.
pub fn kit() -> String {
    let file = kit_file();
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}
