//! `pollux-botapi`: the emulator as a server of its own.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context;
use clap::Parser;
use pollux_botapi::{Emulator, Options, TlsFiles, WebhookOptions};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// An emulator of Telegram's Bot API server with a ledger of every update.
#[derive(Parser)]
#[command(version, after_help = HELP)]
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
    /// Deliver to `http:` webhooks, too (Telegram refuses them).
    #[arg(long)]
    webhook_http: bool,
    /// Trust these certificate authorities (PEM) when delivering to webhooks, besides the well-known ones.
    #[arg(long)]
    webhook_ca: Option<PathBuf>,
    /// Answer 429 like Telegram: a message a second per chat, 20 a minute per group, 30 a second in all.
    #[arg(long)]
    flood_limits: bool,
}

const HELP: &str = "\
In CI, in five lines:
  pollux-botapi &
  curl -d '{\"token\":\"1:secret\",\"username\":\"my_bot\"}' localhost:8090/bots
  … start the bot with the token 1:secret and the API root http://127.0.0.1:8080
  curl -d '{\"token\":\"1:secret\",\"count\":100}' localhost:8090/push; … restart the bot …
  curl 'localhost:8090/settled?timeout=30'; curl localhost:8090/verdict

A bot answers an update by a sendMessage whose text contains that of the update (`#<update_id>`): an echo is enough.
The verdict says what was lost, answered twice, in conflict. Faults: POST /faults; the clock: POST /clock; connections:
GET /connections. http://127.0.0.1:8090/ shows who polls. All requests and all differences from the real server: README.md.";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let cli = Cli::parse();
    let tls = cli.tls_cert.zip(cli.tls_key).map(|(cert, key)| TlsFiles { cert, key });
    // Before the ports are open: a process 1 without handlers ignores both signals.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let webhooks = WebhookOptions { http: cli.webhook_http, ca: cli.webhook_ca };
    let options = Options { listen: cli.listen, admin: cli.admin, tls, webhooks, flood_limits: cli.flood_limits };
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
