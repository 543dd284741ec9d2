//! Long bodies, slow peers and peers that go away in the middle (R23).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::support::{LIMIT, Rig, TOKEN, request};

const MIB: u64 = 1 << 20;
/// More than both kernels' buffers on the way (at most 6 MiB a socket on loopback), and far less than what is sent.
const BUFFERS: u64 = 48 * MIB;

/// What a server sees of an upload.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// The first bytes.
    Begun,
    /// The end: so many bytes with this sum, or broken off.
    Ended(Option<(u64, u64)>),
}

/// A server that reads uploads to their end and answers with their length. It tells of those that have a body.
async fn sink() -> (String, mpsc::UnboundedReceiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tell = tell.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let tell = tell.clone();
                async move { Ok::<_, std::convert::Infallible>(swallow(request, &tell).await) }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (url, told)
}

async fn swallow(request: Request<Incoming>, tell: &mpsc::UnboundedSender<Seen>) -> Response<Full<Bytes>> {
    let mut body = request.into_body();
    let (mut length, mut sum) = (0_u64, 0_u64);
    let whole = loop {
        match body.frame().await {
            None => break true,
            Some(Err(_)) => break false,
            Some(Ok(frame)) => {
                let data = frame.into_data().unwrap_or_default();
                if length == 0 && !data.is_empty() {
                    let _ = tell.send(Seen::Begun);
                }
                length += data.len() as u64;
                sum += data.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            }
        }
    };
    if length > 0 {
        let _ = tell.send(Seen::Ended(whole.then_some((length, sum))));
    }
    let mut response = Response::new(Full::from(format!(r#"{{"ok":true,"result":{length}}}"#)));
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

/// A server whose connections that ask for `wanted` are handed to the test, their request's head read; others get an error.
async fn by_hand(wanted: &'static str) -> (String, mpsc::UnboundedReceiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (give, given) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let give = give.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                if String::from_utf8_lossy(&head).contains(wanted) {
                    let _ = give.send(stream);
                } else {
                    let _ =
                        stream.write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
                }
            });
        }
    });
    (url, given)
}

async fn next<T>(told: &mut mpsc::UnboundedReceiver<T>) -> T {
    tokio::time::timeout(LIMIT, told.recv()).await.expect("in time").expect("a message")
}

fn count(rig: &Rig, method: &str, code: &str) -> Option<String> {
    let prefix = format!("pollux_agent_api_requests_total{{method=\"{method}\",code=\"{code}\"}} ");
    rig.metrics().lines().find_map(|line| line.strip_prefix(&prefix).map(ToOwned::to_owned))
}

/// Waits until a counter has stopped for a while, and returns where.
async fn stalled(counter: &AtomicU64) -> u64 {
    let (mut last, mut still) = (0, 0);
    while still < 10 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = counter.load(Ordering::SeqCst);
        still = if now == last && now > 0 { still + 1 } else { 0 };
        last = now;
        assert!(now < 2 * BUFFERS, "{now} bytes are on their way and nobody reads them");
    }
    last
}

