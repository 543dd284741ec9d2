//! The server.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Signal, geteuid};
use tempfile::TempDir;

use crate::processes::{cpu_time, family, signal};

mod copies;
mod wall_clock;

pub use copies::Snapshot;

/// How long a start or a stop may take on a machine that builds at the same time.
const PATIENCE: Duration = Duration::from_secs(60);

const PREFIX: &str = "pollux-postgres-";

/// How the server is to be.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Lines for postgresql.conf.
    pub settings: Vec<(String, String)>,
    /// Serve TLS with this certificate.
    pub tls: Option<Tls>,
    /// Its wall clock can be shifted ([`Server::shift_wall_clock`]): it runs under libfaketime.
    pub shiftable: bool,
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The certificate.
    pub cert: String,
    /// The key.
    pub key: String,
}

/// Ways to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Ends sessions, writes a checkpoint.
    Fast,
    /// Ends at once; the next start recovers, as after a crash.
    Immediate,
}

/// A running server. It is stopped and its data are removed when this is dropped.
#[derive(Debug)]
pub struct Server {
    dir: TempDir,
    bin: PathBuf,
    port: u16,
    owner: Option<Owner>,
    shiftable: bool,
    running: Mutex<Option<Running>>,
    /// Locked while this process lives.
    _lock: fs::File,
}

/// The system user that it runs as.
#[derive(Clone, Copy, Debug)]
struct Owner {
    uid: u32,
    gid: u32,
}

#[derive(Debug)]
struct Running {
    pid: i32,
    ended: Receiver<std::io::Result<ExitStatus>>,
}

// === impl Server ===

impl Server {
    /// Makes a database cluster and starts it.
    ///
    /// # Errors
    /// If PostgreSQL is not installed, or does not start.
    pub fn start(options: &Options) -> Result<Self> {
        remove_leftovers();
        let mut server = Self::prepare(options.shiftable)?;
        server.initialise(options)?;
        server.start_on_a_free_port()?;
        Ok(server)
    }

    /// One that has no data yet.
    fn prepare(shiftable: bool) -> Result<Self> {
        let bin = find_binaries()?;
        let owner = owner()?;
        if shiftable {
            wall_clock::library()?;
        }
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
        let lock = fs::File::create(dir.path().join("lock"))?;
        lock.lock()?;
        if let Some(owner) = owner {
            chown(dir.path(), Some(owner.uid), Some(owner.gid))?;
        }
        Ok(Self { dir, bin, port: 0, owner, shiftable, running: Mutex::default(), _lock: lock })
    }

