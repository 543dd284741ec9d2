//! `pollux-botapi`: the emulator as a server of its own.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context;
use clap::Parser;
use pollux_botapi::{Emulator, Options, TlsFiles};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// An emulator of Telegram's Bot API server with a ledger of every update.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Where bots connect to.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The admin port, with the lanes page at `/`.
    #[arg(long, default_value = "127.0.0.1:8090")]
    admin: SocketAddr,
    /// Serve bots over TLS with this certificate chain (PEM).
    #[arg(long, requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let cli = Cli::parse();
    let tls = cli.tls_cert.zip(cli.tls_key).map(|(cert, key)| TlsFiles { cert, key });
    // Before the ports are open: a process 1 without handlers ignores both signals.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let options = Options { listen: cli.listen, admin: cli.admin, tls };
    let emulator = Emulator::start(options).await.context("cannot start the emulator")?;
    println!("Bot API {}", emulator.url());
    println!("lanes   {}", emulator.admin_url());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    emulator.shutdown();
    Ok(())
}