#[tokio::test]
async fn r23_fifty_megabytes_in_chunks_arrive_whole() {
    let (url, mut told) = sink().await;
    let rig = Rig::new(&url).await;
    let stream = TcpStream::connect(rig.address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let chunk = |n: u64| Bytes::from(vec![n.to_le_bytes()[0]; 1 << 16]);
    let sum = (0..800_u64).map(|n| (n % 256) << 16).sum::<u64>();
    let chunks = futures::stream::iter(0..800).map(move |n| Ok::<_, std::io::Error>(Frame::data(chunk(n))));
    let request = Request::post(format!("/bot{TOKEN}/sendDocument"))
        .header("host", "x")
        .header("content-type", "multipart/form-data; boundary=x")
        .body(StreamBody::new(chunks))
        .unwrap();
    let response = tokio::time::timeout(LIMIT, sender.send_request(request)).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(next(&mut told).await, Seen::Begun);
    assert_eq!(next(&mut told).await, Seen::Ended(Some((50 * MIB, sum))));
}

#[tokio::test]
async fn r23_an_upload_that_the_bot_breaks_off_is_broken_off_upstream_and_not_tried_again() {
    let (url, mut told) = sink().await;
    let rig = Rig::new(&url).await;
    for head in ["content-length: 1048576\r\n\r\nhello", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        let text = format!("POST /bot{TOKEN}/sendMessage HTTP/1.1\r\nhost: x\r\n{head}");
        stream.write_all(text.as_bytes()).await.unwrap();
        assert_eq!(next(&mut told).await, Seen::Begun);
        rig.until_in_flight(1).await;
        drop(stream);
        assert_eq!(next(&mut told).await, Seen::Ended(None), "{head}");
        rig.until_in_flight(0).await;
    }
    assert_eq!(rig.gate.last_activity(), None, "no call of the bot was completed");
    assert_eq!(count(&rig, "sendMessage", "broken").as_deref(), Some("2"));
    assert_eq!(rig.bot().await.call("sendMessage", "last").await.status, StatusCode::OK);
    assert_eq!(next(&mut told).await, Seen::Begun);
    assert_eq!(next(&mut told).await, Seen::Ended(Some((4, 436))), "nothing came in between");
}

#[tokio::test]
async fn r23_a_bot_that_does_not_wait_for_its_answer_cuts_its_call() {
    let (url, mut given) = by_hand("sendMessage").await;
    let rig = Rig::new(&url).await;
    let mut bot = rig.bot().await;
    let calling = tokio::spawn(async move { bot.call("sendMessage", "").await });
    let mut upstream = next(&mut given).await;
    calling.abort();
    let end = tokio::time::timeout(LIMIT, upstream.read(&mut [0; 64])).await.expect("closed");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    rig.until_in_flight(0).await;
    assert_eq!(count(&rig, "sendMessage", "broken").as_deref(), Some("1"));
}

#[tokio::test]
async fn r23_an_upstream_that_dies_in_the_middle_of_an_upload_is_a_502_and_no_second_upload() {
    let (url, mut given) = by_hand("sendDocument").await;
    let rig = Rig::new(&url).await;
    let mut bot = rig.bot().await;
    let body = "x".repeat(8 << 20);
    let calling = tokio::spawn(async move { bot.call("sendDocument", &body).await });
    let mut upstream = next(&mut given).await;
    upstream.read_exact(&mut [0; 1 << 16]).await.unwrap();
    upstream.set_zero_linger().unwrap();
    drop(upstream);
    let answer = calling.await.unwrap();
    let expected = serde_json::json!({"ok": false, "error_code": 502, "description": "Bad Gateway"});
    assert_eq!((answer.status, answer.json()), (StatusCode::BAD_GATEWAY, expected));
    assert!(given.try_recv().is_err(), "it was not tried again");
}

#[tokio::test]
async fn r23_half_an_answer_is_not_taken_for_a_whole_one() {
    let (url, mut given) = by_hand("sendMessage").await;
    let rig = Rig::new(&url).await;
    for head in ["content-length: 100\r\n\r\n{\"ok\":", "transfer-encoding: chunked\r\n\r\n6\r\n{\"ok\":\r\n"] {
        let mut bot = TcpStream::connect(rig.address).await.unwrap();
        let text = format!("POST /bot{TOKEN}/sendMessage HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
        bot.write_all(text.as_bytes()).await.unwrap();
        let mut upstream = next(&mut given).await;
        let half = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{head}");
        upstream.write_all(half.as_bytes()).await.unwrap();
        drop(upstream);
        let mut got = Vec::new();
        let _ = tokio::time::timeout(LIMIT, bot.read_to_end(&mut got)).await.expect("the connection is closed");
        let got = String::from_utf8(got).unwrap();
        assert!(got.starts_with("HTTP/1.1 200") && !got.ends_with("0\r\n\r\n"), "{got}");
        rig.until_in_flight(0).await;
    }
    assert_eq!(count(&rig, "sendMessage", "broken").as_deref(), Some("2"));
}

#[tokio::test]
async fn r23_a_bot_that_reads_slowly_holds_up_the_server() {
    let (url, mut given) = by_hand("/file/").await;
    let rig = Rig::new(&url).await;
    let mut bot = TcpStream::connect(rig.address).await.unwrap();
    bot.write_all(format!("GET /file/bot{TOKEN}/a HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut upstream = next(&mut given).await;
    let length = 4 * BUFFERS;
    let sent = Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    tokio::spawn(async move {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        upstream.write_all(head.as_bytes()).await.unwrap();
        let block = vec![0; 1 << 16];
        while counter.load(Ordering::SeqCst) < length {
            upstream.write_all(&block).await.unwrap();
            counter.fetch_add(block.len() as u64, Ordering::SeqCst);
        }
    });
    let held = stalled(&sent).await;
    assert!(held < BUFFERS, "{held}");
    let mut got = 0;
    let mut block = vec![0; 1 << 20];
    while got < length {
        let count = tokio::time::timeout(LIMIT, bot.read(&mut block)).await.unwrap().unwrap();
        assert!(count > 0, "{got}");
        got += count as u64;
    }
}

#[tokio::test]
async fn r23_a_server_that_reads_slowly_holds_up_the_bot() {
    let (url, mut given) = by_hand("sendDocument").await;
    let rig = Rig::new(&url).await;
    let mut bot = TcpStream::connect(rig.address).await.unwrap();
    let length = 4 * BUFFERS;
    let head = format!("POST /bot{TOKEN}/sendDocument HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    bot.write_all(head.as_bytes()).await.unwrap();
    let sent = Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    let sending = tokio::spawn(async move {
        let block = vec![0; 1 << 16];
        while counter.load(Ordering::SeqCst) < length {
            bot.write_all(&block).await.unwrap();
            counter.fetch_add(block.len() as u64, Ordering::SeqCst);
        }
    });
    let _upstream = next(&mut given).await;
    let held = stalled(&sent).await;
    assert!(held < BUFFERS, "{held}");
    sending.abort();
}

#[tokio::test]
async fn r23_an_error_page_in_place_of_a_file_stays_what_it_is() {
    let (url, mut given) = by_hand("/file/").await;
    let rig = Rig::new(&url).await;
    let mut bot = rig.bot().await;
    let path = format!("/file/bot{TOKEN}/gone.jpg");
    let fetching = tokio::spawn(async move { bot.send(request(Method::GET, &path, "")).await });
    let mut upstream = next(&mut given).await;
    let page = "HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>";
    upstream.write_all(page.as_bytes()).await.unwrap();
    let answer = fetching.await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::NOT_FOUND, &b"<html>"[..]));
}