    fn start_on_a_free_port(&mut self) -> Result<()> {
        // The port is free when it is looked for; somebody else may take it before the server does.
        for attempt in 0.. {
            self.port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            match self.start_again() {
                Ok(()) => break,
                Err(e) if attempt == 2 => return Err(e),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Whether this module can be named in `shared_preload_libraries`: not every package of PostgreSQL has all of them.
    ///
    /// # Errors
    /// If PostgreSQL is not installed.
    pub fn has_module(name: &str) -> Result<bool> {
        Ok(find_binaries()?.with_file_name("lib").join(name).with_extension("so").exists())
    }

    /// The superuser's URI, for database `postgres`.
    pub fn uri(&self) -> String {
        self.uri_for("postgres", self.port)
    }

    /// The superuser's URI for a database, through another port (a [`crate::Proxy`]'s).
    pub fn uri_for(&self, database: &str, port: u16) -> String {
        format!("postgresql://postgres@127.0.0.1:{port}/{database}")
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The processor time that its processes have used since it was started; zero if it does not run.
    pub fn cpu_time(&self) -> Duration {
        self.pid().map_or(Duration::ZERO, cpu_time)
    }

    /// Makes a database and returns the superuser's URI for it.
    ///
    /// # Errors
    /// If there is one of this name, or the server does not answer.
    pub fn create_database(&self, name: &str) -> Result<String> {
        let mut command = Command::new(self.bin.join("createdb"));
        command.args(["-h", "127.0.0.1", "-U", "postgres", "-p"]).arg(self.port.to_string()).arg(name);
        run(command.env("PGCONNECT_TIMEOUT", "10")).with_context(|| format!("createdb {name}"))?;
        Ok(self.uri_for(name, self.port))
    }

    /// What the superuser gets for a statement: its rows, their fields separated by `|`.
    ///
    /// # Errors
    /// If the server does not answer or refuses.
    pub fn ask(&self, database: &str, sql: &str) -> Result<String> {
        self.ask_through(self.port, database, sql)
    }

    /// The same through another port (a [`crate::Proxy`]'s).
    ///
    /// # Errors
    /// If nobody answers there, or refuses.
    pub fn ask_through(&self, port: u16, database: &str, sql: &str) -> Result<String> {
        let mut command = Command::new(self.bin.join("psql"));
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres", "-p"]);
        command.arg(port.to_string()).args(["-d", database, "-c", sql]);
        let answer = run(command.env("PGCONNECT_TIMEOUT", "10")).with_context(|| sql.to_owned())?;
        Ok(answer.trim_end().to_owned())
    }

    /// Changes a setting for all sessions, from their next statement on and for later starts. `value` is written as SHOW
    /// prints it.
    ///
    /// # Errors
    /// If the server does not answer, does not know it, or wants a restart for it.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        self.ask("postgres", &format!("ALTER SYSTEM SET {name} = '{}'", value.replace('\'', "''")))?;
        self.ask("postgres", "SELECT pg_reload_conf()")?;
        // A server that gives the new value to a new session has told all others of it.
        let show = format!("SHOW {name}");
        wait_until(&format!("{name} becomes {value}"), || self.ask("postgres", &show).is_ok_and(|shown| shown == value))
    }

    /// Stops it; nothing happens if it does not run.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(&self, how: Stop) -> Result<()> {
        self.end(match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        })
    }

    /// kill -9 of all its processes.
    ///
    /// # Errors
    /// If one of them does not die.
    pub fn kill(&self) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let members = family(pid);
        for pid in &members {
            signal(*pid, Signal::KILL);
        }
        self.end(Signal::KILL)?;
        wait_until("the server's processes die", || {
            members.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists() || zombie(*pid))
        })
    }

    /// Freezes all its processes: connections stay open and nothing answers.
    pub fn freeze(&self) {
        if let Some(pid) = self.pid() {
            // The postmaster first: it makes no new ones then.
            signal(pid, Signal::STOP);
            family(pid).into_iter().for_each(|pid| signal(pid, Signal::STOP));
        }
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        if let Some(pid) = self.pid() {
            family(pid).into_iter().rev().for_each(|pid| signal(pid, Signal::CONT));
        }
    }

    /// Freezes the process that writes the log for those who do not wait for it: what is committed without being waited for
    /// stays in memory until the next start, and a kill loses it.
    ///
    /// # Errors
    /// If the server does not answer.
    pub fn freeze_log_writer(&self) -> Result<()> {
        let pid = self.ask("postgres", "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'")?;
        signal(pid.parse().context("there is no walwriter")?, Signal::STOP);
        Ok(())
    }

    /// Starts it again after a stop or a kill, on the same port and data, and waits until it accepts connections.
    ///
    /// # Errors
    /// If it does not start; what it logged is in the message.
    pub fn start_again(&self) -> Result<()> {
        ensure!(self.pid().is_none(), "it runs already");
        let log = fs::File::create(self.dir.path().join("log"))?;
        // Should this process be killed, the kernel tells the server.
        let mut command = if self.shiftable {
            let mut env = self.command("env", true);
            env.args(wall_clock::environment(self.dir.path())?).arg(self.bin.join("postgres"));
            env
        } else {
            self.command(self.bin.join("postgres"), true)
        };
        command.arg("-D").arg(self.data()).arg("-p").arg(self.port.to_string());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let (started, is_started) = channel();
        let (ended, is_ended) = channel();
        // The kernel's signal is for the death of the thread that started it: one that lives as long as the server.
        thread::Builder::new().name("postgres".into()).spawn(move || match command.spawn() {
            Ok(mut child) => {
                let _ = started.send(Ok(child.id()));
                let _ = ended.send(child.wait());
            }
            Err(e) => drop(started.send(Err(e))),
        })?;
        let pid = is_started.recv()?.context("starting postgres")?;
        *self.running() = Some(Running { pid: i32::try_from(pid)?, ended: is_ended });
        self.await_ready()
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pid(&self) -> Option<i32> {
        self.running().as_ref().map(|running| running.pid)
    }

    fn await_ready(&self) -> Result<()> {
        let status = self.data().join("postmaster.pid");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut running = self.running();
            let Some(started) = &*running else { bail!("it was stopped") };
            if started.ends_within(Duration::from_millis(10)) {
                *running = None;
                bail!("postgres ended:\n{}", self.log());
            }
            // The eighth line says so, for the process of the first line.
            let text = fs::read_to_string(&status).unwrap_or_default();
            let mut lines = text.lines();
            let mine = lines.next() == Some(started.pid.to_string().as_str());
            if mine && lines.nth(6).map(str::trim) == Some("ready") {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("postgres is not ready after {PATIENCE:?}:\n{}", self.log());
            }
        }
    }

    fn initialise(&self, options: &Options) -> Result<()> {
        let mut initdb = self.command(self.bin.join("initdb"), false);
        initdb.arg("-D").arg(self.data()).args([
            "-A",
            "trust",
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ]);
        run(&mut initdb).context("initdb")?;
        let mut conf = fs::read_to_string(self.data().join("postgresql.conf"))?;
        let mut set = |name: &str, value: &str| conf.push_str(&format!("\n{name} = '{}'", value.replace('\'', "''")));
        set("listen_addresses", "127.0.0.1");
        set("unix_socket_directories", "");
        set("max_connections", "200");
        set("shared_buffers", "32MB");
        if let Some(tls) = &options.tls {
            self.write("server.crt", &tls.cert)?;
            self.write("server.key", &tls.key)?;
            set("ssl", "on");
        }
        for (name, value) in &options.settings {
            set(name, value);
        }
        self.write("postgresql.conf", &conf)?;
        self.write(
            "pg_hba.conf",
            "host all,replication postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n",
        )
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.data().join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        if let Some(owner) = self.owner {
            chown(&path, Some(owner.uid), Some(owner.gid))?;
        }
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log(&self) -> String {
        let mut text = String::new();
        let _ = fs::File::open(self.dir.path().join("log")).and_then(|mut file| file.read_to_string(&mut text));
        text
    }

    fn command(&self, program: impl AsRef<OsStr>, dies_with_us: bool) -> Command {
        let mut command = Command::new("setpriv");
        if let Some(owner) = self.owner {
            command.arg(format!("--reuid={}", owner.uid)).arg(format!("--regid={}", owner.gid)).arg("--clear-groups");
        }
        if dies_with_us {
            command.args(["--pdeathsig", "QUIT"]);
        }
        command.arg(program).env("LC_ALL", "C").current_dir("/");
        command
    }

    fn end(&self, with: Signal) -> Result<()> {
        let Some(running) = self.running().take() else { return Ok(()) };
        signal(running.pid, with);
        if with != Signal::KILL {
            // A frozen server hears it when it goes on.
            family(running.pid).into_iter().for_each(|pid| signal(pid, Signal::CONT));
        }
        if !running.ends_within(PATIENCE) {
            family(running.pid).into_iter().for_each(|pid| signal(pid, Signal::KILL));
            bail!("postgres did not end within {PATIENCE:?}");
        }
        Ok(())
    }
}

