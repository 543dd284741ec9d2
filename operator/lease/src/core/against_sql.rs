//! The server in Rust, which the model and the simulation rely on, against the one in SQL: the same statements, the same answers.

use std::time::Duration;

use pollux_postgres::{Options, Server as Postgres};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_postgres::types::Type;

use super::server::{Asker, Moment, Server};
use super::*;
use crate::admin::Admin;
use crate::database::Database;
use crate::identity::{BotKey, HolderId, Replica, Resource, TokenDigest};
use crate::session::Session;
use crate::statements::Caller;
use crate::view::{HandOver, Reason};

const PATIENCE: Duration = Duration::from_secs(20);
/// In Rust it is always this time; in SQL ages are set.
const NOW: Duration = Duration::from_secs(100);
const INCARNATION: u32 = 7;

struct Both {
    random: StdRng,
    session: Session,
    /// What the real server calls its incarnation.
    name: String,
    callers: Vec<Caller>,
    server: Server,
    beat: i64,
    now: Moment,
}

// === impl Both ===

impl Both {
    async fn new(postgres: &Postgres, seed: u64) -> Self {
        let uri = postgres.create_database(&format!("s{seed}")).unwrap();
        let database = Database::parse(&uri).unwrap();
        Admin::connect(&database).await.unwrap().migrate().await.unwrap();
        let (session, _) = Session::open(&database, "against", PATIENCE).await.unwrap();
        session.batch("ALTER TABLE pollux.lease ALTER epoch SET DEFAULT 0", PATIENCE).await.unwrap();
        let name = session.one("SELECT pollux.incarnation()", &[], PATIENCE).await.unwrap().get(0);
        let now = Moment { now: NOW, incarnation: INCARNATION, without: None };
        let server = Server { written_in: INCARNATION, ..Server::default() };
        let callers = (0..3).map(caller).collect();
        Self { random: StdRng::seed_from_u64(seed), session, name, callers, server, beat: 0, now }
    }

