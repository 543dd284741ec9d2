//! What the documents say about the files beside them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::render::{read, root};

fn pages() -> Vec<PathBuf> {
    let markdown = |folder: &str| {
        let entries = fs::read_dir(root().join(folder)).expect("a folder").flatten().map(|entry| entry.path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect::<Vec<_>>()
    };
    [markdown("."), markdown("docs")].concat()
}

#[test]
fn a_link_to_a_file_that_is_not_there_is_found() {
    let mut links = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            links += 1;
            assert!(page.with_file_name(file).exists(), "{}: {target}", page.display());
        }
    }
    assert!(links > 10, "only {links} links were found");
}

/// The names in a section of a manifest.
fn dependencies<'a>(manifest: &'a str, section: &str) -> impl Iterator<Item = &'a str> {
    let lines = manifest.split(section).nth(1).expect("dependencies").lines().take_while(|line| !line.starts_with('['));
    lines.filter_map(|line| line.split_once(" = ").map(|(name, _)| name)).filter(|name| !name.starts_with('#'))
}

#[test]
fn a_dependency_without_a_reason_is_found() {
    let workspace = read("Cargo.toml");
    let fuzz = read("operator/gate/fuzz/Cargo.toml");
    let names = dependencies(&workspace, "[workspace.dependencies]\n").chain(dependencies(&fuzz, "[dependencies]\n"));
    let wanted: BTreeSet<_> = names.filter(|name| !name.starts_with("pollux-")).collect();
    assert!(wanted.len() > 30, "{wanted:?}");

    let page = read("docs/dependencies.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")).filter_map(|row| row.split(" | ").next());
    let explained: BTreeSet<_> =
        rows.flat_map(|names| names.split(", ")).filter(|name| !matches!(*name, "crate" | "---")).collect();
    assert_eq!(wanted, explained, "docs/dependencies.md and Cargo.toml name different crates");
}
