//! `pollux-testbed`: a real Kubernetes on this machine, for people; the same code as the scenarios use.

mod fault;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use pollux_testbed::{Cluster, Options, Stop, Versions};

#[derive(Parser)]
#[command(
    name = "pollux-testbed",
    version,
    about = "A real Kubernetes of 1 to 3 nodes on this machine, without Docker",
    long_about = "A real Kubernetes of 1 to 3 nodes on this machine, without Docker: every node is a network namespace with its own \
                  containerd, kubelet and kube-proxy, built from pinned Go modules. The host gets nothing but a listener on 127.0.0.1, \
                  and `down` leaves nothing behind.",
    after_help = "A first walk:\n  \
                  sudo pollux-testbed up --name mine        start (the first time it builds Kubernetes: 9 minutes)\n  \
                  . \"$(pollux-testbed env --name mine)\"      kubectl, helm and KUBECONFIG in this shell\n  \
                  kubectl get nodes\n  \
                  sudo pollux-testbed fault kill-node node-2 --name mine\n  \
                  sudo pollux-testbed down --name mine\n\n\
                  Programs, images and clusters are in $POLLUX_CACHE (~/.cache/pollux). ~/.kube is not touched."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the programs of a Kubernetes (9 minutes with empty caches, nothing when they are there)
    Build {
        /// 1.36 or 1.33 (versions.toml holds the exact ones)
        #[arg(long, default_value_t = Versions::load().default)]
        kubernetes: String,
    },
    /// Start a cluster and say how to reach it; one that runs is left as it is, dead nodes are switched on again
    Up {
        #[command(flatten)]
        cluster: Name,
        /// 1 to 3; node-1 carries what must survive faults on the others
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=3))]
        nodes: u8,
        /// 1.36 or 1.33 (versions.toml holds the exact ones)
        #[arg(long, default_value_t = Versions::load().default)]
        kubernetes: String,
        /// The API server's port on 127.0.0.1; 0: any free one
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// Image archives that every node shall have
        #[arg(value_name = "IMAGE.tar")]
        images: Vec<PathBuf>,
    },
    /// Stop a cluster and remove all of it: processes, mounts, namespaces, cgroups, files; the caches stay
    Down {
        #[command(flatten)]
        cluster: Name,
        /// Every cluster of this cache
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Give image archives (of `buildah push … oci-archive:`, `docker save`) to all nodes; there is no registry
    Load {
        #[command(flatten)]
        cluster: Name,
        #[arg(value_name = "IMAGE.tar", required = true)]
        images: Vec<PathBuf>,
    },
    /// What runs: of one cluster, or of all
    Status {
        /// The cluster (without it: all)
        #[arg(long, env = "POLLUX_CLUSTER_NAME")]
        name: Option<String>,
    },
    /// Print the path of the file to source: `. "$(pollux-testbed env)"` puts kubectl, helm and KUBECONFIG into the shell
    Env {
        #[command(flatten)]
        cluster: Name,
    },
    /// Open a port on 127.0.0.1 for an address inside; it stays open until `down`
    #[command(
        after_help = "Examples:\n  pollux-testbed forward 10.88.1.7:8090\n  pollux-testbed forward --port 8090 service/botapi/emulator:8090"
    )]
    Forward {
        #[command(flatten)]
        cluster: Name,
        /// The port on 127.0.0.1; 0: any free one
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// ADDRESS:PORT of a pod or service, or service/NAMESPACE/NAME:PORT
        target: String,
    },
    /// Break something on purpose, or mend it
    Fault {
        #[command(flatten)]
        cluster: Name,
        #[command(subcommand)]
        fault: fault::Fault,
    },
    /// Write an image archive with one static program in it, for `load`
    WriteImage {
        /// The archive to write
        archive: PathBuf,
        /// The program: `/<its name>` is the entry point
        program: PathBuf,
        /// The image's name, `localhost/…/NAME:TAG`
        image: String,
    },
    #[command(hide = true)]
    ServeForward { target: SocketAddr },
}

#[derive(Args)]
struct Name {
    /// Which cluster: several run side by side
    #[arg(long, global = true, default_value = "pollux", env = "POLLUX_CLUSTER_NAME")]
    name: String,
}