    async fn sql(&self, text: &str) {
        self.session.batch(text, PATIENCE).await.unwrap();
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    /// Right, or near it.
    fn near(&mut self, number: i64) -> i64 {
        if self.chance(85) { number } else { number + self.random.random_range(-1..=1) }
    }

    fn call(&mut self) -> Call {
        let row = self.server.row.clone();
        let (epoch, renew_seq) = (self.near(row.epoch), self.near(row.renew_seq));
        let ttl = Duration::from_secs(self.random.random_range(3..20));
        match self.random.random_range(0..12) {
            0..4 => Call::Beat(self.sign()),
            4 => {
                let session = self.chance(50).then_some(types::SessionProof { key: 5, fence_ms: 1000 });
                Call::Renew { epoch, renew_seq, ttl, session, sign: self.sign() }
            }
            5 => Call::Acquire { epoch, ttl },
            6 | 7 => {
                let evidence = [Evidence::Ttl, Evidence::Pod, Evidence::Session, Evidence::Free];
                let evidence = evidence[self.random.random_range(0..evidence.len())];
                Call::Takeover { epoch, renew_seq, evidence, ttl, vacate: self.chance(30) }
            }
            8 => Call::Expect { epoch, expected: self.chance(60) },
            9 | 10 => {
                let otherwise = [Otherwise::Keep, Otherwise::Wait, Otherwise::Release][self.random.random_range(0..3)];
                let to_pod = self.chance(20).then(|| "p1".to_owned());
                Call::Handover { epoch, ttl, otherwise, order: HandOver { to_pod, ..HandOver::new(Reason::Manual) } }
            }
            _ if self.chance(30) => Call::Depart,
            _ => Call::Look,
        }
    }

    fn sign(&mut self) -> Sign {
        self.beat += 1;
        let beat = if self.chance(95) { self.beat } else { 1 };
        Sign { beat, ready: self.chance(80), leaving: self.chance(15), locked: self.chance(70), report: None }
    }

    /// What only time would do: beats grow old, the server restarts, settings come.
    async fn meanwhile(&mut self) {
        // Ties are broken by the time since when a candidate is ready; here by its name.
        self.sql("UPDATE pollux.candidate SET ready_since = timestamptz '2020-01-01' + ascii(right(id, 1)) * interval '1 s' WHERE ready")
            .await;
        for n in 0..self.callers.len() {
            let id = self.callers[n].me.id.as_str().to_owned();
            let age: u64 = [0, 0, 0, 0, 1, 60][self.random.random_range(0..6)];
            let Some(known) = self.server.candidates.get_mut(&id) else { continue };
            known.at = NOW - Duration::from_secs(age);
            // Somewhat younger than that, so that it is what it should be for half a second.
            let aged = "UPDATE pollux.candidate SET beat_at = clock_timestamp() + interval '250 ms'";
            self.sql(&format!("{aged} - interval '{age} s' WHERE id = '{id}'")).await;
        }
        if self.chance(4) {
            self.server.written_in = 0;
            self.sql("UPDATE pollux.lease SET incarnation = 'earlier'").await;
        }
        if self.chance(3) && self.server.row.holder.is_some() && !self.server.row.release {
            self.server.force_release();
            self.sql("UPDATE pollux.lease SET release = '{}' WHERE holder IS NOT NULL").await;
        }
        if self.chance(4) {
            let list: &[&str] = if self.chance(50) { &["r1", "r0"] } else { &["r0"] };
            self.server.set(Duration::from_secs(10), Some(list), false);
            let json = self.server.setting.as_ref().unwrap().json.to_string();
            let list = list.join(",");
            self.sql(&format!("SELECT pollux.put_setting('c', 'n', 'b', 1, '{{{list}}}', '{json}')")).await;
        }
    }

    /// Returns false if the machine stood still for so long that ages are not what they were set to.
    async fn compare(&mut self) -> bool {
        let start = BootInstant::now();
        self.meanwhile().await;
        let n = self.random.random_range(0..self.callers.len());
        let (call, known) = (self.call(), !self.chance(4));
        let top = self.near(self.server.row.epoch).max(0);
        let said = |incarnation: &str| Statement {
            call: call.clone(),
            known: Known { incarnation: if known { incarnation.to_owned() } else { "another".to_owned() }, epoch: top },
        };
        let (before, settled) = (self.server.row.epoch, self.server.written_in == INCARNATION);
        let time = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
        let earlier: i64 = self.session.one(time, &[], PATIENCE).await.unwrap().get(0);
        let real = self.callers[n].run(&self.session, &said(&self.name), PATIENCE).await.unwrap();
        let asker =
            Asker { id: self.callers[n].me.id.as_str().to_owned(), replica: self.callers[n].me.replica.clone() };
        if BootInstant::now() - start > Duration::from_millis(500) {
            return false;
        }
        let (mut ours, _) = self.server.carry_out(self.now, &asker, &said(&INCARNATION.to_string()));
        let Some(row) = real.lease.clone() else { panic!("no row: {call:?}") };
        if row.epoch != before && (!settled || top > before) {
            // It goes on from the time, which is not the same here and there.
            assert!(row.epoch > before && row.epoch > top, "{call:?}: {} after {before}, {top} was seen", row.epoch);
            assert!(row.epoch >= earlier, "{call:?}: {} does not go on from {earlier}", row.epoch);
            self.server.row.epoch = row.epoch;
            ours.lease.as_mut().unwrap().epoch = row.epoch;
        }
        ours.incarnation.clone_from(&self.name);
        assert_eq!(real, ours, "{} says {said:?}", asker.id, said = said("it"));
        true
    }
}

fn caller(n: usize) -> Caller {
    let replica = Replica {
        resource: Resource { cluster: "c".into(), namespace: "n".into(), name: "b".into() },
        pod: format!("p{n}"),
        pod_uid: format!("u{}", n / 2),
        node: format!("n{}", n % 2),
        revision: format!("r{}", n % 2),
    };
    let me = Me { id: HolderId::named(&format!("id{n}")), replica, file_lock: true };
    let bot = BotKey { bot_id: 1, server: "s".into() };
    Caller { bot, token: TokenDigest::of("1:a"), new_tokens: std::collections::VecDeque::new(), me }
}

#[tokio::test]
async fn the_server_in_rust_is_the_one_in_sql() {
    let postgres = Postgres::start(&Options::default()).unwrap();
    let mut epochs = 0;
    let (mut compared, mut seed) = (0, 0);
    while compared < 3600 {
        seed += 1;
        let mut both = Both::new(&postgres, seed).await;
        // The row is there from the first beat on.
        let first = Statement { call: Call::Beat(both.sign()), known: Known::default() };
        both.callers[0].run(&both.session, &first, PATIENCE).await.unwrap();
        let asker = Asker { id: "id0".into(), replica: both.callers[0].me.replica.clone() };
        both.server.carry_out(both.now, &asker, &first);
        for _ in 0..600 {
            let before = both.server.row.epoch;
            // After a stall of the machine with another one.
            if !both.compare().await {
                break;
            }
            compared += 1;
            epochs += u32::from(both.server.row.epoch != before);
        }
        let row = both
            .session
            .one("SELECT count(*) FROM pollux.handover WHERE $1", &[(&true, Type::BOOL)], PATIENCE)
            .await
            .unwrap();
        assert!(row.get::<_, i64>(0) > 0);
    }
    assert!(epochs > 100, "too little happened to show anything: {epochs} epochs");
}
