//! The way into the agent for the kubelet's hooks: a unix socket in the directory that agent and bot share.
//!
//! One line goes in, JSON lines come out, the connection ends:
//!
//! | in | out |
//! | --- | --- |
//! | `drain` | at once [`Accepted`], with the longest it can take; when it is over [`Finished`] |
//! | `supervise` | the connection stays: see [`crate::program::protocol`] |
//! | `status` | [`Report`]: what `wait-ready` needs to know |
//!
//! The socket is there for any user id (mode 0777), because a bot's image chooses its own, and only for this pod, because
//! a directory of the pod is the only way to it: an HTTP hook could be called by every pod of the cluster. What a bot can do
//! with it is to drain itself.

pub mod client;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tracing::debug;

use crate::program::Program;
use crate::program::protocol::REQUEST;

/// Name of the socket in the shared directory.
pub const SOCKET: &str = "hook.sock";

/// A request is one word.
const LONGEST_REQUEST: u64 = 64;
/// For the log of a bot whose template does not fit its agent.
const NO_PROGRAM: &[u8] = b"this agent runs no program: its POLLUX_ADAPTER is not process\n";
/// Whoever connects says what it wants at once.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);

/// First answer to `drain`: it has begun (or goes on: several requests are one drain).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// The drain is over after this many milliseconds at the latest.
    pub at_most_milliseconds: u64,
}

/// Last answer to `drain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finished {
    /// What happened, for people.
    pub summary: String,
}

/// Answer to `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Version of the agent that answers.
    pub version: String,
    /// Where it listens for the bot.
    pub listen: SocketAddr,
    /// Why the bot must not start yet; nothing if it may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_yet: Option<String>,
}

/// What the socket's requests are answered with.
pub trait Answers: Clone + Send + Sync + 'static {
    /// Begins the drain, or joins it, and says how long it may take.
    fn begin_drain(&self) -> Duration;
    /// Waits for its end.
    fn drained(&self) -> impl Future<Output = String> + Send;
    /// What `wait-ready` needs to know.
    fn report(&self) -> Report;
    /// The program that a supervisor runs, if this bot is one.
    fn program(&self) -> Option<Program>;
}

/// The socket, bound.
#[derive(Debug)]
pub struct Hook {
    listener: UnixListener,
    path: PathBuf,
}

// === impl Hook ===

impl Hook {
    /// Binds the socket under a name of its own, opens it to everybody, and only then gives it the name that clients know: they
    /// find the old one, which refuses, or the new one, which answers.
    ///
    /// # Errors
    /// What the system said.
    pub fn bind(shared_dir: &Path) -> io::Result<Self> {
        let path = shared_dir.join(SOCKET);
        let draft = shared_dir.join(format!(".{SOCKET}.{}", std::process::id()));
        match std::fs::remove_file(&draft) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(&draft)?;
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o777))?;
        std::fs::rename(&draft, &path)?;
        Ok(Self { listener, path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Answers until it is dropped.
    pub async fn serve<A: Answers>(self, answers: A) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let answers = answers.clone();
                    tokio::spawn(async move {
                        if let Err(e) = answer(stream, &answers).await {
                            debug!(error = %e, "a hook's connection ended early");
                        }
                    });
                }
                // Out of file descriptors: the next one may find some.
                Err(e) => {
                    debug!(error = %e, "a hook's connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn answer<A: Answers>(stream: UnixStream, answers: &A) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut request = String::new();
    let mut lines = BufReader::new(read);
    timeout(REQUEST_PATIENCE, (&mut lines).take(LONGEST_REQUEST).read_line(&mut request)).await??;
    match request.trim() {
        "drain" => {
            let longest = answers.begin_drain();
            let at_most_milliseconds = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
            write.write_all(&line(&Accepted { at_most_milliseconds })?).await?;
            let summary = answers.drained().await;
            write.write_all(&line(&Finished { summary })?).await
        }
        REQUEST => match answers.program() {
            Some(program) => program.attend(lines, write).await,
            None => write.write_all(NO_PROGRAM).await,
        },
        "status" => write.write_all(&line(&answers.report())?).await,
        _ => write.write_all(b"{\"error\":\"say drain or status\"}\n").await,
    }
}

fn line(answer: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
#[path = "hook_test.rs"]
mod tests;
