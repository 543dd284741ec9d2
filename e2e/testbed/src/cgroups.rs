//! The cgroups of a cluster: one directory in every hierarchy of v1, one in v2; below it one for each node.
//!
//! On v2 the controllers that the kubelet needs are turned on at the root (runc turns on the rest) and noted in the ledger
//! of [`crate::host`], so that the last `down` turns off again what was off before.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::host::Ledger;

const ROOT: &str = "/sys/fs/cgroup";
const NEEDED: [&str; 5] = ["cpuset", "cpu", "memory", "hugetlb", "pids"];

/// Is this a machine with the unified hierarchy alone?
fn unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// The cluster's directory in every hierarchy.
pub(crate) fn directories(cgroup: &str) -> Vec<PathBuf> {
    if unified() {
        return vec![Path::new(ROOT).join(cgroup)];
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let hierarchies = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (path, kind) = (words.next()?, words.next()?);
        (matches!(kind, "cgroup" | "cgroup2") && path.starts_with("/sys/fs/cgroup/"))
            .then(|| Path::new(path).join(cgroup))
    });
    hierarchies.collect()
}

/// Makes them, for nodes 1 to `nodes`.
pub(crate) fn make(cgroup: &str, nodes: u8, ledger: &Ledger) -> Result<()> {
    if unified() { make_unified(cgroup, nodes, ledger) } else { make_v1(cgroup, nodes) }
}

fn make_unified(cgroup: &str, nodes: u8, ledger: &Ledger) -> Result<()> {
    let root = Path::new(ROOT);
    let own = root.join(cgroup);
    fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
    let words = |path: PathBuf| -> Result<Vec<String>> {
        Ok(fs::read_to_string(path)?.split_whitespace().map(str::to_owned).collect())
    };
    let available = words(root.join("cgroup.controllers"))?;
    let on = words(root.join("cgroup.subtree_control"))?;
    for controller in available.iter().filter(|controller| !on.contains(controller)) {
        ledger.first(&format!("cgroup {controller}"))?;
    }
    for controller in NEEDED.iter().filter(|needed| available.iter().any(|have| have == *needed)) {
        for folder in [root, &own] {
            fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"))
                .with_context(|| format!("cannot turn on {controller} in {}", folder.display()))?;
        }
    }
    for node in 1..=nodes {
        fs::create_dir_all(own.join(format!("node-{node}")))?;
    }
    Ok(())
}

fn make_v1(cgroup: &str, nodes: u8) -> Result<()> {
    let directories = directories(cgroup);
    if !directories.iter().any(|directory| directory.starts_with("/sys/fs/cgroup/memory")) {
        bail!("no cgroup hierarchy is mounted in {ROOT} (neither v2 nor v1 with a memory controller)");
    }
    for own in directories {
        fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
        for node in 1..=nodes {
            let below = own.join(format!("node-{node}"));
            fs::create_dir_all(&below)?;
            // A new cpuset is empty, and nothing can be put into it before it has CPUs and memory of its parent.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if own.join(file).exists() {
                    let parent = own.parent().context("a cgroup has a parent")?;
                    let value = fs::read_to_string(parent.join(file))?;
                    fs::write(own.join(file), &value)?;
                    fs::write(below.join(file), &value)?;
                }
            }
        }
    }
    Ok(())
}

/// Every process in the cluster's cgroups, or in those of one node or pod (`below`: a part of the path, empty for all).
pub(crate) fn processes(cgroup: &str, below: &str) -> Vec<i32> {
    let mut pids = Vec::new();
    for directory in directories(cgroup) {
        walk(&directory, &mut |folder| {
            if folder.to_string_lossy().contains(below) {
                let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
                pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            }
        });
    }
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Removes them; the kernel needs a moment after the last process.
pub(crate) fn remove(cgroup: &str) -> Result<()> {
    for _ in 0..100 {
        let left: Vec<_> = directories(cgroup).into_iter().filter(|directory| directory.exists()).collect();
        if left.is_empty() {
            return Ok(());
        }
        for directory in left {
            walk(&directory, &mut |folder| {
                let _ = fs::remove_dir(folder);
            });
        }
        sleep(Duration::from_millis(20));
    }
    bail!("cgroups of {cgroup} cannot be removed: something still runs in them")
}

/// Children first.
fn walk(folder: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), visit);
        }
    }
    visit(folder);
}

/// Turns a controller off again at the root of v2.
pub(crate) fn turn_off(controller: &str) {
    let _ = fs::write(Path::new(ROOT).join("cgroup.subtree_control"), format!("-{controller}"));
}
