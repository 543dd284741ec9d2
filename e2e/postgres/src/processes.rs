//! A process and everything that descends from it: signals, and the time that they used.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// `root` and its descendants, `root` first.
pub(crate) fn family(root: i32) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // The command's name, in parentheses, may hold anything; the parent is the second field after it.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        found.extend(children.get(&found[next]).into_iter().flatten());
        next += 1;
    }
    found
}

/// The processor time that `root` and its descendants have used so far, those that they have waited for included.
pub fn cpu_time(root: i32) -> Duration {
    // proc_pid_stat(5): utime, stime, cutime and cstime are the 12th to 15th field after the name, in hundredths of a second
    // (USER_HZ) on every architecture that this is built for.
    let ticks = |pid: &i32| -> u64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        rest.split_whitespace().skip(11).take(4).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
    };
    Duration::from_millis(family(root).iter().map(ticks).sum::<u64>() * 10)
}

/// Sends a signal; that the process is gone already is not an error.
pub(crate) fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_time_of_a_child_that_has_ended_is_not_forgotten() {
        // Its child spins and ends, and is waited for; then it waits for its input without using any time.
        let mut shell = Command::new("sh")
            .args(["-c", "sh -c 'n=0; while [ $n -lt 200000 ]; do n=$((n+1)); done'; read line"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(shell.id()).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        let (mut most, mut spun, mut ended) = (Duration::ZERO, false, false);
        while !ended && std::time::Instant::now() < deadline {
            let has_child = family(pid).len() > 1;
            most = most.max(cpu_time(pid));
            ended = spun && !has_child;
            spun |= has_child && most > Duration::ZERO;
        }
        let after = cpu_time(pid);
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert!(ended, "the child did not spin to its end");
        assert!(after >= most && after > Duration::ZERO, "{after:?} after, {most:?} before");
    }
}
