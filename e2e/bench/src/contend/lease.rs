//! This project's lease, as an agent uses it.

use anyhow::{Context, Result};
use pollux_lease::{BootInstant, BotKey, Config, HandOver, HandedOver, Lease, Reason, Replica, Resource, TokenDigest};
use tokio::sync::mpsc::UnboundedReceiver;

use super::{Order, Seat, Voice};

pub(super) async fn run(seat: Seat, mut orders: UnboundedReceiver<Order>) -> Result<()> {
    let mut voice = Voice::default();
    // An agent reads its URI from a mounted Secret.
    let secret = tempfile::NamedTempFile::new()?;
    std::fs::write(secret.path(), &seat.uri)?;
    let lease = Lease::spawn(config(&seat, secret.path().to_owned()));
    lease.set_ready(true);
    let mut view = lease.view();
    loop {
        tokio::select! {
            changed = view.changed() => {
                changed.context("the lease's task is gone")?;
                let now = view.borrow_and_update();
                if now.role.may_poll(BootInstant::now()) {
                    voice.leads();
                } else {
                    voice.stands();
                    if now.database.is_up() && now.holder.as_ref().is_some_and(|holder| !holder.me) {
                        voice.follows();
                    }
                }
            }
            order = orders.recv() => match order.context("no orders any more")? {
                Order::Expect => lease.expect_handover(true),
                Order::Give => {
                    let at = BootInstant::now();
                    let outcome = lease.hand_over(HandOver::new(Reason::Manual)).await;
                    if matches!(outcome, HandedOver::To { .. }) { Voice::gives(at) } else { Voice::frees(at) }
                }
            },
        }
    }
}

fn config(seat: &Seat, database_file: std::path::PathBuf) -> Config {
    let resource = Resource { cluster: "bench".into(), namespace: "bench".into(), name: seat.election.clone() };
    let replica = Replica {
        resource,
        pod: seat.me.clone(),
        pod_uid: format!("uid-of-{}", seat.me),
        node: format!("node-of-{}", seat.me),
        revision: "r1".into(),
    };
    Config {
        database_file,
        bot: BotKey { bot_id: seat.number, server: "https://api.telegram.org".into() },
        token: TokenDigest::of(&format!("{}:bench", seat.number)),
        replica,
        // A pod that is gone with its node: nobody restarts in its place.
        alive_file: None,
        default_ttl: seat.ttl(),
    }
}
