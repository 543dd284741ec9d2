//! A cluster's life: up, reached, down.
//!
//! `up` finds a running cluster and leaves it as it is (nodes that are dead are switched on again); whatever is left of one
//! that is not running, after a kill -9 of everything or a reboot, is cleared first. A start that fails or is interrupted
//! clears up behind itself, but for the logs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::host::Ledger;
use crate::layout::Layout;
use crate::process::{Stop, command, run, tail, wait_for};
use crate::stage::stage;
use crate::versions::Versions;
use crate::{build, cgroups, control_plane, dns, forward, host, images, node, paths, preflight, process};

/// What is wanted of a cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tells clusters on one machine apart: lower-case letters, digits and dashes, at most 16.
    pub name: String,
    /// 1 to 3.
    pub nodes: u8,
    /// `1.36` or `1.33` (see `versions.toml`).
    pub kubernetes: String,
    /// Image archives that every node shall have.
    pub images: Vec<PathBuf>,
    /// The API server's port on 127.0.0.1; 0: any free one.
    pub port: u16,
    /// Says nothing on standard error about how it goes.
    pub quiet: bool,
    /// Interrupts the start.
    pub stop: Stop,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "pollux".into(),
            nodes: 2,
            kubernetes: Versions::load().default,
            images: Vec::new(),
            port: 0,
            quiet: false,
            stop: Stop::default(),
        }
    }
}

/// A running cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub(crate) layout: Layout,
    kubeconfig: PathBuf,
}

/// What is known of a cluster without asking it to do anything.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// The full version of its Kubernetes.
    pub kubernetes: String,
    /// Does the API server answer?
    pub answers: bool,
    /// Every daemon, and its pid if it lives.
    pub daemons: Vec<(String, Option<i32>)>,
    /// Node names, and whether Kubernetes calls them Ready (empty when the API server does not answer).
    pub nodes: Vec<(String, bool)>,
    /// Ports on the host, and the addresses inside that they lead to.
    pub forwards: Vec<(SocketAddr, String)>,
}

impl Cluster {
    /// Starts the cluster, or finds it running. Builds what is not built yet (minutes, the first time).
    pub fn up(options: Options) -> Result<Self> {
        let versions = Versions::load();
        let kubernetes = versions.kubernetes(&options.kubernetes)?.to_owned();
        let folder = paths::cluster(&options.name)?;
        ensure!((1..=3).contains(&options.nodes), "a cluster has 1 to 3 nodes, not {}", options.nodes);
        if let Some(missing) = options.images.iter().find(|archive| !archive.is_file()) {
            bail!("there is no image archive {}", missing.display());
        }
        preflight::for_start()?;
        let bin = build::build(&options.kubernetes, options.quiet, &options.stop)?;
        let _lock = lock(&options.name)?;
        let layout = Layout { name: options.name.clone(), nodes: options.nodes, kubernetes, folder, bin };
        if let Some(cluster) = Self::find_running(&layout, &options)? {
            cluster.load(&options.images)?;
            return Ok(cluster);
        }
        remove(&layout, false)?;
        let begun = std::time::Instant::now();
        if let Err(error) = start(&layout, &options) {
            // The logs stay: they are what the error is about.
            let cleared = remove(&layout, true);
            let note = match cleared {
                Ok(()) => "what had been started is gone again".to_owned(),
                Err(left) => {
                    format!("and something is left ({left:#}); `make cluster-down CLUSTER={}` removes it", layout.name)
                }
            };
            return Err(error.context(format!(
                "cluster {} did not start (logs: {}); {note}",
                layout.name,
                layout.folder.join("log").display()
            )));
        }
        if !options.quiet {
            eprintln!("   cluster {} is up after {:.1} s", layout.name, begun.elapsed().as_secs_f64());
        }
        Ok(Self::of(layout))
    }

    /// A handle of a cluster that was started before, by whomever.
    pub fn attach(name: &str) -> Result<Self> {
        let layout = Layout::read(&paths::cluster(name)?)
            .with_context(|| format!("there is no cluster {name} (start it: make cluster CLUSTER={name})"))?;
        Ok(Self::of(layout))
    }

    /// Removes a cluster by its name, whatever state it is in; nothing is left but the caches. Fine if there is none.
    pub fn remove(name: &str) -> Result<()> {
        let folder = paths::cluster(name)?;
        let _lock = lock(name)?;
        // What is needed to clear it follows from its name.
        let unknown = Layout {
            name: name.to_owned(),
            nodes: 0,
            kubernetes: String::new(),
            bin: PathBuf::new(),
            folder: folder.clone(),
        };
        remove(&Layout::read(&folder).unwrap_or(unknown), false)
    }

