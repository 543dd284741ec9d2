//! Many leases renewed by one statement: it renews what a renewal of each would, and nothing else.

mod support;

use support::Db;
use tokio_postgres::Client;

const WHO: &str = r#"{"cluster": "c", "namespace": "shop", "name": "echo", "pod": "hub", "pod_uid": "u", "node": "n",
                      "revision": "r1", "locked": false}"#;

/// Bots 1 to 10 are led by `hub`, which has renewed each of them once.
async fn led(db: &Db) -> Client {
    let (client, digest) = (db.client().await, "07".repeat(32));
    client
        .batch_execute(&format!(
            "SELECT pollux.beat(b, 's', '\\x{digest}', 'hub', 1, true, false, '{WHO}', '{{}}') FROM generate_series(1, 10) b;
             SELECT pollux.acquire(bot_id, 's', token_digest, 'hub', pollux.incarnation(), 0, 0, 10000) FROM pollux.lease;
             SELECT pollux.renew(bot_id, 's', token_digest, 'hub', pollux.incarnation(), epoch, renew_seq, 10000, NULL, NULL, 2,
                                 true, false, '{WHO}', NULL) FROM pollux.lease"
        ))
        .await
        .unwrap();
    client
}

/// Renews all leases as they were seen `after` this was done to some of them.
async fn renewed(client: &Client, meanwhile: &str) -> Vec<i64> {
    client.batch_execute("CREATE TEMP TABLE seen ON COMMIT PRESERVE ROWS AS SELECT * FROM pollux.lease").await.unwrap();
    client.batch_execute(meanwhile).await.unwrap();
    let all = "SELECT coalesce(array_agg(r.bot ORDER BY r.bot), '{}')
                 FROM (SELECT array_agg(bot_id) b, array_agg(token_digest) d, array_agg(epoch) e, array_agg(renew_seq) n,
                              array_agg(3::bigint) k FROM seen) s,
                      pollux.renew_all(b, 's', d, 'hub', pollux.incarnation(), e, n, 12000, NULL, NULL, k) r";
    let bots = client.query_one(all, &[]).await.unwrap().get(0);
    client.batch_execute("DROP TABLE seen").await.unwrap();
    bots
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_leases_of_a_process_are_renewed_by_one_statement() {
    let db = Db::new().await;
    let client = led(&db).await;
    assert_eq!(renewed(&client, "").await, (1..=10).collect::<Vec<i64>>());
    let row = client
        .query_one(
            "SELECT count(*) FROM pollux.lease JOIN pollux.candidate USING (tenant, bot_id, server)
              WHERE ttl_ms = 12000 AND renew_seq = 3 AND beat = 3 AND expires_at > clock_timestamp() + interval '5 s'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_makes_a_renewal_void_makes_it_void_among_others() {
    let db = Db::new().await;
    let client = led(&db).await;
    let found = renewed(
        &client,
        "UPDATE pollux.lease SET renew_seq = renew_seq + 1 WHERE bot_id = 1;
         UPDATE pollux.lease SET epoch = epoch + 1 WHERE bot_id = 2;
         UPDATE pollux.lease SET holder = 'somebody else' WHERE bot_id = 3;
         UPDATE pollux.lease SET holder = NULL WHERE bot_id = 4;
         UPDATE pollux.lease SET release = '{}' WHERE bot_id = 5;
         UPDATE pollux.lease SET incarnation = 'an earlier one' WHERE bot_id = 6;
         UPDATE pollux.lease SET token_digest = '\\x00' WHERE bot_id = 7;
         UPDATE pollux.lease SET tenant = 'another' WHERE bot_id = 8",
    )
    .await;
    assert_eq!(found, [9, 10]);
    let row = client.query_one("SELECT count(*) FROM pollux.lease WHERE ttl_ms = 12000", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 2, "and nothing else was touched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_for_many_leases_beats_for_those_whose_token_it_knows() {
    let db = Db::new().await;
    let client = led(&db).await;
    client
        .batch_execute(
            "UPDATE pollux.lease SET token_digest = '\\x00' WHERE bot_id = 1;
             DELETE FROM pollux.candidate WHERE bot_id = 2",
        )
        .await
        .unwrap();
    let all = format!(
        "SELECT count(*) = 8 AND bool_and(epoch = 1 AND seq = 2 AND holder = 'hub') AND min(bot) = 3
           FROM pollux.beat_all(ARRAY(SELECT generate_series(1, 10)), 's', array_fill('\\x{}'::bytea, ARRAY[10]), 'hub',
                                array_fill(7::bigint, ARRAY[10]))",
        "07".repeat(32)
    );
    assert!(client.query_one(&all, &[]).await.unwrap().get::<_, bool>(0));
    let row = client.query_one("SELECT count(*) FROM pollux.candidate WHERE beat = 7", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 8);
}
