//! What is promised in docs/exactly-once.md, tested: the SQL that users install (`config/sql/exactly-once.sql`) with races on
//! a real PostgreSQL, and the page's own programs, killed and frozen between a real gate and a real PostgreSQL.

use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = "docs/exactly-once.md";

/// The folder of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The SQL that users install.
pub fn kit() -> String {
    read("config/sql/exactly-once.sql")
}

/// What the page shows under this name: the text of the fenced block whose first line is ` ```language name `.
///
/// # Panics
/// If the page has no such block.
pub fn block(name: &str) -> String {
    let blocks = blocks().into_iter();
    let found = blocks.filter(|(shown, _)| shown.split(' ').nth(1) == Some(name)).map(|(_, text)| text).next();
    found.unwrap_or_else(|| panic!("{PAGE} has no block {name}"))
}

/// All blocks of the page: language and name, and the text.
pub fn blocks() -> Vec<(String, String)> {
    let page = read(PAGE);
    let mut found: Vec<(String, String)> = Vec::new();
    let mut open = false;
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(info) => {
                open = true;
                found.push((info.to_owned(), String::new()));
            }
            None if open => found.last_mut().into_iter().for_each(|(_, text)| *text += &format!("{line}\n")),
            None => {}
        }
    }
    found
}

/// Where the libraries of the page's programs are: just those that the locks name.
///
/// # Panics
/// If they are not there.
pub fn libraries() -> PathBuf {
    let cache = std::env::var_os("POLLUX_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/pollux")));
    let folder = cache.expect("HOME or POLLUX_CACHE").join("exactly-once");
    let locks = repository().join("e2e/exactly-once/libraries");
    let there = ["requirements.txt", "package.json", "package-lock.json"].iter().all(|lock| {
        fs::read(folder.join(lock)).is_ok_and(|known| fs::read(locks.join(lock)).is_ok_and(|l| l == known))
    });
    assert!(there, "psycopg, pg and typescript are not in {}: run `make need-libraries`", folder.display());
    folder
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