// === impl Running ===

impl Running {
    fn ends_within(&self, patience: Duration) -> bool {
        !matches!(self.ended.recv_timeout(patience), Err(RecvTimeoutError::Timeout))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.end(Signal::QUIT);
    }
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// A test that is killed, or that keeps its server in a static, removes nothing. Its lock is free then.
fn remove_leftovers() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let free = fs::File::open(entry.path().join("lock")).is_ok_and(|lock| lock.try_lock().is_ok());
        // The server itself may need a moment longer to hear of the death than the lock.
        let pid = fs::read_to_string(entry.path().join("data/postmaster.pid")).unwrap_or_default();
        let runs = pid.lines().next().is_some_and(|pid| Path::new("/proc").join(pid).exists());
        if free && !runs {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The newest installed version.
fn find_binaries() -> Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for entry in fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten() {
        let bin = entry.path().join("bin");
        let version = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(version) = version.filter(|_| bin.join("postgres").exists()) {
            found.push((version, bin));
        }
    }
    found.sort();
    let (_, bin) = found.pop().context("PostgreSQL is not installed: apt-get install postgresql")?;
    Ok(bin)
}

/// Whom to be instead of root.
fn owner() -> Result<Option<Owner>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    for name in ["postgres", "nobody"] {
        let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == name);
        if let Some([_, _, uid, gid, ..]) = fields.as_deref() {
            return Ok(Some(Owner { uid: uid.parse()?, gid: gid.parse()? }));
        }
    }
    bail!("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")
}

fn zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}

fn wait_until(what: &str, condition: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        ensure!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
