//! Copies of a server: a standby that can be promoted, and a snapshot that can be restored.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::{Server, run, wait_until};

/// A copy of the data at one moment; it lies beside them and goes away with the server.
#[derive(Debug)]
pub struct Snapshot {
    path: PathBuf,
}

impl Server {
    /// Starts another server that follows this one by asynchronous streaming, and returns when it accepts connections. It
    /// reaches this one through `port`: that of a [`crate::Proxy`] which hangs makes it lag by what it does not receive.
    ///
    /// # Errors
    /// If the copy fails or the standby does not start.
    pub fn standby(&self, port: u16) -> Result<Self> {
        let mut standby = Self::prepare(self.shiftable)?;
        standby.copy_from(port, &standby.data(), true)?;
        standby.start_on_a_free_port().context("the standby")?;
        Ok(standby)
    }

    /// Waits until this standby has carried out all that `primary` has written so far.
    ///
    /// # Errors
    /// If it does not within a minute.
    pub fn catch_up_with(&self, primary: &Self) -> Result<()> {
        let written = primary.ask("postgres", "SELECT pg_current_wal_lsn()")?;
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
        wait_until("the standby catches up", || self.ask("postgres", &replayed).is_ok_and(|answer| answer == "t"))
    }

    /// Makes this standby a primary, with what it has received.
    ///
    /// # Errors
    /// If it is none, or does not become one.
    pub fn promote(&self) -> Result<()> {
        let done = self.ask("postgres", "SELECT pg_promote(true, 60)")?;
        ensure!(done == "t", "the standby was not promoted within a minute");
        Ok(())
    }

    /// Copies the running server's data.
    ///
    /// # Errors
    /// If the copy fails.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let path = self.dir.path().join("snapshot");
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        self.copy_from(self.port, &path, false)?;
        Ok(Snapshot { path })
    }

    /// Puts a snapshot in the place of the data of this server, which must not run. [`Server::start_again`] starts it on the
    /// same port.
    ///
    /// # Errors
    /// If it runs, or the files cannot be moved.
    pub fn restore(&self, snapshot: Snapshot) -> Result<()> {
        ensure!(self.pid().is_none(), "it runs");
        fs::remove_dir_all(self.data())?;
        fs::rename(snapshot.path, self.data())?;
        Ok(())
    }

    fn copy_from(&self, port: u16, to: &Path, follow: bool) -> Result<()> {
        let mut command = self.command(self.bin.join("pg_basebackup"), false);
        command.args(["-h", "127.0.0.1", "-U", "postgres", "-p"]).arg(port.to_string()).arg("-D").arg(to);
        command.args(["--checkpoint=fast", "--wal-method=stream", "--no-sync", "--no-manifest"]);
        if follow {
            command.arg("--write-recovery-conf");
        }
        run(command.env("PGCONNECT_TIMEOUT", "10")).context("pg_basebackup").map(drop)
    }
}