fn main() -> ExitCode {
    let outcome = run(Cli::parse().command);
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    eprintln!("pollux-testbed: {error:#}");
    ExitCode::FAILURE
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Build { kubernetes } => {
            let bin =
                pollux_testbed::build(&kubernetes, false, &stop_on_signal("what was being built is thrown away"))?;
            println!("{}", bin.display());
        }
        Command::Up { cluster, nodes, kubernetes, port, images } => {
            let stop = stop_on_signal("what was started is being taken down");
            let options = Options { name: cluster.name, nodes, kubernetes, images, port, quiet: false, stop };
            reach(&Cluster::up(options)?)?;
        }
        Command::Down { all: true, .. } => Cluster::list().iter().try_for_each(|name| Cluster::remove(name))?,
        Command::Down { cluster, .. } => Cluster::remove(&cluster.name)?,
        Command::Load { cluster, images } => Cluster::attach(&cluster.name)?.load(&images)?,
        Command::Status { name } => {
            let names = name.map_or_else(Cluster::list, |name| vec![name]);
            if names.is_empty() {
                println!("no cluster");
            }
            names.iter().try_for_each(|name| Cluster::attach(name).map(|cluster| show(&cluster)))?;
        }
        Command::Env { cluster } => println!("{}", Cluster::attach(&cluster.name)?.env_file().display()),
        Command::Forward { cluster, port, target } => {
            let address = Cluster::attach(&cluster.name)?.forward(&target, port)?;
            println!("http://{address}");
            println!("from elsewhere: ssh -L {0}:127.0.0.1:{0} {1}", address.port(), host());
        }
        Command::Fault { cluster, fault } => fault.run(&Cluster::attach(&cluster.name)?)?,
        Command::WriteImage { archive, program, image } => pollux_testbed::write_image(&program, &image, &archive)?,
        Command::ServeForward { target } => pollux_testbed::serve_forward(target)?,
    }
    Ok(())
}

/// The first Ctrl-C (or SIGTERM) asks to give up and clean up; the second ends the program.
fn stop_on_signal(what: &'static str) -> Stop {
    let stop = Stop::default();
    let asked = stop.clone();
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
                return;
            };
            for round in 0.. {
                tokio::select! {
                    _ = tokio::signal::ctrl_c() => {}
                    _ = terminate.recv() => {}
                }
                if round > 0 {
                    eprintln!("pollux-testbed: ended in the middle; `pollux-testbed down` removes what is left");
                    std::process::exit(130);
                }
                eprintln!("pollux-testbed: interrupted; {what} (once more: at once)");
                asked.now();
            }
        });
    });
    stop
}

fn reach(cluster: &Cluster) -> Result<()> {
    let address = cluster.api_address()?;
    let bold = |text: String| if std::io::stdout().is_terminal() { format!("\x1b[1m{text}\x1b[0m") } else { text };
    println!("cluster {} on https://{address}", cluster.name());
    println!("  in this shell:  {}", bold(format!(". {}", cluster.env_file().display())));
    println!("  then:           kubectl get nodes");
    println!(
        "  from elsewhere: ssh -L {0}:127.0.0.1:{0} {1}   with a copy of {2}",
        address.port(),
        host(),
        cluster.kubeconfig().display()
    );
    println!("  to end it:      make cluster-down CLUSTER={}", cluster.name());
    Ok(())
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let user = std::env::var("SUDO_USER")
        .or_else(|_| std::env::var("USER"))
        .map(|user| format!("{user}@"))
        .unwrap_or_default();
    format!("{user}{}", name.trim())
}

fn show(cluster: &Cluster) {
    let status = cluster.status();
    let answers = if status.answers { "answers" } else { "does NOT answer" };
    println!("{}: Kubernetes {}, the API server {answers}", status.name, status.kubernetes);
    for (node, ready) in &status.nodes {
        println!("  {node}: {}", if *ready { "Ready" } else { "not Ready" });
    }
    for (daemon, pid) in &status.daemons {
        println!("  {daemon}: {}", pid.map_or_else(|| "dead".to_owned(), |pid| format!("pid {pid}")));
    }
    for (address, target) in &status.forwards {
        println!("  {address} -> {target}");
    }
}
