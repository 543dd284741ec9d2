//! An API server and its etcd alone: no nodes, no controllers, no namespaces, no root.
//!
//! For whoever wants the API and no pods, like a bench of leader election. Both listen on 127.0.0.1 and die with their
//! starter. Other than in a [`crate::Cluster`], etcd waits for the disk, as it does in earnest.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::build;
use crate::control_plane::api_options;
use crate::pki::{self, Authority};
use crate::process::{Stop, patience, run, signal, tail, wait_for};

/// A running API server and its etcd. They are stopped and their data removed when this is dropped.
#[derive(Debug)]
pub struct ApiServer {
    dir: TempDir,
    api: Daemon,
    etcd: Daemon,
    etcd_address: SocketAddr,
}

#[derive(Debug)]
struct Daemon {
    name: &'static str,
    pid: i32,
    ended: Mutex<Receiver<std::io::Result<ExitStatus>>>,
    log: PathBuf,
}

// === impl ApiServer ===

impl ApiServer {
    /// Starts both and waits until the API server is ready. Builds what is missing: minutes, the first time.
    ///
    /// # Errors
    /// If something does not build or does not start; the end of its log is in the message.
    pub fn start(kubernetes: &str, stop: &Stop) -> Result<Self> {
        let bin = build::build(kubernetes, false, stop)?;
        let dir = tempfile::Builder::new().prefix("pollux-api-").tempdir()?;
        let folder = dir.path();
        let pki = folder.join("pki");
        let authority = Authority::new(&pki)?;
        let names = [pki::ip(Ipv4Addr::LOCALHOST), pki::dns("localhost")?];
        authority.certificate("apiserver", None, "kube-apiserver", &names)?;
        authority.certificate("admin", Some("system:masters"), "admin", &[])?;
        let [client, peer, secure] = free_addresses()?;
        let etcd = Daemon::start(
            "etcd",
            folder,
            bin.join("etcd"),
            &format!(
                "--data-dir={} --listen-client-urls=http://{client} --advertise-client-urls=http://{client} \
                 --listen-peer-urls=http://{peer} --initial-advertise-peer-urls=http://{peer} --initial-cluster=default=http://{peer}",
                folder.join("etcd").display()
            ),
        )?;
        let options = api_options(&format!("http://{client}"), &pki, Ipv4Addr::LOCALHOST, secure.port());
        let options = format!("{options} --authorization-mode=RBAC --cert-dir={}", folder.display());
        let api = Daemon::start("kube-apiserver", folder, bin.join("kube-apiserver"), &options)?;
        let kubeconfig = folder.join("kubeconfig");
        pki::portable_kubeconfig(&pki, "admin", "alone", &format!("https://{secure}"), &kubeconfig)?;
        let server = Self { dir, api, etcd, etcd_address: client };
        let limit = format!("--request-timeout={}s", 2 * patience());
        wait_for("the API server (/readyz)", Duration::from_secs(60), stop, || {
            server.etcd.check_alive()?;
            server.api.check_alive()?;
            let mut kubectl = Command::new(bin.join("kubectl"));
            kubectl.arg("--kubeconfig").arg(&kubeconfig).args(["get", "--raw", "/readyz", &limit]);
            Ok(run(&mut kubectl).is_ok())
        })?;
        Ok(server)
    }

    /// An administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// etcd's own address: plain HTTP.
    pub const fn etcd(&self) -> SocketAddr {
        self.etcd_address
    }
}

// === impl Daemon ===

impl Daemon {
    fn start(name: &'static str, folder: &Path, program: PathBuf, options: &str) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log)?;
        // Should this process be killed, the kernel tells the daemon.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program).args(options.split_whitespace());
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let (started, is_started) = channel();
        let (ended, is_ended) = channel();
        // The kernel's signal is for the death of the thread that started it: one that lives as long as the daemon.
        thread::Builder::new().name(name.to_owned()).spawn(move || match command.spawn() {
            Ok(mut child) => {
                let _ = started.send(Ok(child.id()));
                let _ = ended.send(child.wait());
            }
            Err(error) => drop(started.send(Err(error))),
        })?;
        let pid = is_started.recv()?.with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, pid: pid.cast_signed(), ended: Mutex::new(is_ended), log })
    }

    fn ended(&self) -> MutexGuard<'_, Receiver<std::io::Result<ExitStatus>>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_alive(&self) -> Result<()> {
        match self.ended().try_recv() {
            Err(TryRecvError::Empty) => Ok(()),
            _ => bail!("{} has ended; {}", self.name, tail(&self.log)),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.check_alive().is_ok() {
            signal(self.pid, Signal::KILL);
            let _ = self.ended().recv();
        }
    }
}

/// All held at the same time, so that they differ.
fn free_addresses() -> Result<[SocketAddr; 3]> {
    let listeners = [0; 3].map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    let mut found = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); 3];
    for (address, listener) in found.iter_mut().zip(listeners) {
        *address = listener?.local_addr()?;
    }
    Ok(found)
}
