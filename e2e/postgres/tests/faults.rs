//! The server and the proxy do what tests rely on.

use std::time::Duration;

use pollux_postgres::{Options, Proxy, Server, Stop};
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

const PATIENCE: Duration = Duration::from_secs(20);

async fn connect(uri: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(uri, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn one(client: &Client, sql: &str) -> i64 {
    timeout(PATIENCE, client.query_typed_one(sql, &[])).await.expect("an answer").expect("no error").get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_survives_every_way_to_stop() {
    let server = Server::start(&Options::default()).unwrap();
    let uri = server.create_database("kept").unwrap();
    let client = connect(&uri).await.unwrap();
    client.batch_execute("CREATE TABLE t (n bigint)").await.unwrap();
    for (n, stop) in [Some(Stop::Fast), Some(Stop::Immediate), None].into_iter().enumerate() {
        let client = connect(&uri).await.unwrap();
        client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
        match stop {
            Some(how) => server.stop(how).unwrap(),
            None => server.kill().unwrap(),
        }
        assert!(connect(&uri).await.is_err(), "it is stopped");
        server.start_again().unwrap();
        let client = connect(&uri).await.unwrap();
        assert_eq!(one(&client, "SELECT count(*) FROM t").await, i64::try_from(n).unwrap() + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_answers_when_it_goes_on_and_not_before() {
    let server = Server::start(&Options::default()).unwrap();
    let client = connect(&server.uri()).await.unwrap();
    assert_eq!(one(&client, "SELECT 1::bigint").await, 1);
    server.freeze();
    let asking = client.query_typed_one("SELECT 2::bigint", &[]);
    tokio::pin!(asking);
    assert!(timeout(Duration::from_millis(300), &mut asking).await.is_err(), "it is frozen");
    server.thaw();
    let row = timeout(PATIENCE, asking).await.expect("an answer").unwrap();
    assert_eq!(row.get::<_, i64>(0), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_reply_is_lost_after_the_commit() {
    let server = Server::start(&Options::default()).unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    let direct = connect(&server.uri()).await.unwrap();
    direct.batch_execute("CREATE TABLE t (n bigint)").await.unwrap();
    let client = connect(&server.uri_for("postgres", proxy.port())).await.unwrap();
    proxy.lose_replies_to("INSERT INTO t", 1);
    assert_eq!(one(&client, "SELECT 1::bigint").await, 1, "other statements are answered");
    let lost = timeout(PATIENCE, client.batch_execute("INSERT INTO t VALUES (1)")).await.expect("the connection ends");
    assert!(lost.is_err());
    assert_eq!(proxy.lost(), 1);
    assert_eq!(one(&direct, "SELECT count(*) FROM t").await, 1, "it was carried out");
    let again = connect(&server.uri_for("postgres", proxy.port())).await.unwrap();
    again.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_request_is_carried_out_when_it_is_let_go_and_not_at_all_when_its_connection_ends_before() {
    let server = Server::start(&Options::default()).unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    let direct = connect(&server.uri()).await.unwrap();
    direct.batch_execute("CREATE TABLE t (n bigint)").await.unwrap();
    for (ends, rows) in [(true, 0), (false, 1)] {
        let client = connect(&server.uri_for("postgres", proxy.port())).await.unwrap();
        proxy.hold("INSERT INTO t");
        assert_eq!(one(&client, "SELECT 1::bigint").await, 1, "other statements are answered");
        assert!(!proxy.wait_until_held(Duration::ZERO));
        let inserting = tokio::spawn(async move { client.batch_execute("INSERT INTO t VALUES (1)").await });
        assert!(proxy.wait_until_held(PATIENCE));
        assert_eq!(one(&direct, "SELECT count(*) FROM t").await, 0);
        if ends {
            proxy.end_all();
        }
        proxy.let_go();
        let inserted = timeout(PATIENCE, inserting).await.expect("an end").unwrap();
        assert_eq!(inserted.is_err(), ends);
        assert_eq!(one(&direct, "SELECT count(*) FROM t").await, rows);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_proxy_tells_nobody_and_a_cut_one_does() {
    let server = Server::start(&Options::default()).unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    let uri = server.uri_for("postgres", proxy.port());
    let client = connect(&uri).await.unwrap();
    for hang in [Proxy::hang, Proxy::hang_replies] {
        hang(&proxy);
        let asking = client.query_typed_one("SELECT 3::bigint", &[]);
        tokio::pin!(asking);
        assert!(timeout(Duration::from_millis(200), &mut asking).await.is_err(), "it hangs");
        proxy.heal();
        assert_eq!(timeout(PATIENCE, asking).await.expect("an answer").unwrap().get::<_, i64>(0), 3);
    }
    proxy.cut();
    assert!(timeout(PATIENCE, client.batch_execute("SELECT 1")).await.expect("an end").is_err());
    assert!(connect(&uri).await.is_err());
    proxy.heal();
    assert_eq!(one(&connect(&uri).await.unwrap(), "SELECT 1::bigint").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_half_open_connection_the_server_sees_the_end_and_the_client_does_not() {
    let server = Server::start(&Options::default()).unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    let uri = server.uri_for("postgres", proxy.port());
    let client = connect(&uri).await.unwrap();
    let backend = one(&client, "SELECT pg_backend_pid()::bigint").await;
    assert_eq!(proxy.disturbed(), 0);
    proxy.half_open();
    let direct = connect(&server.uri()).await.unwrap();
    let there = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {backend}");
    timeout(PATIENCE, async {
        while one(&direct, &there).await != 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the server's end is gone");
    let asking = client.batch_execute("SELECT 1");
    assert!(timeout(Duration::from_millis(300), asking).await.is_err(), "the client waits");
    assert!(!client.is_closed());
    assert_eq!(proxy.disturbed(), 2, "one connection, and what it asked was swallowed");
    assert_eq!(one(&connect(&uri).await.unwrap(), "SELECT 1::bigint").await, 1, "new connections pass");
}
