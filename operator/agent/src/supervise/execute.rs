//! `pollux-agent execute`: what the program's process is before it becomes the program.
//!
//! A child of its own, because what is done here can be done only by the process itself: it gets a session of its own, and
//! the kernel's promise to be killed with the supervisor. Both outlast `execve`.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use pollux_clock::BootInstant;
use rustix::process::{Signal, getppid, set_parent_process_death_signal, setsid};

use crate::cli::ExecuteOptions;
use crate::program::protocol::instant;

use super::say;

/// As shells say it.
const CANNOT_EXECUTE: u8 = 126;
const NOT_FOUND: u8 = 127;
const NOT_STARTED: u8 = 1;

/// Becomes the program; returns only if it cannot.
pub fn main(options: &ExecuteOptions) -> ExitCode {
    let promised = setsid().and_then(|_| set_parent_process_death_signal(Some(Signal::KILL)));
    if let Err(e) = promised {
        say(&format!("the program is not started, because it could outlive its supervisor: {e}"));
        return ExitCode::from(NOT_STARTED);
    }
    // Before the promise it may have died.
    if getppid().map(|parent| parent.as_raw_nonzero().get()) != Some(options.parent) {
        return ExitCode::from(NOT_STARTED);
    }
    if BootInstant::now() >= instant(options.until) {
        say("the program is not started: the lease ended meanwhile");
        return ExitCode::from(NOT_STARTED);
    }
    let Some((program, arguments)) = options.command.split_first() else {
        return ExitCode::from(NOT_FOUND);
    };
    let error = Command::new(program).args(arguments).exec();
    say(&format!("{program}: {error}"));
    ExitCode::from(if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_EXECUTE })
}
