//! The program's processes: started, signalled, killed to the last one, and reaped.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use pollux_clock::BootInstant;
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, set_child_subreaper, wait};

use crate::program::LOCK;
use crate::program::protocol::{Exit, nanoseconds};

use super::core::Input;

pub(super) enum Start {
    Started(i32),
    /// A former program of this pod still has the lock.
    Busy,
    Failed(String),
}

pub(super) struct Children {
    lock_file: PathBuf,
    command: Vec<String>,
    /// The program's first process, which leads its group, until it is reaped.
    program: Option<Pid>,
    /// Kept as long as any process of the program is left, and inherited by all of them.
    lock: Option<File>,
}

// === impl Children ===

impl Children {
    pub(super) fn new(shared_dir: &Path, command: &[String]) -> io::Result<Self> {
        // As the first process of a container it is what orphans come to anyway.
        set_child_subreaper(Some(getpid()))?;
        Ok(Self { lock_file: shared_dir.join(LOCK), command: command.to_vec(), program: None, lock: None })
    }

    pub(super) fn start(&mut self, fence: BootInstant) -> Start {
        let lock = match File::open(&self.lock_file) {
            Ok(lock) => lock,
            Err(e) => return Start::Failed(format!("{}: {e}", self.lock_file.display())),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Start::Busy,
            Err(std::fs::TryLockError::Error(e)) => return Start::Failed(format!("{}: {e}", self.lock_file.display())),
        }
        let spawned = fcntl_setfd(&lock, FdFlags::empty()).map_err(io::Error::from).and_then(|()| {
            let mut command = Command::new("/proc/self/exe");
            command.arg("execute");
            command.arg(format!("--parent={}", getpid().as_raw_nonzero()));
            command.arg(format!("--until={}", nanoseconds(fence)));
            command.arg("--").args(&self.command).spawn()
        });
        match spawned {
            // It is reaped by its number: orphans have to be, too.
            Ok(child) => match Pid::from_raw(child.id().cast_signed()) {
                Some(pid) => {
                    (self.program, self.lock) = (Some(pid), Some(lock));
                    Start::Started(pid.as_raw_nonzero().get())
                }
                None => Start::Failed("its process has no number".to_owned()),
            },
            Err(e) => Start::Failed(e.to_string()),
        }
    }

    /// To the program's first process.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.program {
            let _ = kill_process(pid, signal);
        }
    }

    /// To all that have not left the program's group. A process that has not become a group's leader yet gets it alone.
    pub(super) fn signal_group(&self, signal: Signal) {
        if let Some(pid) = self.program
            && kill_process_group(pid, signal).is_err()
        {
            let _ = kill_process(pid, signal);
        }
    }

    /// SIGKILL to whatever is a child now. Theirs come to this process and are found the next time.
    pub(super) fn kill(&self) {
        self.signal_group(Signal::KILL);
        for child in children_of(getpid()) {
            let _ = kill_process(child, Signal::KILL);
        }
    }

    /// Buries the dead.
    pub(super) fn reap(&mut self) -> Vec<Input> {
        let mut inputs = Vec::new();
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if Some(pid) == self.program => {
                    self.program = None;
                    let signal = status.terminating_signal().map(Exit::Signal);
                    let exit = signal.or(status.exit_status().map(Exit::Code)).unwrap_or(Exit::Code(1));
                    inputs.push(Input::Ended(exit));
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return inputs,
                Err(_) => {
                    // No child is left.
                    if self.lock.take().is_some() {
                        inputs.push(Input::Swept);
                    }
                    return inputs;
                }
            }
        }
    }
}

/// Processes that were exec'd into the container from outside (the hook, `kubectl exec`) are nobody's children here.
fn children_of(parent: Pid) -> Vec<Pid> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let numbers = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers.filter_map(Pid::from_raw).filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name is in parentheses and may hold anything: `1 (a b) c) S 0 …`
    let after = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let fields = String::from_utf8_lossy(stat.get(after..)?).into_owned();
    Pid::from_raw(fields.split_whitespace().nth(1)?.parse().ok()?)
}
