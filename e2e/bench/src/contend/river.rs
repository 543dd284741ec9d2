//! The rules of River's elector: <https://github.com/riverqueue/river> v0.43.0 (fdf6cdf), `internal/leadership/elector.go`
//! and `riverdriver/riverpgxv5/internal/dbsqlc/river_leader.sql`.
//!
//! * An UNLOGGED table with one row. To be elected: delete the row if it has expired, insert one, in one transaction.
//! * A follower tries every 5 s and up to 1 s more, or up to 50 ms after it was notified that the leader resigned.
//! * The TTL is 5 s + 10 s. The leader is re-elected every 5 s if the row has not expired, and trusts in it for 1 s less than
//!   the TTL, counted from the moment before the attempt.
//! * An attempt may take 5 s. After an error it is repeated after 1 s, 2 s, 4 s, … ± 10 %.
//! * To resign is to delete the row and to notify, in one statement.
//!
//! River has one row for each schema; here the row's name tells elections apart.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pollux_clock::BootInstant;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_postgres::Client;

use super::{Order, Seat, Voice};

const ELECT_INTERVAL: Duration = Duration::from_secs(5);
const ELECT_JITTER: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(5 + 10);
const SAFETY_MARGIN: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(5);
const AFTER_RESIGNATION: Duration = Duration::from_millis(50);

const TABLE: &str = "CREATE UNLOGGED TABLE IF NOT EXISTS river_leader (
    elected_at timestamptz NOT NULL, expires_at timestamptz NOT NULL, leader_id text NOT NULL, name text PRIMARY KEY)";
const DELETE_EXPIRED: &str = "DELETE FROM river_leader WHERE name = $1 AND expires_at < now()";
const ELECT: &str = "INSERT INTO river_leader (name, leader_id, elected_at, expires_at)
    VALUES ($1, $2, now(), now() + make_interval(secs => $3)) ON CONFLICT (name) DO NOTHING";
const REELECT: &str = "UPDATE river_leader SET expires_at = now() + make_interval(secs => $3)
    WHERE name = $1 AND leader_id = $2 AND expires_at >= now()";
const RESIGN: &str = "WITH held AS (SELECT name FROM river_leader WHERE name = $1 AND leader_id = $2 FOR UPDATE),
    notified AS (SELECT pg_notify('river_' || name, 'resigned') FROM held)
    DELETE FROM river_leader USING notified WHERE name = $1";

/// River has a pool and a notifier that make new connections when one is lost.
struct Elector {
    seat: Seat,
    client: Client,
    listener: Client,
    resigned: UnboundedReceiver<()>,
}

enum Ended {
    Lost,
    Resigned,
}

pub(super) async fn run(seat: Seat, mut orders: UnboundedReceiver<Order>) -> Result<()> {
    let mut voice = Voice::default();
    let mut elector = Elector::connect(seat).await?;
    loop {
        let attempted = elector.follow(&mut voice).await;
        voice.leads();
        match elector.lead(attempted, &mut orders).await? {
            Ended::Resigned => return Ok(()),
            Ended::Lost => voice.stands(),
        }
    }
}

// === impl Elector ===

impl Elector {
    async fn connect(seat: Seat) -> Result<Self> {
        let (client, _) = seat.connect().await?;
        // Another one may be making it at this moment: the statements below say so if it is not there.
        let _ = client.batch_execute(TABLE).await;
        let (listener, resigned) = listen(&seat).await?;
        Ok(Self { seat, client, listener, resigned })
    }

    async fn reconnect(&mut self) -> Result<()> {
        if self.client.is_closed() {
            self.client = self.seat.connect().await?.0;
        }
        if self.listener.is_closed() {
            (self.listener, self.resigned) = listen(&self.seat).await?;
        }
        Ok(())
    }

    /// Until elected; returns the moment before the attempt.
    async fn follow(&mut self, voice: &mut Voice) -> Instant {
        let mut errors = 0;
        loop {
            let attempted = Instant::now();
            match timeout(DEADLINE, self.elect()).await {
                Ok(Ok(true)) => return attempted,
                Ok(Ok(false)) => errors = 0,
                Ok(Err(_)) | Err(_) => {
                    errors += 1;
                    sleep(backoff(errors)).await;
                    continue;
                }
            }
            voice.follows();
            tokio::select! {
                () = sleep(between(ELECT_INTERVAL, ELECT_INTERVAL + ELECT_JITTER)) => {}
                Some(()) = self.resigned.recv() => sleep(between(Duration::ZERO, AFTER_RESIGNATION)).await,
            }
        }
    }

    async fn elect(&mut self) -> Result<bool> {
        self.reconnect().await?;
        let (name, me) = (&self.seat.election, &self.seat.me);
        let transaction = self.client.transaction().await?;
        transaction.execute(DELETE_EXPIRED, &[name]).await?;
        let elected = transaction.execute(ELECT, &[name, me, &TTL.as_secs_f64()]).await?;
        transaction.commit().await?;
        Ok(elected == 1)
    }

    async fn lead(&mut self, attempted: Instant, orders: &mut UnboundedReceiver<Order>) -> Result<Ended> {
        let mut trusted_until = attempted + TTL - SAFETY_MARGIN;
        let (mut due, mut errors) = (Instant::now() + ELECT_INTERVAL, 0);
        loop {
            tokio::select! {
                () = sleep_until(due.into()) => {}
                order = orders.recv() => {
                    if order.context("no orders any more")? == Order::Give {
                        let at = BootInstant::now();
                        self.client.execute(RESIGN, &[&self.seat.election, &self.seat.me]).await?;
                        Voice::gives(at);
                        return Ok(Ended::Resigned);
                    }
                    continue;
                }
            }
            let attempted = Instant::now();
            let left = trusted_until.saturating_duration_since(attempted);
            if left.is_zero() {
                return Ok(Ended::Lost);
            }
            match timeout(left.min(DEADLINE), self.reelect()).await {
                Ok(Ok(true)) => {
                    (trusted_until, errors) = (attempted + TTL - SAFETY_MARGIN, 0);
                    due = Instant::now() + ELECT_INTERVAL;
                }
                Ok(Ok(false)) => return Ok(Ended::Lost),
                Ok(Err(_)) | Err(_) => {
                    errors += 1;
                    due = (Instant::now() + backoff(errors)).min(trusted_until);
                }
            }
        }
    }

    async fn reelect(&mut self) -> Result<bool> {
        self.reconnect().await?;
        let (name, me) = (&self.seat.election, &self.seat.me);
        Ok(self.client.execute(REELECT, &[name, me, &TTL.as_secs_f64()]).await? == 1)
    }
}

async fn listen(seat: &Seat) -> Result<(Client, UnboundedReceiver<()>)> {
    let (listener, resigned) = seat.connect().await?;
    listener.batch_execute(&format!("LISTEN river_{}", seat.election)).await?;
    Ok((listener, resigned))
}

fn between(from: Duration, to: Duration) -> Duration {
    rand::random_range(from..=to)
}

fn backoff(errors: u32) -> Duration {
    Duration::from_secs(1 << errors.saturating_sub(1).min(2)).mul_f64(rand::random_range(0.9..=1.1))
}
