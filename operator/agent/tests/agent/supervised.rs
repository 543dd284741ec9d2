//! Pods whose bot is a program that a supervisor runs (`polling.adapter: Process`).

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use pollux_pods::{Agent, Pod};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::data_centre::DataCentre;
use crate::world::{PATIENCE, World, eventually};

/// The user of the bot's image.
const OTHER_USER: u32 = 12345;

/// Connects, and ends at SIGTERM. It is one process.
pub(crate) const PLAIN: &str = "exec 3<>/dev/tcp/127.0.0.1/$PORT; read -r -u 3 _";
/// Connects, and has a child that holds the connection, too.
pub(crate) const PARENT: &str = "exec 3<>/dev/tcp/127.0.0.1/$PORT; trap 'exit 0' TERM; cat <&3 >/dev/null & wait";
/// Has a child in a session of its own, which holds the connection and hears no SIGTERM.
pub(crate) const ESCAPING: &str =
    "exec 3<>/dev/tcp/127.0.0.1/$PORT; trap 'exit 0' TERM; (trap '' TERM; setsid sleep 600) & wait";
/// Does not end at SIGTERM.
pub(crate) const STUBBORN: &str = "exec 3<>/dev/tcp/127.0.0.1/$PORT; trap '' TERM; while :; do sleep 1; done";
/// Ends by itself with 7 when its server has a file of that name.
pub(crate) const CRASHING: &str =
    "exec 3<>/dev/tcp/127.0.0.1/$PORT; while ! [ -e \"$CRASH\" ]; do sleep 0.01; done; exit 7";

/// A program's container, which is not started again by itself; killed when it is dropped.
pub(crate) struct Supervised {
    child: Child,
    log: PathBuf,
}

/// A pod that runs: an agent and a supervisor.
pub(crate) struct Pair {
    pub(crate) agent: Agent,
    pub(crate) bot: Supervised,
    pub(crate) script: &'static str,
    pub(crate) port: u16,
}

/// Everything that outlives such a pod.
pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) centre: DataCentre,
}

// === impl Supervised ===

impl Supervised {
    /// Starts the container as the image's user.
    pub(crate) fn start(pod: &Pod, command: &[&str], env: &[(&str, String)]) -> Self {
        Self::start_as(OTHER_USER, pod, command, env)
    }

    /// As another one; 0 is whoever runs the tests.
    pub(crate) fn start_as(user: u32, pod: &Pod, command: &[&str], env: &[(&str, String)]) -> Self {
        let log = pod.shared.with_file_name(format!("{}.bot.log", pod.name));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut process = Command::new(pod.shared.join("pollux-agent"));
        process.arg("supervise").arg("--").args(command).env_clear().current_dir("/");
        process.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("POLLUX_SHARED_DIR", &pod.shared);
        process.envs(env.iter().map(|(name, value)| (name, value)));
        if user != 0 && rustix::process::getuid().is_root() {
            process.uid(user).gid(user);
        }
        process.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Self { child: process.kill_on_drop(true).spawn().unwrap(), log }
    }

    /// What it and its program wrote.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().expect("it runs").cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Its end; a signal counts as in a shell.
    pub(crate) async fn ended(&mut self) -> i32 {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("no end\n{}", self.log())).unwrap();
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
    }

    /// As the kubelet ends a container.
    pub(crate) async fn terminate(&mut self) -> i32 {
        self.signal(Signal::TERM);
        self.ended().await
    }
}

// === impl Stage ===

impl Stage {
    pub(crate) async fn new() -> Self {
        Self { world: World::new().await, centre: DataCentre::open() }
    }

    pub(crate) async fn pod(&self, name: &str) -> Pod {
        let mut pod = self.world.pod(name).await;
        pod.adapter = "process";
        pod
    }

    /// What a script finds in its environment.
    fn env(&self, port: u16) -> Vec<(&'static str, String)> {
        let crash = self.world.dir.path().join("crash");
        vec![("PORT", port.to_string()), ("CRASH", crash.display().to_string())]
    }

    /// Makes [`CRASHING`] programs end, or keeps later ones from it.
    pub(crate) fn crash(&self, now: bool) {
        let file = self.world.dir.path().join("crash");
        if now {
            std::fs::write(&file, b"").unwrap();
            std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        } else {
            std::fs::remove_file(&file).unwrap();
        }
    }

    pub(crate) async fn replica(&self, pod: Pod, script: &'static str) -> Pair {
        let port = self.centre.door(&pod.name);
        let agent = pod.start();
        pod.wait_ready().await;
        let bot = Supervised::start(&pod, &["bash", "-c", script], &self.env(port));
        Pair { agent, bot, script, port }
    }

    /// Two pods, the first of which leads and is connected.
    pub(crate) async fn pair(&self, script: &'static str) -> (Pair, Pair) {
        let one = self.replica(self.pod("echo-1").await, script).await;
        one.agent.until_leader().await;
        self.until_in("echo-1").await;
        let two = self.replica(self.pod("echo-2").await, script).await;
        two.agent.until_standby().await;
        (one, two)
    }

    /// The kubelet starts a container that has ended again.
    pub(crate) fn restart(&self, pair: &mut Pair) {
        pair.bot = Supervised::start(&pair.agent.pod, &["bash", "-c", pair.script], &self.env(pair.port));
    }

    pub(crate) async fn until_in(&self, pod: &str) {
        eventually(&format!("{pod} is connected"), || self.centre.is_in(pod)).await;
    }

    pub(crate) async fn until_out(&self, pod: &str) -> Duration {
        let began = Instant::now();
        eventually(&format!("{pod} is not connected any more"), || !self.centre.is_in(pod)).await;
        began.elapsed()
    }
}
