//! `pollux-agent wait-ready`: the postStart hook of the agent's container.
//!
//! Kubernetes starts the bot as soon as the agent's process runs, unless a postStart hook holds it back. Bots of nine
//! libraries end themselves when their first call is refused, so the bot starts when the agent listens. The hook that will
//! hand over later is tried now, by executing the installed copy: on a node that mounts the kubelet's directory noexec it
//! would fail in silence at the end of every pod.

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::VERSION;
use crate::cli::WaitReadyOptions;
use crate::hook::client;
use crate::install::BINARY;

/// What a person must mend is not waited for as long as what the agent does by itself: the reason stands in the pod's status
/// only when this hook has failed.
const PATIENCE_WITH_PEOPLE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);
const CONNECT: Duration = Duration::from_secs(1);

/// Why a bot cannot start yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// It takes a moment.
    Soon(String),
    /// Somebody has to mend something.
    Waiting(String),
    /// It will not get better by waiting.
    Never(String),
}

/// Runs the subcommand.
pub fn main(options: &WaitReadyOptions) -> ExitCode {
    match wait(&options.shared_dir, Duration::from_secs(options.timeout_seconds.into())) {
        Ok(waited) => {
            println!("pollux-agent wait-ready: ready after {} ms", waited.as_millis());
            ExitCode::SUCCESS
        }
        Err(why) => {
            // The kubelet puts what a failed hook printed into the status of the container.
            eprintln!("pollux-agent wait-ready: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Waits until a bot can start.
///
/// # Errors
/// Why it cannot.
pub fn wait(shared_dir: &Path, limit: Duration) -> Result<Duration, String> {
    let began = Instant::now();
    loop {
        let waited = began.elapsed();
        match look(shared_dir) {
            Ok(()) => return Ok(waited),
            Err(NotReady::Never(why)) => return Err(why),
            Err(NotReady::Waiting(why)) if waited >= PATIENCE_WITH_PEOPLE.min(limit) => {
                return Err(why);
            }
            Err(NotReady::Soon(why)) if waited >= limit => {
                return Err(format!("not ready after {} s: {why}", limit.as_secs()));
            }
            Err(NotReady::Waiting(_) | NotReady::Soon(_)) => sleep(PAUSE),
        }
    }
}

/// Looks once.
///
/// # Errors
/// Why a bot cannot start.
pub fn look(shared_dir: &Path) -> Result<(), NotReady> {
    let soon = |what: &str, e: io::Error| NotReady::Soon(format!("{what}: {e}"));
    let report = client::status(shared_dir).map_err(|e| soon("the agent does not answer on its socket", e))?;
    TcpStream::connect_timeout(&report.listen, CONNECT)
        .map_err(|e| soon(&format!("the agent does not listen for the bot on {}", report.listen), e))?;
    executable(&shared_dir.join(BINARY))?;
    match report.not_yet {
        Some(why) => Err(NotReady::Waiting(why)),
        None => Ok(()),
    }
}

fn executable(copy: &Path) -> Result<(), NotReady> {
    let shown = copy.display();
    let output = match Command::new(copy).arg("version").stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            return Err(NotReady::Never(format!(
                "{shown} cannot be executed ({e}): the node mounts the kubelet's directory noexec, so a bot could never hand \
                 over before it stops; mount it exec, or keep bots off this node"
            )));
        }
        Err(e) => return Err(NotReady::Soon(format!("{shown} cannot be executed: {e}"))),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && said.trim() == format!("pollux-agent {VERSION}") {
        Ok(())
    } else {
        // The copy of the container's former life, until the new one is written.
        Err(NotReady::Soon(format!("{shown} is not this agent's copy: it said {:?}", said.trim())))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_copy_that_may_not_be_executed_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join(BINARY);
        std::fs::write(&copy, b"").unwrap();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o444)).unwrap();
        let Err(NotReady::Never(why)) = executable(&copy) else { panic!("accepted") };
        assert!(why.contains("noexec"), "{why}");
    }

    #[test]
    fn a_copy_of_another_version_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join(BINARY);
        std::fs::copy("/bin/echo", &copy).unwrap();
        assert!(matches!(executable(&copy), Err(NotReady::Soon(_))));
    }

    #[test]
    fn a_pod_without_an_agent_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let why = wait(dir.path(), Duration::from_millis(50)).unwrap_err();
        assert!(why.contains("does not answer on its socket"), "{why}");
    }
}
