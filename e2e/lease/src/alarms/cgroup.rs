//! Processes that get next to no processor time: a cgroup with a quota, of version 1 or 2, whichever this machine has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::network::dies_with_us;

const ROOT: &str = "/sys/fs/cgroup";
const PREFIX: &str = "pollux-alarms-";
/// Five millicores. The kernel grants no quota below a millisecond, so 0.5 ms of 100 ms is 1 ms of 200 ms.
const QUOTA: Duration = Duration::from_millis(1);
const PERIOD: Duration = Duration::from_millis(200);

/// A cgroup that is always short of time.
#[derive(Debug)]
pub(crate) struct Starving {
    folder: PathBuf,
    /// Where its processes come from and go back to.
    home: PathBuf,
}

/// A process in there, until this is dropped.
#[derive(Debug)]
pub(crate) struct Starved<'a> {
    cgroup: &'a Starving,
    pid: u32,
    spin: Child,
    /// When it went in.
    throttled: u32,
}

// === impl Starving ===

impl Starving {
    /// An empty one. A `name` that nobody else in this process has.
    ///
    /// # Errors
    /// Why this machine has none.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let (parent, home, unified) = hierarchy()?;
        remove_leftovers(&parent);
        let folder = parent.join(format!("{PREFIX}{}-{name}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let starving = Self { folder, home };
        if unified {
            starving.set("cpu.max", &format!("{} {}", QUOTA.as_micros(), PERIOD.as_micros()))?;
        } else {
            starving.set("cpu.cfs_period_us", &PERIOD.as_micros().to_string())?;
            starving.set("cpu.cfs_quota_us", &QUOTA.as_micros().to_string())?;
        }
        Ok(starving)
    }

    /// A process goes in. It shares what there is with one that spins: a lease alone needs less than that.
    pub(crate) fn take(&self, pid: u32) -> Result<Starved<'_>> {
        let mut spin = dies_with_us();
        spin.args(["sh", "-c", "while :; do :; done"]).stdin(Stdio::null());
        let spin = spin.spawn().context("starting something that spins")?;
        let starved = Starved { cgroup: self, pid, spin, throttled: self.throttled()? };
        self.set("cgroup.procs", &starved.spin.id().to_string())?;
        self.set("cgroup.procs", &pid.to_string())?;
        Ok(starved)
    }

    /// In how many periods somebody in it wanted to go on and was not let.
    fn throttled(&self) -> Result<u32> {
        let text = fs::read_to_string(self.folder.join("cpu.stat"))?;
        let count = text.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.parse().ok());
        count.context("cpu.stat does not count throttled periods")
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        let path = self.folder.join(file);
        fs::write(&path, value).with_context(|| format!("cannot write {value} to {}", path.display()))
    }
}

impl Drop for Starving {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

// === impl Starved ===

impl Starved<'_> {
    /// For how long, all in all, somebody in there wanted to go on and was not let, in whole periods.
    pub(crate) fn throttled(&self) -> Result<Duration> {
        Ok(PERIOD * (self.cgroup.throttled()? - self.throttled))
    }
}

impl Drop for Starved<'_> {
    /// It goes back to where it came from.
    fn drop(&mut self) {
        let _ = fs::write(self.cgroup.home.join("cgroup.procs"), self.pid.to_string());
        let _ = self.spin.kill();
        let _ = self.spin.wait();
    }
}

/// Where a cgroup can be made, where this process is, and whether that is version 2.
fn hierarchy() -> Result<(PathBuf, PathBuf, bool)> {
    let ours = fs::read_to_string("/proc/self/cgroup").context("there are no cgroups")?;
    let ours = |wanted: &str| {
        let mut lines = ours.lines().map(|line| line.splitn(3, ':').skip(1).collect::<Vec<_>>());
        lines.find(|fields| fields[0].split(',').any(|name| name == wanted)).map(|fields| fields[1].to_owned())
    };
    let below = |root: &Path, path: String| root.join(path.trim_start_matches('/'));
    let root = Path::new(ROOT);
    if let Ok(on) = fs::read_to_string(root.join("cgroup.subtree_control")) {
        ensure!(on.split_whitespace().any(|name| name == "cpu"), "the cpu controller is not turned on in {ROOT}");
        return Ok((root.to_owned(), below(root, ours("").context("no cgroup of our own")?), true));
    }
    let root = root.join("cpu");
    ensure!(root.join("cpu.stat").exists(), "no cgroup hierarchy with a cpu controller is mounted in {ROOT}");
    Ok((root.clone(), below(&root, ours("cpu").context("no cgroup of our own")?), false))
}

/// Of runs that were killed: their processes died with them.
fn remove_leftovers(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}
