//! The floor: one commit that notifies, and a read by whoever is notified. No compare-and-set, no epoch, no log, no safety.
//!
//! The same two processes, the same runtime and the same readings of the clock as for the lease, so that what a handover
//! costs beyond this is the protocol.

use anyhow::{Context, Result, ensure};
use pollux_clock::BootInstant;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_postgres::types::Type;

use super::{Order, Seat, Voice};

const TABLE: &str = "CREATE TABLE IF NOT EXISTS bare (election text PRIMARY KEY, giver text NOT NULL)";
const BEGIN: &str = "INSERT INTO bare VALUES ($1, '') ON CONFLICT DO NOTHING";
const GIVE: &str = "WITH given AS (UPDATE bare SET giver = $2 WHERE election = $1 RETURNING election)
                    SELECT pg_notify('bare_' || election, '') FROM given";
const READ: &str = "SELECT giver FROM bare WHERE election = $1";

/// The first to come leads; from then on whoever did not give.
pub(super) async fn run(seat: Seat, mut orders: UnboundedReceiver<Order>) -> Result<()> {
    let mut voice = Voice::default();
    let (client, mut woken) = seat.connect().await?;
    client.batch_execute(&format!("LISTEN bare_{}", seat.election)).await?;
    let _ = client.batch_execute(TABLE).await;
    let first = client.execute(BEGIN, &[&seat.election]).await? == 1;
    if first {
        voice.leads()
    } else {
        voice.follows()
    }
    let mut own = 0;
    loop {
        tokio::select! {
            noticed = woken.recv() => {
                noticed.context("the connection is gone")?;
                if own > 0 {
                    own -= 1; // what it notified of itself
                    continue;
                }
                let row = client.query_typed_one(READ, &[(&seat.election, Type::TEXT)]).await?;
                if row.get::<_, &str>(0) == seat.me { voice.follows() } else { voice.leads() }
            }
            order = orders.recv() => if order.context("no orders any more")? == Order::Give {
                let at = BootInstant::now();
                own += 1;
                let rows = client.query_typed(GIVE, &[(&seat.election, Type::TEXT), (&seat.me, Type::TEXT)]).await?;
                ensure!(rows.len() == 1, "there is no row");
                Voice::gives(at);
                voice.follows();
            },
        }
    }
}
