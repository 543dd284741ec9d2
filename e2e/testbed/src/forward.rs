//! A port on the host's 127.0.0.1 for an address inside a cluster.
//!
//! The host gets no route or rule for it: the listening socket is opened here and handed, as standard input, to a process in
//! the namespace, which accepts there and connects there. That process is `pollux-testbed serve-forward`.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

use crate::layout::Layout;
use crate::process::run;

/// Opens `127.0.0.1:port` (0: any free one) and starts the process that serves it.
pub(crate) fn open(layout: &Layout, name: &str, namespace: &str, target: &str, port: u16) -> Result<SocketAddr> {
    let target: SocketAddr = target.parse().with_context(|| format!("{target} is no ADDRESS:PORT"))?;
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("cannot listen on 127.0.0.1:{port}"))?;
    let address = listener.local_addr()?;
    let words = [helper()?.to_string_lossy().into_owned(), "serve-forward".to_owned(), target.to_string()];
    layout.start(name, &layout.enter(namespace, None)?, &words, Some(OwnedFd::from(listener)))?;
    crate::paths::write(&layout.folder.join("forwards").join(name), format!("{address} {target}\n"))?;
    Ok(address)
}

/// The open ports and where they lead to.
pub(crate) fn list(layout: &Layout) -> Vec<(SocketAddr, String)> {
    let entries = std::fs::read_dir(layout.folder.join("forwards")).into_iter().flatten().flatten();
    let open = entries.filter(|entry| layout.pid(&entry.file_name().to_string_lossy()).is_some()).filter_map(|entry| {
        let text = std::fs::read_to_string(entry.path()).ok()?;
        let (address, target) = text.trim().split_once(' ')?;
        Some((address.parse().ok()?, target.to_owned()))
    });
    let mut open: Vec<_> = open.collect();
    open.sort();
    open
}

/// `10.96.3.4:80` as it is; `service/NAMESPACE/NAME:PORT` as the service's address and that port.
pub(crate) fn resolve(layout: &Layout, target: &str) -> Result<String> {
    let Some(service) = target.strip_prefix("service/") else { return Ok(target.to_owned()) };
    let parts = service.split_once('/').and_then(|(namespace, rest)| Some((namespace, rest.rsplit_once(':')?)));
    let Some((namespace, (name, port))) = parts else { bail!("{target} is not service/NAMESPACE/NAME:PORT") };
    let text = run(layout.kubectl().args(["get", "service", "-n", namespace, name, "-o", "json"]))?;
    let service: Value = serde_json::from_str(&text)?;
    match service["spec"]["clusterIP"].as_str() {
        Some(address) if address != "None" => Ok(format!("{address}:{port}")),
        _ => bail!("the service {namespace}/{name} has no cluster IP: name the address of a pod"),
    }
}

/// The program that can serve: `pollux-testbed`, wherever this library is used from.
fn helper() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("POLLUX_TESTBED_PROGRAM") {
        return Ok(named.into());
    }
    let own = std::env::current_exe()?;
    // Beside this program, or one up: cargo keeps programs of tests in target/debug/deps.
    let near = own.ancestors().skip(1).take(2).map(|folder| folder.join("pollux-testbed"));
    near.into_iter().find(|path| path.is_file()).with_context(|| {
        format!(
            "no pollux-testbed near {}: build it (cargo build -p pollux-testbed) or name it in POLLUX_TESTBED_PROGRAM",
            own.display()
        )
    })
}

/// Accepts on standard input, a listening socket, and passes every connection on. Never returns.
pub fn serve(target: SocketAddr) -> Result<()> {
    let listener = TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    listener.set_nonblocking(true).context("standard input is no listening socket")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            match listener.accept().await {
                Ok((connection, _)) => {
                    tokio::spawn(pass(connection, target));
                }
                // Out of descriptors: they come back when connections end.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    })
}

async fn pass(mut connection: TcpStream, target: SocketAddr) {
    // Either side's end ends the other; there is nobody to tell.
    if let Ok(mut inside) = TcpStream::connect(target).await {
        let _ = connection.set_nodelay(true);
        let _ = inside.set_nodelay(true);
        let _ = copy_bidirectional(&mut connection, &mut inside).await;
    }
}
