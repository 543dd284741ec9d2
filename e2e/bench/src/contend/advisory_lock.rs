//! A session's advisory lock, tried each second: the loop that most projects write by hand over what the manual offers
//! (<https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS>).
//!
//! The lock ends with its session, so a process that dies frees it at once and one that stands still keeps it for as long
//! as its connection lives. The leader looks each second whether its session does.

use std::time::Duration;

use anyhow::{Context, Result};
use pollux_clock::BootInstant;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::Client;

use super::{Order, Seat, Voice};

const EVERY: Duration = Duration::from_secs(1);

pub(super) async fn run(seat: Seat, mut orders: UnboundedReceiver<Order>) -> Result<()> {
    let mut voice = Voice::default();
    loop {
        let ended = session(&seat, &mut orders, &mut voice).await;
        voice.stands();
        if ended.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Until the session is lost (an error), or leadership was given away.
async fn session(seat: &Seat, orders: &mut UnboundedReceiver<Order>, voice: &mut Voice) -> Result<()> {
    let (client, _) = seat.connect().await?;
    let mut looks = interval(EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut leads = false;
    loop {
        tokio::select! {
            _ = looks.tick() => {
                if leads {
                    client.batch_execute("SELECT 1").await?;
                } else if locked(&client, seat).await? {
                    leads = true;
                    voice.leads();
                } else {
                    voice.follows();
                }
            }
            order = orders.recv() => if order.context("no orders any more")? == Order::Give && leads {
                let at = BootInstant::now();
                client.execute("SELECT pg_advisory_unlock($1)", &[&seat.number]).await?;
                Voice::gives(at);
                return Ok(());
            },
        }
    }
}

async fn locked(client: &Client, seat: &Seat) -> Result<bool> {
    Ok(client.query_one("SELECT pg_try_advisory_lock($1)", &[&seat.number]).await?.get(0))
}
