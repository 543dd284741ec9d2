//! What a machine must have, looked at before anything is done. All that is missing is told in one message; what apt can
//! bring is brought, with one line for what and why.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::process::{command, run};

/// A Debian package, what shows that it is there, and why it is needed.
struct Package {
    name: &'static str,
    shown_by: &'static [&'static str],
    why: &'static str,
}

const TO_RUN: [Package; 6] = [
    Package { name: "iproute2", shown_by: &["ip"], why: "nodes are network namespaces" },
    Package { name: "iptables", shown_by: &["iptables"], why: "kube-proxy, and the faults that cut a node off" },
    Package { name: "conntrack", shown_by: &["conntrack"], why: "kube-proxy" },
    Package { name: "util-linux", shown_by: &["nsenter", "unshare", "setsid"], why: "entering namespaces" },
    Package { name: "procps", shown_by: &["sysctl"], why: "forwarding inside the namespaces" },
    Package { name: "mount", shown_by: &["mount", "umount"], why: "the nodes' own folders" },
];
const TO_BUILD: [Package; 4] = [
    Package { name: "gcc", shown_by: &["gcc"], why: "runc is built with cgo" },
    Package {
        name: "libc6-dev",
        shown_by: &["/usr/include/stdlib.h"],
        why: "runc is built with cgo, and the pause program statically",
    },
    Package { name: "pkg-config", shown_by: &["pkg-config"], why: "runc finds libseccomp by it" },
    Package {
        name: "libseccomp-dev",
        shown_by: &["/usr/include/seccomp.h"],
        why: "runc without seccomp starts no restricted pod",
    },
];
const GIB: u64 = 1 << 30;

/// Before a build: returns the path of `go`. `much`: something big is missing.
pub(crate) fn for_build(much: bool) -> Result<PathBuf> {
    install(&TO_BUILD)?;
    let mut problems = Vec::new();
    let go = find_go();
    match &go {
        None => problems.push("Go 1.26 or newer is needed to build Kubernetes: https://go.dev/doc/install (looked in PATH, /usr/local/go/bin)".to_owned()),
        Some(go) => {
            let said = run(Command::new(go).arg("version").env("GOTOOLCHAIN", "local")).unwrap_or_default();
            if go_minor(&said).is_none_or(|minor| minor < 26) {
                problems.push(format!("Go 1.26 or newer is needed to build Kubernetes; {} is {}", go.display(), said.trim()));
            }
        }
    }
    architecture(&mut problems);
    memory("MemTotal", 6 * GIB - GIB / 2, "6 GB of memory are needed to build", &mut problems);
    disk(if much { 16 } else { 2 }, &mut problems);
    told(problems)?;
    go.context("checked above")
}

/// Before a start.
pub(crate) fn for_start() -> Result<()> {
    let root = rustix::process::geteuid().is_root();
    if !root {
        return told(vec![
            "root is needed for namespaces, mounts and cgroups: use sudo (files are handed back to you)".to_owned(),
        ]);
    }
    install(&TO_RUN)?;
    let mut problems = Vec::new();
    architecture(&mut problems);
    memory("MemAvailable", 2 * GIB, "2 GB of free memory are needed to run a cluster", &mut problems);
    disk(5, &mut problems);
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.contains("\toverlay\n") && run(&mut command(["modprobe", "overlay"])).is_err() {
        problems.push("the kernel has no overlayfs (images are unpacked with it)".to_owned());
    }
    // In a throwaway namespace: what a node will do.
    let probe = "ip link add br0 type bridge && ip link add ve0 type veth peer name ve1 && iptables -t nat -S && iptables -t mangle -S \
                 && iptables -A INPUT -m conntrack --ctstate NEW -m comment --comment x -j DROP";
    if let Err(error) = run(&mut command(["unshare", "--net", "--mount", "sh", "-c", probe])) {
        problems.push(format!("no namespaces, bridges, veth pairs or iptables here: {error:#}"));
    }
    told(problems)
}

fn told(problems: Vec<String>) -> Result<()> {
    match problems.as_slice() {
        [] => Ok(()),
        [one] => bail!("this machine cannot do it yet: {one}"),
        several => bail!("this machine cannot do it yet:\n  - {}", several.join("\n  - ")),
    }
}

fn architecture(problems: &mut Vec<String>) {
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        problems.push(format!(
            "{} is not an architecture that Kubernetes runs on here (x86_64, aarch64)",
            std::env::consts::ARCH
        ));
    }
}

fn memory(field: &str, least: u64, message: &str, problems: &mut Vec<String>) {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap_or_default();
    let have = line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0) * 1024;
    if have < least {
        problems.push(format!("{message} ({field} is {:.1} GB)", have as f64 / GIB as f64));
    }
}

fn disk(least: u64, problems: &mut Vec<String>) {
    let cache = paths::cache();
    let Some(existing) = cache.ancestors().find(|folder| folder.exists()) else { return };
    if let Ok(stat) = rustix::fs::statvfs(existing) {
        let free = stat.f_bavail * stat.f_frsize / GIB;
        if free < least {
            problems.push(format!(
                "{least} GB of free disk are needed below {} ({free} GB are free; POLLUX_CACHE names another place)",
                existing.display()
            ));
        }
    }
}

/// sudo takes Go's usual place out of PATH.
fn find_go() -> Option<PathBuf> {
    find("go").or_else(|| {
        ["/usr/local/go/bin/go", "/usr/lib/go-1.26/bin/go"].map(PathBuf::from).into_iter().find(|path| path.is_file())
    })
}

/// `go version go1.26.8 linux/amd64` → 26.
fn go_minor(said: &str) -> Option<u32> {
    said.split_whitespace().nth(2)?.strip_prefix("go1.")?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn find(program: &str) -> Option<PathBuf> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&search).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

fn install(packages: &[Package]) -> Result<()> {
    let there = |what: &str| if what.starts_with('/') { Path::new(what).exists() } else { find(what).is_some() };
    let missing: Vec<_> = packages.iter().filter(|package| !package.shown_by.iter().all(|what| there(what))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().map(|package| package.name).collect::<Vec<_>>();
    if find("apt-get").is_none() || !rustix::process::geteuid().is_root() {
        let list = missing.iter().map(|package| format!("{} ({})", package.name, package.why)).collect::<Vec<_>>();
        bail!(
            "these Debian packages (or what holds the same) are missing, and apt-get or root to install them: {}",
            list.join(", ")
        );
    }
    for package in &missing {
        eprintln!("   installing {}: {}", package.name, package.why);
    }
    run(&mut command(["apt-get", "update"]))?;
    run(Command::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "-y", "--no-install-recommends"])
        .args(&names))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::go_minor;

    #[test]
    fn an_old_go_is_told_apart_from_a_new_one() {
        assert_eq!(go_minor("go version go1.26.8 linux/amd64"), Some(26));
        assert_eq!(go_minor("go version go1.19 linux/amd64"), Some(19));
        assert_eq!(go_minor("go version go1.27rc1 linux/amd64"), Some(27));
        assert_eq!(go_minor(""), None);
    }
}
