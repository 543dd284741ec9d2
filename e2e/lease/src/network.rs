//! A pod's network: a namespace of its own with one link to the lane, cut by iptables inside of it. Nothing of it is seen from
//! outside of the lane, which has a namespace of its own too, and all of it ends with the lane's processes.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::geteuid;

const PATIENCE: Duration = Duration::from_secs(10);

/// How contenders of one pod reach the database.
#[derive(Debug)]
pub(crate) struct Network {
    /// Where the lane's end is.
    address: Ipv4Addr,
    /// Holds the namespace; without it the pod shares the lane's network.
    holder: Option<Child>,
}

/// Which packets are lost, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Incoming,
    Outgoing,
    Both,
}

/// Whether this process may make network namespaces.
///
/// # Errors
/// Says what is missing.
pub(crate) fn can_be_isolated() -> Result<()> {
    ensure!(geteuid().is_root(), "network namespaces need root");
    for (program, package) in [("ip", "iproute2"), ("iptables", "iptables"), ("nsenter", "util-linux")] {
        let found = Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
        ensure!(found.is_ok(), "{program} is not installed: apt-get install {package}");
    }
    run(Command::new("unshare").args(["--net", "ip", "link", "set", "lo", "up"]))
        .context("network namespaces are not permitted")
        .map(drop)
}

/// The program and what it is started with so that it is a lane with a network of its own.
pub(crate) fn lane_command(program: &Path, isolated: bool) -> Command {
    let mut command = dies_with_us();
    if isolated {
        command.args(["unshare", "--net"]);
    }
    command.arg(program);
    command
}

// === impl Network ===

impl Network {
    /// The lane's own.
    pub(crate) const fn shared() -> Self {
        Self { address: Ipv4Addr::LOCALHOST, holder: None }
    }

    /// A namespace for the `number`th pod of this lane.
    pub(crate) fn isolated(number: u8) -> Result<Self> {
        let (address, inside) = (Ipv4Addr::new(10, 77, number, 1), Ipv4Addr::new(10, 77, number, 2));
        // As a pod's pause container does: it waits, and with it ends the namespace.
        let mut command = dies_with_us();
        command.args(["unshare", "--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let holder = command.spawn().context("starting the holder of a network namespace")?;
        let network = Self { address, holder: Some(holder) };
        network.await_namespace()?;
        let (link, pid) = (format!("pod{number}"), network.pid());
        ip(&format!("link add {link} type veth peer name eth0 netns {pid}"))?;
        ip(&format!("address add {address}/30 dev {link}"))?;
        ip(&format!("link set {link} up"))?;
        network.inside(&["ip", "address", "add", &format!("{inside}/30"), "dev", "eth0"])?;
        network.inside(&["ip", "link", "set", "eth0", "up"])?;
        Ok(network)
    }

    /// Where the lane's end is: what listens there is reached by the pod.
    pub(crate) const fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A command that runs in it and dies with this process.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = dies_with_us();
        if self.holder.is_some() {
            command.arg("nsenter").arg(self.namespace());
        }
        command.arg(program);
        command
    }

    /// Packets of this direction are lost from now on, and nobody is told.
    pub(crate) fn cut(&self, direction: Direction) -> Result<()> {
        for (chain, other) in [("INPUT", Direction::Outgoing), ("OUTPUT", Direction::Incoming)] {
            if direction != other {
                self.inside(&["iptables", "--wait", "--append", chain, "--jump", "DROP"])?;
            }
        }
        Ok(())
    }

    /// Ends the cut and says how many packets it swallowed.
    pub(crate) fn heal(&self) -> Result<u64> {
        let listed = self.inside(&["iptables", "--wait", "--list", "--numeric", "--verbose", "--exact"])?;
        self.inside(&["iptables", "--wait", "--flush"])?;
        let rules = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        Ok(rules.filter(|fields| fields.get(2) == Some(&"DROP")).filter_map(|f| f[0].parse::<u64>().ok()).sum())
    }

    fn await_namespace(&self) -> Result<()> {
        let ours = std::fs::read_link("/proc/self/ns/net")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let program = std::fs::read_to_string(format!("/proc/{}/comm", self.pid())).unwrap_or_default();
            let theirs = std::fs::read_link(format!("/proc/{}/ns/net", self.pid()))?;
            if theirs != ours && program.trim() == "cat" {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "no network namespace within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn inside(&self, words: &[&str]) -> Result<String> {
        run(Command::new("nsenter").arg(self.namespace()).args(words))
    }

    fn namespace(&self) -> PathBuf {
        format!("--net=/proc/{}/ns/net", self.pid()).into()
    }

    fn pid(&self) -> u32 {
        self.holder.as_ref().map_or(0, Child::id)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(holder) = &mut self.holder {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

/// Brings the lane's own loopback up.
pub(crate) fn loopback_up() -> Result<()> {
    ip("link set lo up")
}

/// The beginning of a command that dies with this process.
pub(crate) fn dies_with_us() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    command
}

fn ip(words: &str) -> Result<()> {
    run(Command::new("ip").args(words.split(' '))).map(drop)
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    ensure!(output.status.success(), "{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?)
}
