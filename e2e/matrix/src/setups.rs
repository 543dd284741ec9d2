//! The bots: what is in `e2e/bots/bots.json`, where `e2e/bots/install.sh` has put it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// When a library tells Telegram that it is done with an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Acks {
    /// As soon as it is in memory.
    First,
    /// When its handler has finished.
    After,
}

/// A library in one of its ways of use.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Setup {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) version: String,
    run: Vec<String>,
    #[serde(default)]
    env: std::collections::BTreeMap<String, String>,
    pub(crate) acks: Acks,
    /// How it takes turns, if not by the gate: then the emulator never sees it.
    #[serde(default)]
    adapter: Option<String>,
    /// Where it is installed.
    #[serde(skip)]
    directory: PathBuf,
}

#[derive(Deserialize)]
struct Bots {
    bots: Vec<Setup>,
}

/// Those of the list that are asked for; all of them if none is.
pub(crate) fn read(only: &[String]) -> Result<Vec<Setup>> {
    let folder = folder();
    let text = std::fs::read_to_string(folder.join("bots.json")).context("e2e/bots/bots.json")?;
    let Bots { mut bots } = serde_json::from_str(&text).context("e2e/bots/bots.json")?;
    bots.retain(|bot| bot.adapter.is_none());
    for name in only {
        let names: Vec<&str> = bots.iter().map(|bot| bot.name.as_str()).collect();
        ensure!(names.contains(&name.as_str()), "there is no bot {name}; there are {}", names.join(", "));
    }
    let wanted = bots.into_iter().filter(|bot| only.is_empty() || only.contains(&bot.name));
    wanted.map(|bot| Ok(Setup { directory: directory(&folder, &bot.name)?, ..bot })).collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bots")
}

fn directory(folder: &Path, name: &str) -> Result<PathBuf> {
    let output = Command::new(folder.join("install.sh")).args(["--print-dir", name]).output()?;
    ensure!(output.status.success(), "install.sh: {}", String::from_utf8_lossy(&output.stderr));
    let directory = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    ensure!(directory.is_dir(), "{name} is not installed: run e2e/bots/install.sh {name}");
    Ok(directory)
}

// === impl Setup ===

impl Setup {
    /// How it is run in a pod.
    pub(crate) fn program(&self, pod: Vec<(String, String)>) -> pollux_pods::Program {
        let env = self.env.clone().into_iter().chain(pod).collect();
        pollux_pods::Program { directory: self.directory.clone(), command: self.run.clone(), env }
    }
}
