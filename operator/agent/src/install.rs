//! Puts the agent's own binary where the bot's container can exec it.
//!
//! The preStop hook runs in the bot's image, which may hold nothing but the bot. The agent's binary is static, so a copy in
//! the shared directory runs anywhere. It is written under another name and renamed: whoever execs the name finds a whole
//! file, even while an agent that was restarted writes a new one.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Name of the copy in the shared directory.
pub const BINARY: &str = "pollux-agent";

/// Copies this process's executable into `shared_dir`, executable for every user, writable for none.
///
/// # Errors
/// What the system said: the directory is full, read-only, or not ours.
pub fn install(shared_dir: &Path) -> io::Result<PathBuf> {
    let copy = shared_dir.join(BINARY);
    let draft = shared_dir.join(format!(".{BINARY}.{}", std::process::id()));
    let installed = (|| {
        let mut from = File::open("/proc/self/exe")?;
        let mut to = File::create(&draft)?;
        io::copy(&mut from, &mut to)?;
        // A file that is open for writing cannot be executed.
        drop(to);
        std::fs::set_permissions(&draft, Permissions::from_mode(0o555))?;
        std::fs::rename(&draft, &copy)
    })();
    if installed.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    installed.map(|()| copy)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_copy_is_whole_and_executable_by_everybody() {
        let dir = tempfile::tempdir().unwrap();
        let copy = install(dir.path()).unwrap();
        let meta = std::fs::metadata(&copy).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o555);
        assert_eq!(meta.len(), std::fs::metadata("/proc/self/exe").unwrap().len());
        // The test binary is what was copied; it can list its tests from there.
        assert!(Command::new(&copy).arg("--list").output().unwrap().status.success());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left behind");
    }

    #[test]
    fn a_restarted_agent_replaces_a_copy_that_is_being_executed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy("/bin/sleep", dir.path().join(BINARY)).unwrap();
        let mut running = Command::new(dir.path().join(BINARY)).arg("600").spawn().unwrap();
        let installed = install(dir.path());
        running.kill().unwrap();
        running.wait().unwrap();
        installed.unwrap();
    }
}
