//! The server's wall clock, shifted while it runs, and nobody else's: libfaketime is loaded into postgres alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use super::Server;

/// What the clock shows may be this far from what it should when the machine is busy.
const TOLERANCE_SECONDS: i64 = 60;

impl Server {
    /// Whether this machine can shift a server's wall clock.
    ///
    /// # Errors
    /// Names the package that is missing.
    pub fn can_be_shifted() -> Result<()> {
        library().map(drop)
    }

    /// The server's wall clock is this much ahead of the machine's from now on (behind it, if negative). Its monotonic clock,
    /// which its own waiting is measured with, is not touched. It is asked for the time before this returns.
    ///
    /// # Errors
    /// If it was not started with [`super::Options::shiftable`], or does not show the time that it should.
    pub fn shift_wall_clock(&self, hours: i32) -> Result<()> {
        ensure!(self.shiftable, "this server's clock cannot be shifted: it was started without libfaketime");
        // Renamed into place: the server reads it at every look at the clock.
        let (file, new) = (offset_file(self.dir.path()), self.dir.path().join("offset.new"));
        fs::write(&new, format!("{:+}\n", i64::from(hours) * 3600))?;
        fs::rename(&new, &file)?;
        let shown: i64 = self.ask("postgres", "SELECT extract(epoch FROM clock_timestamp())::bigint")?.parse()?;
        let right = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
        let off = shown - right - i64::from(hours) * 3600;
        ensure!(
            off.abs() < TOLERANCE_SECONDS,
            "the server's clock should be {hours} h off and is {} s off",
            shown - right
        );
        Ok(())
    }
}

/// What postgres is started with so that its clock can be shifted.
pub(super) fn environment(dir: &Path) -> Result<Vec<String>> {
    let file = offset_file(dir);
    if !file.exists() {
        fs::write(&file, "+0\n")?;
    }
    Ok(vec![
        format!("LD_PRELOAD={}", library()?.display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", file.display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        // It would leave shared memory behind at each kill -9.
        "FAKETIME_DISABLE_SHM=1".to_owned(),
    ])
}

pub(super) fn library() -> Result<PathBuf> {
    let folders = fs::read_dir("/usr/lib")?.flatten().map(|entry| entry.path().join("faketime/libfaketime.so.1"));
    folders.into_iter().find(|path| path.exists()).context("libfaketime is not installed: apt-get install faketime")
}

fn offset_file(dir: &Path) -> PathBuf {
    dir.join("offset")
}
