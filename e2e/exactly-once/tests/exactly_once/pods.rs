//! Telegram, two pods with a real gate each, and the bot's database; everything that a bot sends passes where it can be held.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use pollux_botapi::{Emulator, Options, Push};
use pollux_clock::BootInstant;
use pollux_exactly_once::block;
use pollux_gate::{Config, Gate, Leadership, Settings, Upstream};
use pollux_postgres::Proxy;
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::bots::{Bot, Language};
use crate::database::{Db, PATIENCE, server};

const TOKEN: &str = "4242:secret-of-the-bot";

/// Everything but the bots' processes.
pub(crate) struct World {
    pub(crate) db: Db,
    emulator: Emulator,
    language: Language,
    pushed: Vec<i32>,
    folder: TempDir,
}

/// A gate, and the way from its bot to it and to the database.
pub(crate) struct Pod {
    pub(crate) api: Proxy,
    pub(crate) sql: Proxy,
    gate: Gate,
    language: Language,
    environment: Vec<(&'static str, String)>,
    output: PathBuf,
}

// === impl World ===

impl World {
    pub(crate) async fn new(language: Language) -> Self {
        let db = Db::new().await;
        db.session().await.run(&block("orders.sql")).await;
        let emulator = Emulator::start(Options::default()).await.unwrap();
        emulator.add_bot(TOKEN, "order_bot").unwrap();
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("token"), TOKEN).unwrap();
        Self { db, emulator, language, pushed: Vec::new(), folder }
    }

    pub(crate) async fn pod(&self, name: &str) -> Pod {
        let upstream =
            Upstream { url: self.emulator.lane(name).await.unwrap().parse().unwrap(), ca_pem: None, proxy: None };
        let token_file = self.folder.path().join("token");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = Proxy::start(listener.local_addr().unwrap().port()).unwrap();
        let sql = Proxy::start(server().port()).unwrap();
        let environment = vec![
            ("TELEGRAM_API_ROOT", format!("http://127.0.0.1:{}", api.port())),
            ("TELEGRAM_BOT_TOKEN_FILE", token_file.display().to_string()),
            ("DATABASE_URL", server().uri_for(&self.db.name, sql.port())),
        ];
        let gate = Gate::start(Config { token_file, upstream, settings: Settings::default() }, listener).unwrap();
        Pod { api, sql, gate, language: self.language, environment, output: self.folder.path().join(name) }
    }

    /// Somebody writes to the bot.
    pub(crate) fn push(&mut self, count: u32) {
        self.pushed.extend(self.emulator.push(TOKEN, Push { count, ..Push::default() }).unwrap());
    }

    /// The id that the next update will have.
    pub(crate) fn next_id(&self) -> i32 {
        self.pushed.last().expect("an update was pushed before") + 1
    }

    /// Waits until Telegram has been told that all of them are done.
    pub(crate) async fn all_confirmed(&self, bot: &Bot) {
        let confirmed =
            |emulator: &Emulator| emulator.ledger(TOKEN).unwrap().updates.iter().all(|u| u.removed.is_some());
        assert!(self.emulator.until(PATIENCE, confirmed).await, "updates are left: {}", bot.said());
    }

    /// How many updates were delivered more than once.
    pub(crate) fn delivered_again(&self) -> usize {
        self.emulator.ledger(TOKEN).unwrap().updates.iter().filter(|update| update.deliveries.len() > 1).count()
    }

    /// Effects by update: those that do not have just one.
    pub(crate) async fn not_once(&self) -> BTreeMap<i32, i64> {
        let session = self.db.session().await;
        let mut effects: BTreeMap<i32, i64> = self.pushed.iter().map(|id| (*id, 0)).collect();
        for row in session.client.query("SELECT text, count(*) FROM orders GROUP BY text", &[]).await.unwrap() {
            let id = row.get::<_, &str>(0).strip_prefix('#').and_then(|id| id.parse().ok()).unwrap();
            effects.insert(id, row.get(1));
        }
        effects.retain(|_, count| *count != 1);
        effects
    }

    /// Waits until there are so many effects.
    pub(crate) async fn effects(&self, count: i64, bot: &Bot) {
        let session = self.db.session().await;
        let counting = async {
            while session.one::<i64>("SELECT count(*) FROM orders").await < count {
                tokio::task::yield_now().await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, counting).await.is_ok(), "not {count} effects: {}", bot.said());
    }
}

// === impl Pod ===

impl Pod {
    pub(crate) fn start(&self) -> Bot {
        Bot::start(self.language, &self.environment, self.output.clone())
    }

    pub(crate) fn lead(&self, epoch: i64) {
        let fence = BootInstant::now() + Duration::from_secs(600);
        self.gate.set_leadership(Leadership::Leader { epoch, fence });
    }

    pub(crate) fn stand_by(&self) {
        self.gate.set_leadership(Leadership::Standby);
    }

    /// What is held goes nowhere: its connections end first.
    pub(crate) fn drop_what_is_held(&self) {
        for proxy in [&self.api, &self.sql] {
            proxy.end_all();
            proxy.let_go();
        }
    }
}
