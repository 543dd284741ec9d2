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

/// Under sudo: hands files to the user who typed it, so that no file of root's is left in a home.
pub(crate) fn hand_back(paths: &[&Path]) -> Result<()> {
    let id = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    let Some(user) = id("SUDO_UID") else { return Ok(()) };
    let group = id("SUDO_GID").unwrap_or(user);
    for path in paths.iter().filter(|path| path.exists()) {
        crate::process::run(
            crate::process::command(["chown", "-Rh", "--from=0:0", &format!("{user}:{group}")]).arg(path),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::cluster;

    #[test]
    fn names_that_could_hit_something_else_are_refused() {
        for bad in ["", "..", "a/b", "-a", "a-node-1", "UPPER", "much-too-long-a-name"] {
            assert!(cluster(bad).is_err(), "{bad}");
        }
    }
}
