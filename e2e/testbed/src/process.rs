//! Running other programs: short ones, whose failure is told with what they said, and daemons of a cluster.
//!
//! Every daemon has [`MARKER`]`=<folder of its cluster>` in its environment. That is how `down` finds all of a cluster,
//! children included, whatever became of pid files: a reused pid, or another cluster with the same programs, is safe.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// The variable that marks the processes of a cluster.
pub(crate) const MARKER: &str = "POLLUX_TESTBED";

/// Asks a start or a build that is under way to give up: it cleans up behind itself.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Gives up at the next occasion (within a moment).
    pub fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }
}

/// A command from words; the first is the program.
pub(crate) fn command<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> Command {
    let mut words = words.into_iter();
    let mut command = Command::new(words.next().expect("a program's name").as_ref());
    for word in words {
        command.arg(word.as_ref());
    }
    command
}

/// Runs a command line given as one string, split at spaces.
pub(crate) fn sh_words(line: &str) -> Result<String> {
    run(&mut command(line.split_whitespace()))
}

/// Runs to the end and returns what it printed; an error holds the command and what it said.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {shown}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let how = match output.status.signal() {
            Some(signal) => format!("signal {signal}"),
            None => format!("exit code {}", output.status.code().unwrap_or(-1)),
        };
        bail!("{shown}: {how}: {}", last_lines(&said, 20));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// The end of a text.
pub(crate) fn last_lines(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The end of a log file, for an error message.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    format!("the last lines of {}:\n{}", log.display(), last_lines(&text, 20))
}

/// Polls until `probe` says yes. An error of the probe ends the wait at once.
pub(crate) fn wait_for(
    what: &str,
    limit: Duration,
    stop: &Stop,
    mut probe: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let limit = limit * patience();
    let end = Instant::now() + limit;
    loop {
        if probe()? {
            return Ok(());
        }
        stop.check()?;
        if Instant::now() > end {
            bail!("gave up after {} s waiting for {what}", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// By how much longer than usual everything may take (`POLLUX_TESTBED_PATIENCE`): an emulated machine is slow.
pub(crate) fn patience() -> u32 {
    std::env::var("POLLUX_TESTBED_PATIENCE").ok().and_then(|value| value.parse().ok()).unwrap_or(1)
}

/// All pids of the machine.
pub(crate) fn all_pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Does this process live, and belong to the cluster in this folder?
pub(crate) fn is_marked(pid: i32, folder: &Path) -> bool {
    let wanted = format!("{MARKER}={}", folder.display());
    environment(pid).split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
}

/// Is this process a child of this program? Then it is what was started, whatever it has become by now: its variables tell nothing
/// for a moment while it executes one program after the other.
pub(crate) fn is_child(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
    parent == Some(std::process::id())
}

/// All processes of the cluster in this folder; without one, of any cluster.
pub(crate) fn all_marked(folder: Option<&Path>) -> Vec<i32> {
    let wanted = folder.map(|folder| format!("{MARKER}={}", folder.display()).into_bytes());
    let any = format!("{MARKER}=").into_bytes();
    let ours = |environment: &[u8]| {
        environment.split(|byte| *byte == 0).any(|variable| match &wanted {
            Some(wanted) => variable == wanted,
            None => variable.starts_with(&any),
        })
    };
    let own = std::process::id().cast_signed();
    let mut unclear: Vec<i32> = all_pids().into_iter().filter(|pid| *pid != own).collect();
    let mut found = Vec::new();
    // One pause for all that are unclear, not one for each: a busy machine has many.
    for _ in 0..LOOKS {
        unclear.retain(|&pid| match look(pid) {
            Some(environment) => {
                if ours(&environment) {
                    found.push(pid);
                }
                false
            }
            None => true,
        });
        if unclear.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    found
}

/// An exec reads the new program from the disk before the process has an environment, and a disk that is busy with images
/// takes its time. Nothing else is unclear, so nobody waits this long in vain.
const LOOKS: u32 = 5_000;

/// A process's environment. In the middle of an exec it has none for a moment: one that has a program is clear when it has an
/// environment, or surely an empty one. (What belongs to the kernel, and what is dead, has no program.)
fn look(pid: i32) -> Option<Vec<u8>> {
    let found = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let clear = !found.is_empty() || fs::read_link(format!("/proc/{pid}/exe")).is_err() || has_empty_environment(pid);
    clear.then_some(found)
}

/// By proc_pid_stat(5): `env_start` and `env_end`, the 50th and 51st field, are both 0 in the middle of an exec. While the new
/// program's variables are counted they are the same, too; `endcode`, the 27th, is set after that. (Without it, 4 of a
/// million looks took a daemon that was starting for one that has no environment, and so for a dead one.)
fn has_empty_environment(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The first field after the name is the third one.
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    let set = |number: usize| fields.get(number - 3).filter(|field| **field != "0");
    set(27).is_some() && set(50).is_some() && set(50) == set(51)
}

fn environment(pid: i32) -> Vec<u8> {
    for _ in 0..LOOKS * patience() {
        if let Some(found) = look(pid) {
            return found;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Vec::new()
}

/// Sends a signal; false when there is no such process any more.
pub(crate) fn signal(pid: i32, signal: Signal) -> bool {
    pid > 1 && Pid::from_raw(pid).is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// A process's short name.
pub(crate) fn name(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// The state letter of `/proc/PID/stat` (`T` stopped, `Z` dead); none when it is gone.
pub(crate) fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_any_variable_is_clear_at_once() {
        let mut child = Command::new("sleep").arg("60").env_clear().spawn().unwrap();
        let pid = child.id().cast_signed();
        // From the fork until its exec the child has our own environment.
        while name(pid) != "sleep" {
            std::thread::yield_now();
        }
        let began = Instant::now();
        assert_eq!(environment(pid), Vec::<u8>::new());
        assert!(began.elapsed() < Duration::from_secs(1), "it was waited for");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_child_is_known_by_its_parent() {
        let mut child = Command::new("sleep").arg("60").env_clear().spawn().unwrap();
        assert!(is_child(child.id().cast_signed()));
        assert!(!is_child(std::process::id().cast_signed()) && !is_child(1));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_child(child.id().cast_signed()));
    }

    /// One look falls into an exec now and then, and took a living daemon for a dead one.
    #[test]
    fn a_process_in_the_middle_of_an_exec_is_still_ours() {
        let folder = Path::new("/nowhere/exec");
        let again = "n=$1; [ $n = 0 ] && exec sleep 60; exec sh -c \"$0\" \"$0\" $((n - 1))";
        let mut child =
            Command::new("sh").args(["-c", again, again, "300"]).env_clear().env(MARKER, folder).spawn().unwrap();
        let pid = child.id().cast_signed();
        let missed = (0..20_000).filter(|_| !is_marked(pid, folder)).count();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(missed, 0);
    }
}