    /// The names of all clusters, running or not.
    pub fn list() -> Vec<String> {
        let entries = fs::read_dir(paths::clusters()).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries
            .filter(|entry| Layout::read(&entry.path()).is_some())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn of(layout: Layout) -> Self {
        Self { kubeconfig: layout.kubeconfig(), layout }
    }

    fn find_running(wanted: &Layout, options: &Options) -> Result<Option<Self>> {
        let Some(found) = Layout::read(&wanted.folder) else { return Ok(None) };
        let alive = Layout::control_plane_daemons().iter().all(|daemon| found.pid(daemon).is_some());
        if !alive || !found.kubeconfig().exists() {
            return Ok(None);
        }
        let cluster = Self::of(found);
        cluster.continue_api_server()?;
        if !control_plane::api_ready(&cluster.layout) {
            return Ok(None);
        }
        if cluster.layout != *wanted {
            bail!(
                "cluster {} runs already, as Kubernetes {} with {} nodes: `make cluster-down CLUSTER={0}` first, or choose another name",
                wanted.name,
                cluster.layout.kubernetes,
                cluster.layout.nodes
            );
        }
        for node in 1..=cluster.layout.nodes {
            if Layout::node_daemons(node).iter().any(|daemon| cluster.layout.pid(daemon).is_none()) {
                if !options.quiet {
                    eprintln!("   node-{node} is dead: switching it on again");
                }
                cluster.revive_node(&format!("node-{node}"))?;
            }
        }
        wait_ready(&cluster.layout, &options.stop)?;
        Ok(Some(cluster))
    }

    /// Stops it and removes everything but the caches.
    pub fn down(&self) -> Result<()> {
        Self::remove(&self.layout.name)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.layout.name
    }

    /// Its kubeconfig, with its certificates inside, for an address on 127.0.0.1.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The file to source: it puts kubectl, helm and KUBECONFIG into a shell.
    pub fn env_file(&self) -> PathBuf {
        self.layout.folder.join("env")
    }

    /// The folder with kubectl, helm and the cluster's own programs.
    pub fn bin(&self) -> &Path {
        &self.layout.bin
    }

    /// The folder with the daemons' logs.
    pub fn logs(&self) -> PathBuf {
        self.layout.folder.join("log")
    }

    /// `node-1`, `node-2` ….
    pub fn nodes(&self) -> Vec<String> {
        (1..=self.layout.nodes).map(|node| format!("node-{node}")).collect()
    }

    /// `kubectl --kubeconfig …`, ready for arguments.
    pub fn kubectl(&self) -> Command {
        self.layout.kubectl()
    }

    /// The API server's address on the host.
    pub fn api_address(&self) -> Result<SocketAddr> {
        let text =
            fs::read_to_string(self.layout.folder.join("forwards/forward-api")).context("the cluster is not up")?;
        Ok(text.split(' ').next().unwrap_or_default().parse()?)
    }

    /// Gives image archives (OCI or Docker) to all nodes, dead ones excepted.
    pub fn load(&self, archives: &[PathBuf]) -> Result<()> {
        if archives.is_empty() {
            return Ok(());
        }
        let alive = (1..=self.layout.nodes).filter(|node| self.layout.pid(&format!("containerd-{node}")).is_some());
        for_each(alive, |node| images::import(&self.layout, node, archives))
    }

    /// Opens `127.0.0.1:port` (0: any free one) on the host for an address inside: `10.96.3.4:8090` (of a pod or a service) or
    /// `service/NAMESPACE/NAME:PORT`. It is reached as from node-1, and
    /// ends with the cluster; asked for again it is the same.
    pub fn forward(&self, target: &str, port: u16) -> Result<SocketAddr> {
        let target = forward::resolve(&self.layout, target)?;
        let mut open = forward::list(&self.layout).into_iter();
        if let Some((address, _)) = open.find(|(address, to)| *to == target && (port == 0 || address.port() == port)) {
            return Ok(address);
        }
        let taken = |name: &String| self.layout.folder.join("forwards").join(name).exists();
        let name =
            (1..).map(|number| format!("forward-{number}")).find(|name| !taken(name)).context("numbers do not end")?;
        forward::open(&self.layout, &name, &self.layout.node_namespace(1), &target, port)
    }

    /// What is there, and what lives.
    pub fn status(&self) -> Status {
        let layout = &self.layout;
        let names = Layout::control_plane_daemons().map(str::to_owned).into_iter();
        let names = names.chain((1..=layout.nodes).flat_map(Layout::node_daemons));
        let answers = control_plane::api_ready(layout);
        Status {
            name: layout.name.clone(),
            kubernetes: layout.kubernetes.clone(),
            answers,
            daemons: names.map(|daemon| (daemon.clone(), layout.pid(&daemon))).collect(),
            nodes: if answers { readiness(layout).unwrap_or_default().into_iter().collect() } else { Vec::new() },
            forwards: forward::list(layout),
        }
    }
}

/// One `up` or `down` of a name at a time.
fn lock(name: &str) -> Result<File> {
    fs::create_dir_all(paths::clusters())?;
    let path = paths::clusters().join(format!(".{name}.lock"));
    loop {
        let file = File::create(&path)?;
        file.lock().context("cannot wait for another up or down")?;
        // `down` removes the file that it has locked: who waited for that one must take the next.
        if fs::metadata(&path).is_ok_and(|now| file.metadata().is_ok_and(|held| held.ino() == now.ino())) {
            return Ok(file);
        }
    }
}

fn start(layout: &Layout, options: &Options) -> Result<()> {
    let (quiet, stop) = (options.quiet, &options.stop);
    let log = |daemon: &str| Some(layout.log(daemon));
    layout.write()?;
    stage(quiet, "namespaces, cgroups, certificates", Duration::from_secs(1), None, || {
        let ledger = Ledger::open()?;
        ledger.make_folders()?;
        cgroups::make(&layout.cgroup(), layout.nodes, &ledger)?;
        control_plane::network(layout)?;
        (1..=layout.nodes).try_for_each(|node| node::network(layout, node))?;
        control_plane::certificates(layout)
    })?;
    let archives: Vec<_> = images::own(&layout.bin).into_iter().chain(options.images.iter().cloned()).collect();
    stage(quiet, "control plane, containerd", Duration::from_secs(4), log("apiserver").as_deref(), || {
        control_plane::start_api(layout, options.port)?;
        for_each(1..=layout.nodes, |node| node::start_containerd(layout, node, &archives, stop))?;
        control_plane::start_controllers(layout, stop)
    })?;
    stage(quiet, "nodes, DNS", Duration::from_secs(5), log("kubelet-1").as_deref(), || {
        for_each(1..=layout.nodes, |node| node::start_kubelet(layout, node))?;
        dns::apply(layout)?;
        wait_ready(layout, stop)
    })?;
    let env = layout.folder.join("env");
    paths::write(
        &env,
        format!("export PATH={}:$PATH KUBECONFIG={}\n", layout.bin.display(), layout.kubeconfig().display()),
    )?;
    paths::hand_over(&[&layout.kubeconfig(), &env])
}

/// All nodes Ready, and names resolve.
fn wait_ready(layout: &Layout, stop: &Stop) -> Result<()> {
    let what = "all nodes and CoreDNS to be ready";
    let outcome = wait_for(what, Duration::from_secs(90), stop, || {
        for node in 1..=layout.nodes {
            Layout::node_daemons(node).iter().try_for_each(|daemon| layout.check_alive(daemon))?;
        }
        let ready = readiness(layout)?;
        Ok(ready.len() == usize::from(layout.nodes) && ready.values().all(|ready| *ready) && dns::ready(layout)?)
    });
    outcome.with_context(|| tail(&layout.log("kubelet-1")))
}

/// What Kubernetes says of its nodes.
pub(crate) fn readiness(layout: &Layout) -> Result<BTreeMap<String, bool>> {
    let nodes: Value = serde_json::from_str(&run(layout.kubectl().args([
        "get",
        "nodes",
        "-o",
        "json",
        &format!("--request-timeout={}s", 10 * process::patience()),
    ]))?)?;
    let items = nodes["items"].as_array().cloned().unwrap_or_default();
    let ready = |node: &Value| {
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    Ok(items
        .iter()
        .map(|node| (node["metadata"]["name"].as_str().unwrap_or_default().to_owned(), ready(node)))
        .collect())
}

/// Clears everything of a cluster and then its folder (but its logs, if they are wanted).
fn remove(layout: &Layout, keep_logs: bool) -> Result<()> {
    host::clear(layout)?;
    Ledger::open()?.settle();
    let folder = &layout.folder;
    if !folder.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)?.flatten() {
        if !(keep_logs && entry.file_name() == "log") {
            // One file system: whatever may still be mounted there is not ours to delete.
            run(command(["rm", "-rf", "--one-file-system"]).arg(entry.path()))?;
        }
    }
    if !keep_logs {
        fs::remove_dir(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        let _ = fs::remove_file(paths::clusters().join(format!(".{}.lock", layout.name)));
    }
    Ok(())
}

/// Does something for several nodes side by side; the first error wins.
fn for_each(nodes: impl IntoIterator<Item = u8>, work: impl Fn(u8) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = nodes.into_iter().map(|node| scope.spawn(move || work(node))).collect();
        let outcomes = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")));
        outcomes.collect::<Result<Vec<()>>>().map(drop)
    })
}

impl Cluster {
    /// The API server stands still (SIGSTOP); its connections stay open.
    pub fn stop_api_server(&self) -> Result<()> {
        self.signal_api_server(Signal::STOP)
    }

    /// It goes on.
    pub fn continue_api_server(&self) -> Result<()> {
        self.signal_api_server(Signal::CONT)
    }

    fn signal_api_server(&self, signal: Signal) -> Result<()> {
        let pid = self.layout.pid("apiserver").context("the API server is dead")?;
        ensure!(process::signal(pid, signal), "the API server is dead");
        Ok(())
    }
}
