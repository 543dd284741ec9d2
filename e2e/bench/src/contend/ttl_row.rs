//! A row that is good for 30 s, looked at every 10 s by everybody: whoever finds it expired, or its own, writes it anew.
//!
//! The plain lease table, dated by the database's clock. The numbers are common, for instance as the "high availability"
//! setting of <https://github.com/adaptive-architecture/common-utilities> (docfx/docs/leader-election-postgresql.md at
//! 12aeef0): 30 s, renewed every 10 s.

use std::time::Duration;

use anyhow::{Context, Result};
use pollux_clock::BootInstant;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Order, Seat, Voice};

const EVERY: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(5);

const TABLE: &str = "CREATE TABLE IF NOT EXISTS ttl_row (election text PRIMARY KEY, holder text NOT NULL, expires_at timestamptz NOT NULL)";
const TAKE: &str = "INSERT INTO ttl_row AS r VALUES ($1, $2, clock_timestamp() + interval '30 s')
    ON CONFLICT (election) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
    WHERE r.holder = excluded.holder OR r.expires_at < clock_timestamp()";
const GIVE: &str = "DELETE FROM ttl_row WHERE election = $1 AND holder = $2";

pub(super) async fn run(seat: Seat, mut orders: UnboundedReceiver<Order>) -> Result<()> {
    let mut voice = Voice::default();
    loop {
        let ended = session(&seat, &mut orders, &mut voice).await;
        voice.stands();
        if ended.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Until the session is lost (an error), or leadership was given away.
async fn session(seat: &Seat, orders: &mut UnboundedReceiver<Order>, voice: &mut Voice) -> Result<()> {
    let (client, _) = seat.connect().await?;
    // Another one may be making it at this moment: the statements below say so if it is not there.
    let _ = client.batch_execute(TABLE).await;
    let mut looks = interval(EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => {
                let taken = timeout(PATIENCE, client.execute(TAKE, &[&seat.election, &seat.me])).await??;
                if taken == 1 {
                    voice.leads();
                } else {
                    voice.stands();
                    voice.follows();
                }
            }
            order = orders.recv() => if order.context("no orders any more")? == Order::Give {
                let at = BootInstant::now();
                client.execute(GIVE, &[&seat.election, &seat.me]).await?;
                Voice::gives(at);
                return Ok(());
            },
        }
    }
}
