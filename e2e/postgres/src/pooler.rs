//! PgBouncer in transaction mode, in front of the server.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::processes::cpu_time;

/// The user `nobody`: PgBouncer does not run as root.
const NOBODY: u32 = 65534;

/// A running pooler; it ends with this value.
#[derive(Debug)]
pub struct Pooler {
    port: u16,
    child: Child,
    _dir: TempDir,
}

// === impl Pooler ===

impl Pooler {
    /// Starts one in front of the server on `port`, with at most `connections` to it, all of them as `role`, whose password is
    /// its name.
    ///
    /// # Errors
    /// If there is no `pgbouncer`, or it does not listen within 20 s.
    pub fn start(port: u16, role: &str, connections: usize) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let config = dir.path().join("pgbouncer.ini");
        let own = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let text = format!(
            "[databases]\n* = user={role} password={role} host=127.0.0.1 port={port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {own}\nauth_type = any\npool_mode = transaction\nunix_socket_dir =\n\
             max_client_conn = 1000\ndefault_pool_size = {connections}\n"
        );
        std::fs::write(&config, text)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(dir.path(), Some(NOBODY), None)?;
            command.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups"]);
        }
        command.args(["pgbouncer", "-q"]).arg(&config).env("PATH", path()).stderr(Stdio::null());
        let child = command.spawn().context("cannot start pgbouncer")?;
        let mut pooler = Self { port: own, child, _dir: dir };
        pooler.await_ready()?;
        Ok(pooler)
    }

    /// Where it listens.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The processor time that it has used so far.
    pub fn cpu_time(&self) -> Duration {
        cpu_time(self.child.id().cast_signed())
    }

    fn await_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.child.try_wait()?;
            ensure!(ended.is_none(), "pgbouncer has ended ({ended:?}); is the package pgbouncer installed?");
            ensure!(Instant::now() < deadline, "pgbouncer does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Debian puts it where only root looks.
fn path() -> String {
    format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default())
}
