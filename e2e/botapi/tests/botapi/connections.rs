//! The log of connections, and forgetting.

use std::time::Duration;

use crate::common::{Client, PATIENCE, TOKEN, call, emulator, get};
use pollux_botapi::{ConnectionEnd, ConnectionRecord, Emulator, Fault, FaultKind, Push};
use serde_json::json;

async fn closed(emulator: &Emulator) -> ConnectionRecord {
    let of_bot = |e: &Emulator| e.connections(Some(TOKEN)).expect("bot");
    for _ in 0..200 {
        if of_bot(emulator).first().is_some_and(|c| c.end.is_some()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    of_bot(emulator).remove(0)
}

#[tokio::test]
async fn a_connection_knows_its_requests_and_that_the_client_closed_it() {
    let emulator = emulator().await;
    let lane = emulator.lane("a").await.expect("port");
    let mut client = Client::connect(&lane).await;
    let port = client.0.local_addr().expect("bound").port();
    client.call("getMe", "{}").await.expect("an answer");
    client.call("sendMessage", "{}").await.expect("an answer");
    let open = &emulator.connections(Some(TOKEN)).expect("bot")[0];
    assert_eq!((open.closed, open.end, open.port, open.peer.lane.as_str()), (None, None, port, "a"));
    drop(client);
    let record = closed(&emulator).await;
    assert_eq!(record.end, Some(ConnectionEnd::ClientFin));
    assert!(record.closed >= Some(record.opened));
    let requests: Vec<_> = record.requests.iter().map(|r| (r.method.as_str(), r.status, r.to_nobody)).collect();
    assert_eq!(requests, [("getMe", Some(200), false), ("sendMessage", Some(400), false)]);
    let path = format!("/connections?token={TOKEN}");
    let read: Vec<ConnectionRecord> =
        serde_json::from_value(get(&emulator.admin_url(), &path).await.json()).expect("records");
    assert_eq!(read[0].end, Some(ConnectionEnd::ClientFin));
    assert_eq!(get(&emulator.admin_url(), "/connections?token=1:x").await.status, 404);
}

#[tokio::test]
async fn a_clients_reset_is_told_from_its_fin() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator.url()).await;
    client.call("getMe", "{}").await.expect("an answer");
    rustix::net::sockopt::set_socket_linger(&client.0, Some(Duration::ZERO)).expect("linger");
    drop(client);
    assert_eq!(closed(&emulator).await.end, Some(ConnectionEnd::ClientReset));
}

#[tokio::test]
async fn the_emulators_own_ends_are_named() {
    let emulator = emulator().await;
    emulator.fault(TOKEN, Fault::new("getMe", FaultKind::Reset)).expect("bot");
    assert!(Client::connect(&emulator.url()).await.call("getMe", "{}").await.is_none());
    let record = closed(&emulator).await;
    assert_eq!((record.end, record.requests[0].status), (Some(ConnectionEnd::ServerReset), None));
    emulator.forget(None, Duration::ZERO).expect("all");
    let mut client = Client::connect(&emulator.url()).await;
    client.send(&format!("GET /bot{TOKEN}/getMe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
    client.read().await.expect("an answer");
    let last = |e: &Emulator| e.connections(Some(TOKEN)).expect("bot").pop().and_then(|c| c.end);
    for _ in 0..200 {
        if last(&emulator).is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(last(&emulator), Some(ConnectionEnd::ServerFin));
}

#[tokio::test]
async fn a_poll_that_is_answered_after_its_connection_was_closed_is_answered_to_nobody() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator.url()).await;
    client.send(&format!("GET /bot{TOKEN}/getUpdates?timeout=50 HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    assert!(emulator.until(PATIENCE, |e| e.polls(TOKEN).expect("bot").len() == 1).await);
    drop(client);
    let record = closed(&emulator).await;
    assert_eq!((record.end, record.requests[0].answered), (Some(ConnectionEnd::ClientFin), None));
    emulator.push(TOKEN, Push::default()).expect("bot");
    let heard = |e: &Emulator| e.connections(Some(TOKEN)).expect("bot")[0].requests[0].clone();
    assert!(emulator.until(PATIENCE, |e| heard(e).answered.is_some()).await);
    assert_eq!((heard(&emulator).status, heard(&emulator).to_nobody), (Some(200), true));
}

#[tokio::test]
async fn forgetting_keeps_what_was_lost_or_doubled_and_every_sum_about_updates() {
    let emulator = emulator().await;
    let url = emulator.url();
    let ids = emulator.push(TOKEN, Push { count: 4, ..Push::default() }).expect("bot");
    call(&url, "getUpdates", "{}").await;
    let reply = async |id: i32| {
        call(&url, "sendMessage", &json!({"chat_id": 1, "text": format!("#{id}")}).to_string()).await;
    };
    for id in [ids[0], ids[1], ids[1], ids[3]] {
        reply(id).await;
    }
    call(&url, "getUpdates", &json!({"offset": ids[3]}).to_string()).await;
    let judge = || emulator.bot_verdict(TOKEN, Duration::ZERO).expect("bot");
    let before = judge();
    assert_eq!((before.counts.lost, before.counts.dup, before.answered, before.updates), (1, 1, 3, 4));
    let mut admin = Client::connect(&emulator.admin_url()).await;
    admin.send(&format!("DELETE /records?token={TOKEN} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    let answer = admin.read().await.expect("an answer");
    assert!(answer.json()["forgotten"].as_u64() >= Some(7), "2 polls, 4 calls, 1 update: {answer:?}");
    let after = judge();
    assert_eq!((after.counts, after.answered, after.updates), (before.counts, before.answered, before.updates));
    assert_eq!(after.undelivered, before.undelivered);
    let kept: Vec<i32> = emulator.ledger(TOKEN).expect("bot").updates.iter().map(|u| u.id).collect();
    assert_eq!(kept, ids[1..], "a dup, a loss, one that is still in the queue");
    assert!(emulator.polls(TOKEN).expect("bot").is_empty() && emulator.requests(TOKEN).expect("bot").is_empty());
    reply(ids[0]).await;
    let late = judge();
    assert_eq!((late.counts.dup, late.stray, late.updates, late.answered), (2, 0, 4, 3), "still a dup");
}

#[tokio::test]
async fn what_is_going_on_is_not_forgotten() {
    let emulator = emulator().await;
    let url = emulator.url();
    let poll = tokio::spawn(async move { call(&url, "getUpdates", r#"{"timeout":50}"#).await });
    assert!(emulator.until(PATIENCE, |e| e.polls(TOKEN).expect("bot").len() == 1).await);
    emulator.forget(None, Duration::ZERO).expect("all");
    let ids = emulator.push(TOKEN, Push::default()).expect("bot");
    assert_eq!(poll.await.expect("no panic").ids(), [i64::from(ids[0])]);
    assert_eq!(emulator.ledger(TOKEN).expect("bot").updates[0].deliveries.len(), 1);
}
