//! The supervisor's end of the connection to the agent. It is lost when the agent dies and comes back with the next one; the
//! program goes on meanwhile, until its fence.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::sleep;

use crate::hook::SOCKET;
use crate::program::protocol::{Order, REQUEST, Report};

use super::say;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

pub(super) enum News {
    Connected,
    Order(Order),
    /// The connection was lost, or could not be made.
    Nothing,
}

pub(super) struct Connection {
    socket: PathBuf,
    open: Option<(Lines<BufReader<OwnedReadHalf>>, OwnedWriteHalf)>,
    pause: Duration,
    complained: Option<String>,
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(shared_dir: &Path) -> Self {
        Self { socket: shared_dir.join(SOCKET), open: None, pause: Duration::ZERO, complained: None }
    }

    /// What comes next; may be dropped and called again.
    pub(super) async fn news(&mut self) -> News {
        let Some((lines, _)) = &mut self.open else {
            sleep(self.pause).await;
            self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            return self.open().await;
        };
        let line = match lines.next_line().await {
            Ok(Some(line)) => line,
            Ok(None) => return self.lost("the agent is gone; the program goes on until the lease ends"),
            Err(e) => return self.lost(&e.to_string()),
        };
        match serde_json::from_str(&line) {
            Ok(order) => {
                self.pause = Duration::ZERO;
                self.complained = None;
                News::Order(order)
            }
            // What an agent that wants no supervisor says is meant for people.
            Err(_) => self.lost(&line),
        }
    }

    /// Whether it was said. Nobody waits for an agent that does not read.
    pub(super) fn tell(&mut self, report: &Report) -> bool {
        let (Some((_, write)), Ok(mut line)) = (&self.open, serde_json::to_vec(report)) else {
            return false;
        };
        line.push(b'\n');
        let said = write.try_write(&line).is_ok_and(|written| written == line.len());
        if !said {
            self.open = None;
        }
        said
    }

    async fn open(&mut self) -> News {
        match self.connect().await {
            Ok(open) => {
                self.open = Some(open);
                News::Connected
            }
            Err(e) => self.lost(&format!("no agent at {}: {e}", self.socket.display())),
        }
    }

    async fn connect(&self) -> io::Result<(Lines<BufReader<OwnedReadHalf>>, OwnedWriteHalf)> {
        let (read, write) = UnixStream::connect(&self.socket).await?.into_split();
        write.writable().await?;
        let request = format!("{REQUEST}\n");
        if write.try_write(request.as_bytes())? != request.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok((BufReader::new(read).lines(), write))
    }

    fn lost(&mut self, why: &str) -> News {
        self.open = None;
        if self.complained.as_deref() != Some(why) {
            say(why);
            self.complained = Some(why.to_owned());
        }
        News::Nothing
    }
}
