//! `pollux-controller`: turns TelegramBots into Deployments and tells in their status who leads.

use clap::{Parser, Subcommand};

/// The controller of Pollux.
#[derive(Parser)]
#[command(name = "pollux-controller", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the CustomResourceDefinition as YAML.
    Crd,
}

fn main() {
    match Cli::parse().command {
        Command::Crd => print!("{}", pollux_api::manifest::crd_yaml()),
    }
}
