//! `pollux-agent drain`: what the kubelet execs in the bot's container before it stops the bot.
//!
//! It must run in any image: no shell, no library, no variable of its own, any user id. And it must never stand in the way of
//! a pod's end: an agent that is gone has nothing to hand over, so there is nothing to wait for.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::{Accepted, Finished, Report, SOCKET};
use crate::cli::DrainOptions;

/// An agent that runs answers its socket at once. One that is stopped or wedged does not, and is not waited for longer.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// Added to what the agent says it may take.
const SLACK: Duration = Duration::from_secs(2);

/// How a call ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The agent says that it is over.
    Drained(String),
    /// No agent, or none any more.
    AgentGone(String),
    /// An agent that does not answer.
    Silent(String),
}

/// Runs the subcommand.
pub fn main(options: &DrainOptions) -> ExitCode {
    let began = Instant::now();
    let (words, code) = match drain(&options.shared_dir) {
        Ended::Drained(summary) => (summary, ExitCode::SUCCESS),
        Ended::AgentGone(why) => (format!("the agent is gone, nothing to wait for: {why}"), ExitCode::SUCCESS),
        Ended::Silent(why) => {
            (format!("the agent does not answer, the bot is stopped without a handover: {why}"), ExitCode::FAILURE)
        }
    };
    // Standard output of a hook that succeeds is thrown away; of one that fails it is in the pod's events.
    eprintln!("pollux-agent drain: {words} ({} ms)", began.elapsed().as_millis());
    code
}

/// Asks the agent behind `shared_dir` to drain and waits for the end.
pub fn drain(shared_dir: &Path) -> Ended {
    let mut connection = match Connection::open(shared_dir, "drain") {
        Ok(connection) => connection,
        Err(e) => return ended_by(&e),
    };
    let accepted: Accepted = match connection.answer(FIRST_ANSWER) {
        Ok(accepted) => accepted,
        Err(e) => return ended_by(&e),
    };
    let longest = Duration::from_millis(accepted.at_most_milliseconds) + SLACK;
    match connection.answer::<Finished>(longest) {
        Ok(finished) => Ended::Drained(finished.summary),
        Err(e) => ended_by(&e),
    }
}

/// Asks the agent behind `shared_dir` how it is.
///
/// # Errors
/// If nobody answers.
pub fn status(shared_dir: &Path) -> io::Result<Report> {
    Connection::open(shared_dir, "status")?.answer(FIRST_ANSWER)
}

/// Whoever does not answer in time is silent; whoever cannot be reached, or went away in the middle, is gone.
fn ended_by(error: &io::Error) -> Ended {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ended::Silent("time is up".to_owned()),
        io::ErrorKind::PermissionDenied => Ended::Silent(error.to_string()),
        _ => Ended::AgentGone(error.to_string()),
    }
}

struct Connection {
    stream: BufReader<UnixStream>,
}

// === impl Connection ===

impl Connection {
    fn open(shared_dir: &Path, request: &str) -> io::Result<Self> {
        let mut stream = UnixStream::connect(shared_dir.join(SOCKET))?;
        stream.set_write_timeout(Some(FIRST_ANSWER))?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// The next line. Its beginning must come within `patience`; an agent writes a line at once.
    fn answer<T: DeserializeOwned>(&mut self, patience: Duration) -> io::Result<T> {
        self.stream.get_ref().set_read_timeout(Some(patience))?;
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended before it answered"));
        }
        Ok(serde_json::from_str(&line)?)
    }
}
