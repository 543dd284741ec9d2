//! Contenders as processes of their own, to be killed and frozen.
//!
//! A contender is this very test binary, started again for its test `contender`, which does nothing unless it is told to by
//! the environment.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use pollux_lease::{BootInstant, Config, HandOver, Lease, Reason, Role};
use pollux_lease_soak::oracle::Recorder;
use rustix::process::{Pid, Signal, kill_process};

const TOLD: &str = "POLLUX_CONTENDER";

/// A contender's process; it ends with this value.
pub struct Contender {
    pub name: String,
    child: Child,
    says: ChildStdin,
    hears: BufReader<ChildStdout>,
}

// === impl Contender ===

impl Contender {
    /// Starts one that is ready to lead. `alive` is its pod's lock file.
    pub fn start(uri_file: &Path, beliefs: &Path, pod: &str, run: usize, ttl: Duration, alive: Option<&Path>) -> Self {
        let name = format!("{pod}-{run}");
        let alive = alive.map(|path| path.display().to_string()).unwrap_or_default();
        let told = format!("{}|{}|{name}|{pod}|{}|{alive}", uri_file.display(), beliefs.display(), ttl.as_millis());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["contender", "--exact", "--nocapture", "--quiet"]).env(TOLD, told);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (says, hears) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { name, child, says, hears }
    }

    /// Asks it to give the lease to somebody else, and returns what became of it.
    pub fn hand_over(&mut self) -> String {
        self.says.write_all(b"hand over\n").unwrap();
        loop {
            let mut line = String::new();
            assert_ne!(self.hears.read_line(&mut line).unwrap(), 0, "{} is gone", self.name);
            if let Some(outcome) = line.strip_prefix("outcome ") {
                return outcome.trim().to_owned();
            }
        }
    }

    /// kill -9; returns when it was dead.
    pub fn kill(mut self) -> BootInstant {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        BootInstant::now()
    }

    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the started process does: takes part until its standard input ends.
pub async fn contend() {
    let Ok(told) = std::env::var(TOLD) else { return };
    let fields: Vec<_> = told.split('|').collect();
    let [uri_file, beliefs, name, pod, ttl, alive] = fields[..] else { panic!("{told}") };
    let alive_file = Some(PathBuf::from(alive)).filter(|path| !path.as_os_str().is_empty());
    let default_ttl = Duration::from_millis(ttl.parse().unwrap());
    let lease = Lease::spawn(Config { alive_file, default_ttl, ..super::config(uri_file.into(), pod) });
    Recorder::new(Path::new(beliefs), name).unwrap().follow(&lease);
    lease.set_ready(true);
    let (tx, mut orders) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let _ = tx.send(line);
        }
        // Whoever started us is gone.
        std::process::exit(0);
    });
    while orders.recv().await.is_some() {
        let outcome = lease.hand_over(HandOver { only_to_successor: true, ..HandOver::new(Reason::Manual) }).await;
        println!("outcome {outcome:?}");
        assert!(lease.view().borrow().role == Role::Standby || format!("{outcome:?}").starts_with("Kept"));
    }
}
