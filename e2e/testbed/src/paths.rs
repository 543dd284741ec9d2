//! Where things are kept.
//!
//! ```text
//! $POLLUX_CACHE (~/.cache/pollux)
//!   bin/<component>-<version>/   what was built, once
//!   bin/<kubernetes version>/    links to what belongs together: put it in front of PATH
//!   log/                         logs of builds
//!   clusters/<name>/             a cluster: kubeconfig, env, log/, node-*/ (removed by `down`)
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Unix sockets below a cluster's folder must fit into 107 bytes; the longest is the kubelet's for device plugins.
const LONGEST_FOLDER: usize = 60;

/// The cache's folder: `$POLLUX_CACHE`, or `~/.cache/pollux`.
pub fn cache() -> PathBuf {
    let named = std::env::var_os("POLLUX_CACHE").filter(|value| !value.is_empty()).map(PathBuf::from);
    named.unwrap_or_else(|| {
        let home = std::env::var_os("HOME")
            .filter(|value| !value.is_empty())
            .map_or_else(|| PathBuf::from("/root"), PathBuf::from);
        home.join(".cache/pollux")
    })
}

/// The programs of one Kubernetes.
pub(crate) fn bin(kubernetes: &str) -> PathBuf {
    cache().join("bin").join(kubernetes)
}

/// A cluster's folder; refuses names that could not be namespaces, cgroups or folders.
pub(crate) fn cluster(name: &str) -> Result<PathBuf> {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    ensure!(
        (1..=16).contains(&name.len())
            && name.chars().all(fine)
            && !name.starts_with('-')
            && !name.ends_with('-')
            && !name.contains("-node"),
        "a cluster's name is 1 to 16 lower-case letters, digits and dashes (and not \"-node\"), not {name:?}"
    );
    let folder = clusters().join(name);
    ensure!(
        folder.as_os_str().len() <= LONGEST_FOLDER,
        "{} is too long for the sockets inside it (at most {LONGEST_FOLDER} bytes): set POLLUX_CACHE to a shorter path",
        folder.display()
    );
    Ok(folder)
}

/// The folder of all clusters.
pub(crate) fn clusters() -> PathBuf {
    cache().join("clusters")
}

/// Writes a file, its folder too.
pub(crate) fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Under sudo: gives files to the user who typed it.
pub(crate) fn hand_over(paths: &[&Path]) -> Result<()> {
    let Some(user) = sudo_user() else { return Ok(()) };
    chown(&user, "-h", paths)
}

/// Under sudo with the user's own home: gives back whole folders in it, so that no file of root's is left there. What lies
/// elsewhere (root's own home) stays root's.
pub(crate) fn hand_back_home(folders: &[&Path]) -> Result<()> {
    let Some(user) = sudo_user() else { return Ok(()) };
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let Some(home) = home_of(&passwd, user.0) else { return Ok(()) };
    let inside: Vec<_> = folders.iter().copied().filter(|folder| folder.starts_with(&home)).collect();
    let above = inside
        .iter()
        .flat_map(|folder| folder.ancestors().skip(1))
        .filter(|folder| folder.starts_with(&home) && *folder != home);
    chown(&user, "-h", &above.collect::<Vec<_>>())?;
    chown(&user, "-Rh", &inside)
}

fn sudo_user() -> Option<(u32, u32)> {
    let id = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    let user = id("SUDO_UID")?;
    Some((user, id("SUDO_GID").unwrap_or(user)))
}

/// Only what is root's, in case something of another user's lies there.
fn chown((user, group): &(u32, u32), how: &str, paths: &[&Path]) -> Result<()> {
    for path in paths.iter().filter(|path| path.exists()) {
        let words = ["chown", how, "--from=0:0", &format!("{user}:{group}")];
        crate::process::run(crate::process::command(words).arg(path))?;
    }
    Ok(())
}

fn home_of(passwd: &str, user: u32) -> Option<PathBuf> {
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut homes = fields.filter(|fields| fields.get(2).and_then(|id| id.parse().ok()) == Some(user));
    homes.find_map(|fields| fields.get(5).map(PathBuf::from)).filter(|home| home.components().count() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_given_back_only_within_the_home_of_who_typed_sudo() {
        let passwd =
            "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n";
        assert_eq!(home_of(passwd, 1000), Some(PathBuf::from("/home/ann")));
        assert_eq!(home_of(passwd, 1001), None);
        assert_eq!(home_of(passwd, 65534), None, "a home that is everything");
    }

    #[test]
    fn names_that_could_hit_something_else_are_refused() {
        for bad in ["", "..", "a/b", "-a", "a-node-1", "UPPER", "much-too-long-a-name"] {
            assert!(cluster(bad).is_err(), "{bad}");
        }
    }
}
