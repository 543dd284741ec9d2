//! The page's programs, killed at every step and paused at the worst moment, with their effects counted.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pollux_exactly_once::block;
use pollux_postgres::Proxy;
use rand::RngExt;
use tempfile::TempDir;

use crate::bots::Language;
use crate::database::{CLAIM, Db, FENCE, PATIENCE, server};
use crate::pods::{Pod, World};

/// A bot that does not wait for its commit confirms within this time.
const TOO_EARLY: Duration = Duration::from_millis(300);

/// How far a bot has come when it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    BeforeTheTransaction,
    /// Of the second update of three.
    WithinTheTransaction,
    BeforeTheCommit,
    BeforeItHearsOfTheCommit,
    BeforeTheConfirmation,
}

// === impl Step ===

impl Step {
    const ALL: [Self; 5] = [
        Self::BeforeTheTransaction,
        Self::WithinTheTransaction,
        Self::BeforeTheCommit,
        Self::BeforeItHearsOfTheCommit,
        Self::BeforeTheConfirmation,
    ];

    /// Lets the bot come so far with the updates that are pushed next, and no further; how many are to be pushed.
    fn arm(self, pod: &Pod, next: i32) -> u32 {
        let confirmation = format!("offset={} ", next + 1);
        match self {
            Self::BeforeTheTransaction => pod.api.hold("GET /leader"),
            Self::WithinTheTransaction => pod.sql.hold(&format!("#{}", next + 1)),
            Self::BeforeTheCommit => {
                pod.sql.hold("COMMIT");
                pod.api.hold(&confirmation);
                return 1;
            }
            Self::BeforeItHearsOfTheCommit => pod.sql.lose_replies_to("COMMIT", 1),
            Self::BeforeTheConfirmation => {
                pod.api.hold(&confirmation);
                return 1;
            }
        }
        3
    }

    /// The connection at which it stops.
    fn at(self, pod: &Pod) -> &Proxy {
        match self {
            Self::BeforeTheTransaction | Self::BeforeTheConfirmation => &pod.api,
            Self::WithinTheTransaction | Self::BeforeTheCommit | Self::BeforeItHearsOfTheCommit => &pod.sql,
        }
    }
}

fn held(proxy: &Proxy, patience: Duration) -> bool {
    tokio::task::block_in_place(|| proxy.wait_until_held(patience))
}

