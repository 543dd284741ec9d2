//! The file in databases that are not as a test would make them.

use std::process::{Command, Stdio};

use pollux_exactly_once::{block, blocks, repository};
use pollux_postgres::Pooler;

use crate::database::{BOT, Db, Outcome, Session, empty_database, server};

/// As the page says.
fn install(uri: &str) {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &block("install.sh")])
        .current_dir(repository())
        .env("DATABASE_URL", uri)
        .env("PSQLRC", "/dev/null");
    let output = shell.stdin(Stdio::null()).output().expect("sh starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A role that may make schemas in its own database and nothing else.
async fn plain_owner() -> (Db, Session) {
    let mut db = empty_database(server());
    let admin = db.session().await;
    let role = format!("owner_of_{}", db.name);
    admin.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'p'; ALTER DATABASE {} OWNER TO {role}", db.name)).await;
    db.uri = db.uri.replace("postgres@", &format!("{role}:p@"));
    (db, admin)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applied_again_it_keeps_what_is_there() {
    let (db, _admin) = plain_owner().await;
    install(&db.uri);
    let session = db.session().await;
    session.run("CREATE TABLE effect (n bigint GENERATED ALWAYS AS IDENTITY, epoch bigint, update_id bigint)").await;
    assert_eq!(session.process(2, 10).await.unwrap(), Outcome::Written);
    install(&db.uri);
    assert_eq!(session.process(1, 11).await.unwrap(), Outcome::Stale);
    assert_eq!(session.process(2, 10).await.unwrap(), Outcome::Done);
}

#[test]
fn a_program_that_is_shown_and_not_run_is_found() {
    let run =
        ["grants.sql", "forget.sql", "orders.sql", "update.sql", "new-leases.sql", "install.sh", "bot.py", "bot.ts"];
    for (shown, _) in blocks() {
        let name = shown.split(' ').nth(1).unwrap_or_default();
        assert!(run.contains(&name), "nothing runs the block {shown:?} of the page");
    }
    run.iter().for_each(|name| assert!(!block(name).is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_role_may_do_it_with_what_the_page_grants_and_not_without() {
    let db = Db::new().await;
    let session = db.session().await;
    session.run("CREATE ROLE bot; GRANT ALL ON effect TO bot").await;
    let calls =
        [format!("SELECT pollux_bot.fence_bump({BOT}, 1)"), format!("SELECT pollux_bot.claim_update({BOT}, 10)")];
    for call in calls {
        assert!(session.try_run(&format!("SET ROLE bot; {call}; RESET ROLE")).await.is_err());
        session.run("RESET ROLE").await;
    }
    session.run(&block("grants.sql")).await;
    session.run("SET ROLE bot").await;
    assert_eq!(session.process(1, 10).await.unwrap(), Outcome::Written);
    assert_eq!(session.process(2, 10).await.unwrap(), Outcome::Done);
    session.run(&block("forget.sql")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_new_lease_database_bots_are_let_in_by_the_pages_statement() {
    let db = Db::new().await;
    let session = db.session().await;
    assert_eq!(session.process(70, 10).await.unwrap(), Outcome::Written);
    assert_eq!(session.process(1, 11).await.unwrap(), Outcome::Stale, "the new epochs are lower");
    session.run(&block("new-leases.sql")).await;
    assert_eq!(session.process(1, 11).await.unwrap(), Outcome::Written);
    assert_eq!(session.process(1, 10).await.unwrap(), Outcome::Done, "what was processed before is known");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_elses_names_in_the_search_path_are_not_used() {
    let db = Db::new().await;
    let session = db.session().await;
    session
        .run(
            "CREATE SCHEMA other;
             CREATE TABLE other.fence (bot_id bigint PRIMARY KEY, epoch bigint);
             CREATE TABLE other.processed_updates (bot_id bigint, update_id bigint, processed_at timestamptz);
             CREATE FUNCTION other.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz 'infinity' $$;
             CREATE FUNCTION other.never(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT false';
             CREATE FUNCTION other.always(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true';
             CREATE OPERATOR other.> (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = other.never);
             CREATE OPERATOR other.<= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = other.always);
             CREATE TYPE other.interval AS (nothing integer);
             SET search_path = other, pg_catalog;
             CREATE TEMP TABLE fence (bot_id bigint PRIMARY KEY, epoch bigint);
             CREATE TEMP TABLE processed_updates (bot_id bigint, update_id bigint, processed_at timestamptz)",
        )
        .await;
    session.run("BEGIN").await;
    assert!(session.fence(2).await && session.claim(10).await);
    session.run("COMMIT").await;
    assert!(!session.fence(1).await && !session.claim(10).await);
    assert_eq!(session.one::<i64>("SELECT pollux_bot.forget_updates()").await, 0);
    let kept = "SELECT (SELECT count(*) FROM pollux_bot.fence) + (SELECT count(*) FROM pollux_bot.processed_updates)";
    assert_eq!(session.one::<i64>(kept).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_real_transaction_pooler_each_transaction_is_fenced() {
    let db = Db::new().await;
    // One connection to the server: each transaction follows another bot's on it.
    let pooler = Pooler::start(server().port(), "postgres", 1).unwrap();
    let uri = server().uri_for(&db.name, pooler.port());
    let direct = db.session().await;
    let pooled = async || {
        let (client, connection) = tokio_postgres::connect(&uri, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    };
    let (a, b) = (pooled().await, pooled().await);
    let process = |epoch: i64, update: i64| {
        format!(
            "BEGIN; INSERT INTO effect (epoch, update_id) SELECT {epoch}, {update}
             WHERE pollux_bot.fence_bump({BOT}, {epoch}) AND pollux_bot.claim_update({BOT}, {update}); COMMIT"
        )
    };
    for (client, epoch, update) in [(&a, 1, 10), (&b, 2, 10), (&b, 2, 11), (&a, 1, 12)] {
        client.batch_execute(&process(epoch, update)).await.unwrap();
    }
    let effects: Vec<i64> = direct.one("SELECT array_agg(update_id ORDER BY n) FROM effect").await;
    assert_eq!(effects, [10, 11], "one is there already, one is stale");
    let rows = a.simple_query("SHOW idle_in_transaction_session_timeout").await.unwrap();
    let left = rows.iter().find_map(|m| match m {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    assert_eq!(left.as_deref(), Some("0"), "nothing stays on a connection that others use");
}
