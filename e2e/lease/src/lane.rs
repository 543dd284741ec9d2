//! A lane: a process with a PostgreSQL and pods' networks of its own, that runs one schedule after the other. It is told seeds
//! on its standard input and writes one [`Outcome`] for each on its standard output.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use pollux_lease::{Database, admin::Admin};
use pollux_postgres::{Options, Server};
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls, Row};

use crate::network::{self, Network};
use crate::orders::orders;
use crate::plan::{Kind, Plan, parse};
use crate::report::Outcome;
use crate::schedule;

/// The database in which the leases are.
pub(crate) const DATABASE: &str = "lease";
/// Where a schedule notes what a database that goes back in time has to forget.
pub(crate) const MARK: &str = "public.mark";
/// The most contenders that a plan has.
const PODS: u8 = 4;
/// How long a question of the lane's own may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a lane is told.
#[derive(Args, Clone, Debug)]
pub(crate) struct Told {
    /// The faults that there are
    #[arg(long)]
    pub(crate) faults: String,
    /// Pods have network namespaces
    #[arg(long)]
    pub(crate) isolated: bool,
    /// The database's wall clock can be shifted
    #[arg(long)]
    pub(crate) shiftable: bool,
}

/// What outlives a schedule.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) server: Server,
    pub(crate) networks: Vec<Network>,
    client: Option<(u16, Client)>,
}

/// Reads seeds and runs their schedules until nobody asks for more.
pub(crate) async fn serve(told: Told) -> Result<()> {
    let kinds = parse(&told.faults).map_err(anyhow::Error::msg)?;
    if told.isolated {
        network::loopback_up()?;
    }
    let mut lane = Lane::new(&told).await?;
    let mut seeds = orders();
    while let Some(seed) = seeds.recv().await {
        let outcome = run(&mut lane, seed.parse()?, &kinds).await;
        println!("{}", serde_json::to_string(&outcome)?);
        if outcome.failure.is_some() {
            // Who knows what it left.
            drop(lane);
            lane = Lane::new(&told).await?;
        }
    }
    Ok(())
}

async fn run(lane: &mut Lane, seed: u64, kinds: &[Kind]) -> Outcome {
    schedule::run(lane, seed, &Plan::new(seed, kinds)).await
}

// === impl Lane ===

impl Lane {
    async fn new(told: &Told) -> Result<Self> {
        // Nothing but commits writes the log out, so that what is lost without them is lost for sure.
        let settings = [("checkpoint_timeout", "1d"), ("autovacuum", "off")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let server = Server::start(&Options { settings, shiftable: told.shiftable, ..Options::default() })?;
        let owner = server.create_database(DATABASE)?;
        Admin::connect(&Database::parse(&owner)?).await?.migrate().await?;
        server.ask(DATABASE, &format!("CREATE TABLE {MARK} (bot bigint, epoch bigint)"))?;
        let networks = (0..PODS).map(|n| if told.isolated { Network::isolated(n) } else { Ok(Network::shared()) });
        Ok(Self { server, networks: networks.collect::<Result<_>>()?, client: None })
    }

    /// The first row of an answer of the database, asked past all proxies.
    pub(crate) async fn query(&mut self, sql: &str) -> Result<Option<Row>> {
        let port = self.server.port();
        let client = match self.client.take() {
            Some((known, client)) if known == port && !client.is_closed() => client,
            _ => {
                let uri = self.server.uri_for(DATABASE, port);
                let (client, connection) = timeout(PATIENCE, tokio_postgres::connect(&uri, NoTls)).await??;
                tokio::spawn(connection);
                client
            }
        };
        let rows = timeout(PATIENCE, client.query_typed(sql, &[])).await.context("the database does not answer")??;
        // After an error it is not used again.
        self.client = Some((port, client));
        Ok(rows.into_iter().next())
    }
}
