//! The server and what can happen to it.

use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio_postgres::NoTls;

/// The password of the superuser; nothing but loopback reaches the server.
const PASSWORD: &str = "for-tests-only";
/// How long a start or a stop may take on a machine that compiles beside it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running PostgreSQL; it ends with this value.
#[derive(Debug)]
pub struct Postgres {
    folder: TempDir,
    bin: PathBuf,
    port: u16,
    /// Who runs it: PostgreSQL refuses to be root.
    user: Option<(u32, u32)>,
    child: Mutex<Option<Child>>,
    databases: AtomicU32,
}

// === impl Postgres ===

impl Postgres {
    /// Makes a new server and waits until it answers. Its settings are the defaults: fsync is on.
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("pollux-postgres").tempdir().expect("a temporary folder");
        let user = rustix::process::getuid().is_root().then(postgres_user);
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid), Some(gid)).expect("the folder belongs to the server's user");
        }
        let port = free_port();
        let server =
            Self { folder, bin: binaries(), port, user, child: Mutex::new(None), databases: AtomicU32::new(0) };
        server.init();
        server.start_again().await;
        server
    }

    /// URI of the superuser's database.
    pub fn uri(&self) -> String {
        self.uri_of("postgres")
    }

    /// Makes a database of its own for one test, and gives its URI. The name is only the beginning of the real one.
    pub async fn database(&self, name: &str) -> String {
        let name = format!("{name}_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.execute(&format!("create database {name}")).await;
        self.uri_of(&name)
    }

    /// The server's port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn uri_of(&self, database: &str) -> String {
        format!("postgresql://postgres:{PASSWORD}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// Runs statements as the superuser.
    pub async fn execute(&self, sql: &str) {
        let (client, connection) = tokio_postgres::connect(&self.uri(), NoTls).await.expect("the server answers");
        let connection = tokio::spawn(connection);
        client.batch_execute(sql).await.expect("the statements are right");
        drop(client);
        let _ = connection.await;
    }

    /// Ends it in an orderly way: sessions are cut, the data is on disk (`fast`).
    pub async fn stop(&self) {
        self.end(Signal::INT).await;
    }

    /// Ends it without a shutdown: the next start recovers from the log (`immediate`).
    pub async fn stop_immediately(&self) {
        self.end(Signal::QUIT).await;
    }

    /// kill -9 of all its processes.
    pub async fn kill(&self) {
        let pids = self.pids();
        for pid in pids {
            let _ = kill_process(pid, Signal::KILL);
        }
        self.end(Signal::KILL).await;
        let _ = std::fs::remove_file(self.data().join("postmaster.pid"));
    }

    /// Starts it on the same data and port, and waits until it answers.
    pub async fn start_again(&self) {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).expect("the log can be written");
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("postgres starts");
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        let end = Instant::now() + PATIENCE;
        while let Err(error) = tokio_postgres::connect(&self.uri(), NoTls).await {
            assert!(Instant::now() < end, "postgres does not answer: {error}\n{}", self.last_words());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops all its processes where they are (SIGSTOP); connections stay open.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets them go on (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        for pid in self.pids() {
            // A backend may have ended between the look and the signal.
            let _ = kill_process(pid, signal);
        }
    }

    /// The postmaster and its children.
    fn pids(&self) -> Vec<Pid> {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(child) = child.as_ref() else { return Vec::new() };
        let tasks = format!("/proc/{0}/task/{0}/children", child.id());
        let children = std::fs::read_to_string(tasks).unwrap_or_default();
        let all = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        i32::try_from(child.id()).into_iter().chain(all).filter_map(Pid::from_raw).collect()
    }

    async fn end(&self, signal: Signal) {
        let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
        let end = Instant::now() + PATIENCE;
        while child.try_wait().expect("a child can be waited for").is_none() {
            assert!(Instant::now() < end, "postgres does not end\n{}", self.last_words());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn init(&self) {
        let password = self.folder.path().join("password");
        std::fs::write(&password, PASSWORD).expect("the password file can be written");
        let output = self
            .command("initdb")
            .args([
                "--auth=scram-sha-256",
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C",
                "--no-instructions",
                "--pwfile",
            ])
            .arg(&password)
            .arg("-D")
            .arg(self.data())
            .output()
            .expect("initdb starts");
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        let settings = format!(
            "port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nshared_buffers = 16MB\nmax_connections = 200\n",
            self.port
        );
        let file = self.data().join("postgresql.auto.conf");
        std::fs::write(file, settings).expect("the settings can be written");
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(self.folder.path()).stdin(Stdio::null()).env("LC_ALL", "C");
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.resume();
        for pid in self.pids() {
            let _ = kill_process(pid, Signal::KILL);
        }
        if let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The newest server that Debian's packages have installed.
fn binaries() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("postgres").exists())
        .collect();
    found.sort();
    found.pop().expect("no PostgreSQL server is installed: apt-get install postgresql").1
}

/// The user that Debian's package makes.
fn postgres_user() -> (u32, u32) {
    let passwd = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd can be read");
    passwd
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some("postgres"))
                .then(|| Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?)))?
        })
        .expect("there is no user postgres: apt-get install postgresql")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its number").port()
}
