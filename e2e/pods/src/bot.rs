//! A bot's container: its program, started again when it ends, as the kubelet does.

use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The kubelet starts a container again at once, then after ten seconds, twenty, forty… For tests: a tenth of that.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// How a bot is run.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its working directory.
    pub directory: PathBuf,
    /// The program and its arguments; a program without a slash is looked for in `PATH`.
    pub command: Vec<String>,
    /// Its environment, besides `PATH`.
    pub env: Vec<(String, String)>,
}

/// How a bot ended that was told to.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// From the signal to the end.
    pub took: Duration,
    /// It had to be killed, because it did not end in time.
    pub killed: bool,
}

/// A bot that runs; killed when it is dropped.
#[derive(Debug)]
pub struct BotProcess {
    orders: mpsc::UnboundedSender<Order>,
    restarts: Arc<AtomicU32>,
    log: PathBuf,
    task: JoinHandle<Option<ExitStatus>>,
}

#[derive(Debug)]
enum Order {
    /// Of the process only: the container is started again.
    Kill,
    /// Of the container.
    End(Signal),
}

// === impl Program ===

impl Program {
    fn start(&self, log: &Path) -> std::io::Result<Child> {
        let file = OpenOptions::new().create(true).append(true).open(log)?;
        let (program, arguments) = self.command.split_first().expect("a program");
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.directory).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true).spawn()
    }
}

// === impl BotProcess ===

impl BotProcess {
    /// Starts one; what it writes is appended to `log`.
    pub fn start(program: Program, log: PathBuf) -> Self {
        let (orders, taken) = mpsc::unbounded_channel();
        let restarts = Arc::new(AtomicU32::new(0));
        let container = Container { program, log: log.clone(), orders: taken, restarts: restarts.clone() };
        Self { orders, restarts, log, task: tokio::spawn(container.run()) }
    }

    /// How often its container was started again.
    pub fn restarts(&self) -> u32 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// kill -9 of the process: its container is started again, and that counts as a restart.
    pub fn kill(&self) {
        let _ = self.orders.send(Order::Kill);
    }

    /// SIGTERM, and after the grace period SIGKILL.
    pub async fn terminate(mut self, grace: Duration) -> Ended {
        let began = Instant::now();
        let _ = self.orders.send(Order::End(Signal::TERM));
        let ended = tokio::time::timeout(grace, &mut self.task).await;
        let killed = ended.is_err();
        let status = match ended {
            Ok(status) => status,
            Err(_) => {
                let _ = self.orders.send(Order::End(Signal::KILL));
                (&mut self.task).await
            }
        };
        let code =
            status.ok().flatten().and_then(|status| if status.signal().is_some() { None } else { status.code() });
        Ended { code, took: began.elapsed(), killed }
    }

    /// kill -9 of the container: it is not started again.
    pub async fn destroy(mut self) {
        let _ = self.orders.send(Order::End(Signal::KILL));
        let _ = (&mut self.task).await;
    }
}

impl Drop for BotProcess {
    fn drop(&mut self) {
        // The child dies with the task.
        self.task.abort();
    }
}

struct Container {
    program: Program,
    log: PathBuf,
    orders: mpsc::UnboundedReceiver<Order>,
    restarts: Arc<AtomicU32>,
}

// === impl Container ===

impl Container {
    /// Runs until it is told to end; how its last process ended.
    async fn run(mut self) -> Option<ExitStatus> {
        let mut pause = Duration::ZERO;
        loop {
            let mut child = self.program.start(&self.log).unwrap_or_else(|e| panic!("{:?}: {e}", self.program.command));
            let began = Instant::now();
            if let Some(status) = self.follow(&mut child).await {
                return status;
            }
            self.restarts.fetch_add(1, Ordering::Relaxed);
            if began.elapsed() > Duration::from_secs(60) {
                pause = Duration::ZERO;
            }
            if let Some(status) = self.back_off(pause).await {
                return status;
            }
            pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        }
    }

    /// Until the process ends: `Some` if it was told to.
    async fn follow(&mut self, child: &mut Child) -> Option<Option<ExitStatus>> {
        let mut told = false;
        loop {
            tokio::select! {
                status = child.wait() => return told.then(|| status.ok()),
                order = self.orders.recv() => {
                    let signal = match order {
                        Some(Order::Kill) => Signal::KILL,
                        Some(Order::End(signal)) => { told = true; signal }
                        None => { told = true; Signal::KILL }
                    };
                    // Not reaped yet, so the number is still its own.
                    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
                        let _ = kill_process(pid, signal);
                    }
                }
            }
        }
    }

    async fn back_off(&mut self, pause: Duration) -> Option<Option<ExitStatus>> {
        let end = tokio::time::sleep(pause);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return None,
                order = self.orders.recv() => if !matches!(order, Some(Order::Kill)) { return Some(None) },
            }
        }
    }
}