/// Starts a bot, kills it at each of these steps and starts it again; what did not happen just once.
async fn killed_at(world: &mut World, steps: &[Step]) -> BTreeMap<i32, i64> {
    let pod = world.pod("a").await;
    pod.lead(1);
    let mut bot = pod.start();
    world.push(1);
    world.all_confirmed(&bot).await;
    for step in steps {
        let count = step.arm(&pod, world.next_id());
        world.push(count);
        if *step == Step::BeforeItHearsOfTheCommit {
            // Its connection ends with the answer, and so does it.
            assert!(!bot.ended().await.0.success());
            assert_eq!(pod.sql.lost(), 1);
        } else {
            assert!(held(step.at(&pod), PATIENCE), "{step:?} was never reached: {}", bot.said());
            if *step == Step::BeforeTheCommit {
                assert!(!held(&pod.api, TOO_EARLY), "it confirms what is not committed");
            }
            bot.kill();
            pod.drop_what_is_held();
        }
        bot = pod.start();
        world.all_confirmed(&bot).await;
    }
    bot.kill();
    world.not_once().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bot_that_is_killed_at_any_step_has_every_effect_once() {
    for language in Language::ALL {
        let mut world = World::new(language).await;
        assert_eq!(killed_at(&mut world, &Step::ALL).await, BTreeMap::new(), "{language:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_bot_without_the_kit_has_effects_twice() {
    for language in Language::ALL {
        for step in [Step::BeforeItHearsOfTheCommit, Step::BeforeTheConfirmation] {
            let mut world = World::new(language).await;
            world.db.disarm(&[FENCE, CLAIM]).await;
            let doubled = killed_at(&mut world, &[step]).await;
            assert_eq!(doubled.into_values().collect::<Vec<_>>(), [2], "{language:?} {step:?}");
        }
    }
}

/// A leader pauses before its transaction and goes on when the next one has processed what it had in hand; what did not
/// happen just once, and what the old leader's bot said when it ended (if it did).
async fn paused(language: Language, disarmed: &[&str]) -> (BTreeMap<i32, i64>, Option<String>) {
    let mut world = World::new(language).await;
    world.db.disarm(disarmed).await;
    let (a, b) = (world.pod("a").await, world.pod("b").await);
    a.lead(1);
    let (old, new) = (a.start(), b.start());
    world.push(1);
    world.all_confirmed(&old).await;
    a.sql.hold("BEGIN");
    world.push(2);
    assert!(held(&a.sql, PATIENCE), "{}", old.said());
    a.stand_by();
    b.lead(2);
    world.all_confirmed(&new).await;
    a.sql.let_go();
    let said = if disarmed.contains(&FENCE) {
        world.effects(5, &old).await;
        None
    } else {
        let (status, said) = old.ended().await;
        assert!(!status.success());
        Some(said)
    };
    (world.not_once().await, said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_leaders_bot_writes_nothing_when_it_goes_on() {
    for language in Language::ALL {
        // The fence alone is enough for this.
        for disarmed in [&[][..], &[CLAIM][..]] {
            let (not_once, said) = paused(language, disarmed).await;
            assert_eq!(not_once, BTreeMap::new(), "{language:?}, without {disarmed:?}");
            let said = said.expect("it ends");
            assert!(said.contains("a later leader than 1 has written"), "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_leaders_bot_without_the_kit_writes_again_what_the_next_one_has_written() {
    for language in Language::ALL {
        let (doubled, _) = paused(language, &[FENCE, CLAIM]).await;
        assert_eq!(doubled.into_values().collect::<Vec<_>>(), [2, 2], "{language:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bots_that_are_killed_at_random_while_the_leader_changes_have_every_effect_once() {
    const KILLS: usize = 10;
    const UPDATES: u32 = 6;
    for language in Language::ALL {
        let mut world = World::new(language).await;
        let pods = [world.pod("a").await, world.pod("b").await];
        let mut bots = pods.each_ref().map(|pod| Some(pod.start()));
        for kill in 0..=KILLS {
            let (leads, waits) = (kill % 2, (kill + 1) % 2);
            pods[waits].stand_by();
            pods[leads].lead(i64::try_from(kill).unwrap() + 1);
            let bot = bots[leads].take().expect("it runs");
            world.push(UPDATES);
            if kill == KILLS {
                world.all_confirmed(&bot).await;
                break;
            }
            let more = rand::rng().random_range(1..UPDATES);
            world.effects(i64::try_from(kill).unwrap() * i64::from(UPDATES) + i64::from(more), &bot).await;
            bot.kill();
            bots[leads] = Some(pods[leads].start());
        }
        assert_eq!(world.not_once().await, BTreeMap::new(), "{language:?}");
        let again = world.delivered_again();
        assert!(again >= KILLS / 2, "{language:?}: only {again} updates were delivered more than once");
    }
}

/// The page's update in psql; what it wrote to its standard error.
struct Psql<'a> {
    uri: &'a str,
    folder: &'a TempDir,
}

impl Psql<'_> {
    fn start(&self, epoch: i64, update: i64) -> Child {
        let file = self.folder.path().join("update.sql");
        std::fs::write(&file, block("update.sql")).unwrap();
        let mut psql = Command::new("psql");
        psql.args([self.uri, "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--set", "bot=4242"]);
        psql.args(["--set", &format!("epoch={epoch}"), "--set", &format!("update={update}"), "--set", "chat=5"]);
        psql.args(["--set", &format!("text=#{update}"), "--file"]).arg(file);
        psql.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("psql starts")
    }

    fn run(&self, epoch: i64, update: i64) -> String {
        let output = self.start(epoch, update).wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        said
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_statements_of_the_page_have_the_effect_once() {
    let db = Db::new().await;
    let session = db.session().await;
    session.run(&block("orders.sql")).await;
    let (proxy, folder) = (Proxy::start(server().port()).unwrap(), TempDir::new().unwrap());
    let uri = server().uri_for(&db.name, proxy.port());
    let psql = Psql { uri: &uri, folder: &folder };

    proxy.hold("COMMIT");
    let mut killed = psql.start(2, 1001);
    assert!(held(&proxy, PATIENCE));
    killed.kill().unwrap();
    killed.wait().unwrap();
    proxy.end_all();
    proxy.let_go();
    for epoch in [2, 2, 3] {
        assert_eq!(psql.run(epoch, 1001), "");
    }
    let refused = psql.run(2, 1002);
    assert!(refused.contains("a later leader has written"), "{refused}");
    let orders: Vec<String> = session.one("SELECT array_agg(text) FROM orders").await;
    assert_eq!(orders, ["#1001"]);
}
