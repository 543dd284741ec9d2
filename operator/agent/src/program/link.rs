//! The agent's end of the connection to a supervisor.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt};
use tracing::debug;

use super::Program;
use super::protocol::Report;

// === impl Program ===

impl Program {
    /// Serves a connection whose request has been read, until it ends.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn attend(&self, read: impl AsyncBufRead + Unpin, mut write: impl AsyncWrite + Unpin) -> io::Result<()> {
        let mut lines = read.lines();
        let Some(first) = lines.next_line().await? else {
            return Ok(());
        };
        if !self.connected(serde_json::from_str::<Report>(&first)?) {
            // The first one may have a program that runs.
            return write.write_all(b"another supervisor of this pod is connected\n").await;
        }
        let ended = self.converse(&mut lines, &mut write).await;
        self.disconnected();
        ended
    }

    async fn converse(
        &self,
        lines: &mut tokio::io::Lines<impl AsyncBufRead + Unpin>,
        write: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        let mut orders = self.inner.orders.subscribe();
        orders.mark_changed();
        loop {
            tokio::select! {
                line = lines.next_line() => match line? {
                    Some(line) => self.said(serde_json::from_str(&line)?),
                    None => return Ok(()),
                },
                _ = orders.changed() => {
                    let order = *orders.borrow_and_update();
                    if order.number > 0 {
                        debug!(?order, "told to the supervisor");
                        let mut line = serde_json::to_vec(&order)?;
                        line.push(b'\n');
                        write.write_all(&line).await?;
                    }
                }
            }
        }
    }
}
