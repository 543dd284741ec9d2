//! What touches the host, and how it is taken back.
//!
//! The host gets no network device, route, rule, sysctl or mount of ours. What cannot be avoided (the folder of named network
//! namespaces, empty folders to mount on inside the nodes' own mount namespaces, controllers of cgroup v2) is written to a
//! ledger before it is made, for all clusters together; the last `down` undoes it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::cgroups;
use crate::layout::Layout;
use crate::process::{self, command, run, sh_words};

const LEDGER: &str = "/run/pollux-testbed.made";
const NAMESPACES: &str = "/run/netns";

/// Fixed paths of containerd, the kubelet and CNI: every node has folders of its own there.
pub(crate) const PRIVATE: [&str; 4] = ["/run/containerd", "/var/lib/kubelet", "/var/lib/cni", "/var/log/containers"];
/// The kubelet would set these for the whole machine: inside a node it finds files that have these values already.
const SYSCTLS: [(&str, &str); 5] = [
    ("vm/overcommit_memory", "1"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// What was made on the host. Holding it excludes other clusters that start or stop (a lock on the folder `/run`).
pub(crate) struct Ledger {
    fresh: bool,
    _lock: File,
}

impl Ledger {
    /// Waits for its turn.
    pub(crate) fn open() -> Result<Self> {
        let lock = File::open("/run").context("no /run")?;
        lock.lock().context("cannot lock /run")?;
        Ok(Self { fresh: !Path::new(LEDGER).exists(), _lock: lock })
    }

    fn note(entry: &str) -> Result<()> {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(LEDGER)?;
        writeln!(file, "{entry}").context("cannot write the ledger")
    }

    /// Notes what only the first cluster can know: how the machine was before.
    pub(crate) fn first(&self, entry: &str) -> Result<()> {
        if self.fresh { Self::note(entry) } else { Ok(()) }
    }

    /// The folders that must exist before a node can mount its own on them.
    pub(crate) fn make_folders(&self) -> Result<()> {
        if !Path::new(NAMESPACES).exists() {
            Self::note(&format!("netns {NAMESPACES}"))?;
        }
        for folder in PRIVATE.map(Path::new) {
            if !folder.exists() {
                Self::note(&format!("dir {}", folder.display()))?;
                fs::create_dir_all(folder)?;
            }
        }
        Ok(())
    }

    /// Undoes everything, if no cluster is left.
    pub(crate) fn settle(&self) {
        let Ok(entries) = fs::read_to_string(LEDGER) else { return };
        if !process::all_marked(None).is_empty() {
            return;
        }
        for entry in entries.lines() {
            match entry.split_once(' ') {
                Some(("dir", folder)) => {
                    let _ = fs::remove_dir(folder);
                }
                Some(("netns", folder)) if fs::read_dir(folder).is_ok_and(|mut left| left.next().is_none()) => {
                    let _ = run(&mut command(["umount", folder]));
                    let _ = fs::remove_dir(folder);
                }
                Some(("cgroup", controller)) => cgroups::turn_off(controller),
                _ => {}
            }
        }
        let _ = fs::remove_file(LEDGER);
    }
}

/// Adds a named network namespace with its loopback up.
pub(crate) fn add_namespace(name: &str) -> Result<()> {
    sh_words(&format!("ip netns add {name}"))?;
    sh_words(&format!("ip -n {name} link set lo up"))?;
    // A sysctl of the namespace, not of the host.
    sh_words(&format!("nsenter --net={NAMESPACES}/{name} sysctl -qw net.ipv4.ip_forward=1"))?;
    Ok(())
}

/// The file of a named network namespace.
pub(crate) fn namespace(name: &str) -> PathBuf {
    Path::new(NAMESPACES).join(name)
}

/// The script that gives a node its own folders and then keeps its mount namespace for as long as it lives. It runs inside
/// of it: its mounts vanish with the last process of the node.
pub(crate) fn mount_script(node: &Path) -> Result<String> {
    let own = node.join("host");
    let mut script = String::from("set -e\n");
    for path in PRIVATE {
        let from = own.join(path.trim_start_matches('/'));
        fs::create_dir_all(&from)?;
        script += &format!("mount --bind '{}' '{path}'\n", from.display());
    }
    for (path, value) in SYSCTLS {
        let from = own.join("proc").join(path);
        crate::paths::write(&from, format!("{value}\n"))?;
        script += &format!("mount --bind '{}' '/proc/sys/{path}'\n", from.display());
    }
    script += &format!("touch '{}'\nexec sleep infinity\n", node.join("mounted").display());
    Ok(script)
}

/// Every process of a cluster: by its environment, and by its cgroups (containers have their own environment).
fn processes(layout: &Layout) -> Vec<i32> {
    let mut pids = cgroups::processes(&layout.cgroup(), "");
    pids.extend(process::all_marked(Some(&layout.folder)));
    pids.retain(|pid| *pid != std::process::id().cast_signed());
    pids
}

/// Removes all of a cluster but its folder: processes, mounts, namespaces, cgroups. Works from any state, also from none.
pub(crate) fn clear(layout: &Layout) -> Result<()> {
    for attempt in 0.. {
        let left = processes(layout);
        if left.is_empty() {
            break;
        }
        if attempt > 200 {
            bail!("these processes do not die: {left:?}");
        }
        for pid in left {
            process::signal(pid, Signal::KILL);
        }
        sleep(Duration::from_millis(20));
    }
    unmount(&layout.folder)?;
    for namespace in fs::read_dir(NAMESPACES).into_iter().flatten().flatten() {
        let name = namespace.file_name().to_string_lossy().into_owned();
        if layout.is_namespace(&name) {
            sh_words(&format!("ip netns del {name}"))?;
        }
    }
    cgroups::remove(&layout.cgroup())
}

/// Mounts that lie below a folder, the innermost first.
fn unmount(folder: &Path) -> Result<()> {
    let prefix = format!("{}/", folder.display());
    let mounts = fs::read_to_string("/proc/mounts").context("no /proc/mounts")?;
    let below = mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| path.starts_with(&prefix));
    for path in below.collect::<Vec<_>>().into_iter().rev() {
        run(&mut command(["umount", "--lazy", path]))?;
    }
    Ok(())
}
