//! Everything that is passed through.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pollux_botapi::{Fault, FaultKind};
use pollux_clock::BootInstant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::support::{LIMIT, Rig, TOKEN, emulator, request};

/// A server that echoes each request's body, and tells of each chunk that it sees.
async fn echo() -> (String, mpsc::UnboundedReceiver<Bytes>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (seen, sees) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = seen.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let seen = seen.clone();
                async move {
                    let headers = format!("{} {} {:?}", request.method(), request.uri(), request.headers());
                    let length = request.headers().get("content-length").cloned();
                    let body = request.into_body().map_frame(move |frame| {
                        if let Some(data) = frame.data_ref() {
                            let _ = seen.send(data.clone());
                        }
                        frame
                    });
                    let mut response = Response::new(body);
                    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
                    if let Some(length) = length {
                        response.headers_mut().insert("content-length", length);
                    }
                    response.headers_mut().insert("x-request", headers.parse().unwrap());
                    Ok::<_, std::convert::Infallible>(response)
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (url, sees)
}

#[tokio::test]
async fn r22_r24_a_standby_passes_calls_and_counts_them() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    assert_eq!(rig.gate.last_activity(), None);
    let late = Fault::new("sendMessage", FaultKind::Late).seconds(Duration::from_millis(300));
    emulator.fault(TOKEN, late).unwrap();
    let mut bot = rig.bot().await;
    let calling = tokio::spawn(async move { bot.call("sendMessage", "chat_id=1&text=hi").await });
    rig.until_in_flight(1).await;
    assert_eq!(calling.await.unwrap().json()["ok"], true);
    let before = BootInstant::now();
    rig.until_in_flight(0).await;
    let active = rig.gate.last_activity().expect("a call was completed");
    assert!(before - active < Duration::from_secs(5));
}

#[tokio::test]
async fn r20_webhook_info_passes_on_a_standby() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    let answer = rig.bot().await.call("getWebhookInfo", "").await;
    assert_eq!(answer.json()["result"]["pending_update_count"], 0);
}

#[tokio::test]
async fn r23_both_directions_stream_and_nothing_is_buffered() {
    let (url, mut seen) = echo().await;
    let rig = Rig::new(&url).await;
    let stream = TcpStream::connect(rig.address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (mut chunks, body) = futures::channel::mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(1);
    let request =
        Request::post(format!("/bot{TOKEN}/sendDocument")).header("host", "x").body(StreamBody::new(body)).unwrap();
    chunks.send(Ok(Frame::data(Bytes::from_static(b"one")))).await.unwrap();
    let answering = tokio::spawn(async move { sender.send_request(request).await.unwrap() });
    let first = tokio::time::timeout(LIMIT, async {
        loop {
            // The gate's own getMe has no body.
            let chunk = seen.recv().await.unwrap();
            if !chunk.is_empty() {
                return chunk;
            }
        }
    });
    assert_eq!(first.await.unwrap(), "one", "upstream has the first chunk while the bot still holds the second");
    let mut response = tokio::time::timeout(LIMIT, answering).await.unwrap().unwrap();
    let frame = tokio::time::timeout(LIMIT, response.body_mut().frame()).await.unwrap().unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "one", "and the bot has the answer's first chunk");
    chunks.send(Ok(Frame::data(Bytes::from_static(b"two")))).await.unwrap();
    drop(chunks);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "two");
}

#[tokio::test]
async fn r23_hop_by_hop_headers_stay_here_and_lengths_are_kept() {
    let (url, _seen) = echo().await;
    let rig = Rig::new(&url).await;
    let mut sent = request(Method::POST, &format!("/bot{TOKEN}/sendMessage?a=%20b"), "text=hi");
    for (name, value) in [("connection", "keep-alive, x-mine"), ("x-mine", "1"), ("te", "trailers"), ("x-kept", "2")] {
        sent.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = rig.bot().await.send(sent).await;
    let upstream = answer.headers["x-request"].to_str().unwrap();
    assert!(upstream.starts_with(&format!("POST /bot{TOKEN}/sendMessage?a=%20b ")), "{upstream}");
    assert!(upstream.contains(r#""x-kept": "2""#) && upstream.contains(r#""content-length": "7""#), "{upstream}");
    assert!(!upstream.contains("x-mine") && !upstream.contains("\"te\""), "{upstream}");
    assert!(upstream.contains(&format!("\"host\": \"{}\"", url.trim_start_matches("http://"))), "{upstream}");
    assert_eq!((answer.headers["content-length"].to_str().unwrap(), &answer.body[..]), ("7", &b"text=hi"[..]));
}

#[tokio::test]
async fn r23_a_file_is_fetched_with_its_range_and_asked_for_with_head() {
    let (url, _seen) = echo().await;
    let rig = Rig::new(&url).await;
    let path = format!("/file/bot{TOKEN}/photos/a%20b.jpg");
    let mut ranged = request(Method::GET, &path, "");
    ranged.headers_mut().insert("range", "bytes=5-9".parse().unwrap());
    let mut bot = rig.bot().await;
    let answer = bot.send(ranged).await;
    let upstream = answer.headers["x-request"].to_str().unwrap();
    assert!(upstream.starts_with(&format!("GET {path} ")) && upstream.contains("bytes=5-9"), "{upstream}");
    let answer = bot.send(request(Method::HEAD, &path, "")).await;
    assert!(answer.headers["x-request"].to_str().unwrap().starts_with("HEAD "));
    rig.until_in_flight(0).await;
}

#[tokio::test]
async fn r23_an_error_page_becomes_json_and_other_errors_are_untouched() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    let mut bot = rig.bot().await;
    emulator.fault(TOKEN, Fault::new("sendMessage", FaultKind::Html(504))).unwrap();
    let answer = bot.call("sendMessage", "chat_id=1&text=hi").await;
    let expected = serde_json::json!({"ok": false, "error_code": 504, "description": "Gateway Timeout"});
    assert_eq!((answer.status, answer.json()), (StatusCode::GATEWAY_TIMEOUT, expected));
    let flood = Fault::new("sendMessage", FaultKind::Status(429)).seconds(Duration::from_secs(7));
    emulator.fault(TOKEN, flood).unwrap();
    let answer = bot.call("sendMessage", "chat_id=1&text=hi").await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        (answer.headers["retry-after"].to_str().unwrap(), &answer.json()["parameters"]["retry_after"]),
        ("7", &7.into())
    );
    assert_eq!(bot.call("noSuchMethod", "").await.json()["description"], "Not Found: method not found");
}

#[tokio::test]
async fn r23_an_upstream_failure_is_an_answer_and_never_a_second_message() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    let mut bot = rig.bot().await;
    for kind in [FaultKind::Reset, FaultKind::ResetAfter] {
        emulator.fault(TOKEN, Fault::new("sendMessage", kind)).unwrap();
        let answer = bot.call("sendMessage", "chat_id=1&text=hi").await;
        let expected = serde_json::json!({"ok": false, "error_code": 502, "description": "Bad Gateway"});
        assert_eq!((answer.status, answer.json()), (StatusCode::BAD_GATEWAY, expected));
    }
    let requests = emulator.requests(TOKEN).unwrap();
    let sent = requests.iter().filter(|request| request.method == "sendMessage").count();
    assert_eq!(sent, 2, "neither was tried again");
    assert_eq!(bot.call("sendMessage", "chat_id=1&text=hi").await.status, StatusCode::OK, "over the same connection");
}

#[tokio::test]
async fn r23_an_unreachable_upstream_is_an_answer_after_the_whole_upload() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let rig = Rig::new(&url).await;
    let mut bot = rig.bot().await;
    let body = "x".repeat(8 << 20);
    let answer = bot.call("sendDocument", &body).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(bot.call("sendMessage", "").await.status, StatusCode::BAD_GATEWAY, "the connection is still good");
}

#[tokio::test]
async fn r23_a_pooled_connection_that_died_fails_no_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // Answers one request per connection, then closes it though it was to be kept.
    let (closed, mut was_closed) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 16384];
            if !matches!(stream.read(&mut buffer).await, Ok(1..)) {
                continue;
            }
            let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
            stream.write_all(answer.as_bytes()).await.unwrap();
            drop(stream);
            let _ = closed.send(());
        }
    });
    let rig = Rig::new(&url).await;
    let mut bot = rig.bot().await;
    for _ in 0..10 {
        assert_eq!(bot.call("sendMessage", "text=hi").await.status, StatusCode::OK);
        was_closed.recv().await.unwrap();
    }
}

#[tokio::test]
async fn r23_expect_continue_is_honoured() {
    let (url, _seen) = echo().await;
    let rig = Rig::new(&url).await;
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    let head = format!(
        "POST /bot{TOKEN}/sendDocument HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut buffer = vec![0; 4096];
    let count = tokio::time::timeout(LIMIT, stream.read(&mut buffer)).await.unwrap().unwrap();
    assert!(buffer[..count].starts_with(b"HTTP/1.1 100 "), "{:?}", String::from_utf8_lossy(&buffer[..count]));
    stream.write_all(b"body").await.unwrap();
    let mut text = String::new();
    while !text.ends_with("body") {
        let count = tokio::time::timeout(LIMIT, stream.read(&mut buffer)).await.unwrap().unwrap();
        assert!(count > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
}

#[tokio::test]
async fn r23_a_stopping_gate_finishes_its_calls() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    let late = Fault::new("sendMessage", FaultKind::Late).seconds(Duration::from_millis(500));
    emulator.fault(TOKEN, late).unwrap();
    let mut bot = rig.bot().await;
    let calling = tokio::spawn(async move { bot.call("sendMessage", "chat_id=1&text=hi").await });
    rig.until_in_flight(1).await;
    let held = rig.bot().await.ask(0, 30);
    rig.until("polling", |status| status.bot_polling).await;
    tokio::time::timeout(LIMIT, rig.gate.shutdown()).await.unwrap();
    assert_eq!(calling.await.unwrap().status, StatusCode::OK);
    assert_eq!(held.await.unwrap().1.ids(), [0_i64; 0]);
    assert!(TcpStream::connect(rig.address).await.is_err());
}

#[tokio::test]
async fn r23_a_chunked_multipart_upload_passes() {
    let (url, _seen) = echo().await;
    let rig = Rig::new(&url).await;
    let stream = TcpStream::connect(rig.address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let chunk = Bytes::from(vec![7; 1 << 16]);
    let chunks = futures::stream::iter(0..160).map(move |_| Ok::<_, std::io::Error>(Frame::data(chunk.clone())));
    let request = Request::post(format!("/bot{TOKEN}/sendDocument"))
        .header("host", "x")
        .header("content-type", "multipart/form-data; boundary=x")
        .body(StreamBody::new(chunks))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let upstream = response.headers()["x-request"].to_str().unwrap().to_owned();
    assert!(upstream.contains("chunked"), "{upstream}");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 160 << 16);
}

#[tokio::test]
async fn too_long_arguments_of_a_method_of_the_gate_are_refused() {
    let (url, _seen) = echo().await;
    let rig = Rig::new(&url).await;
    let body = Full::new(Bytes::from("a".repeat((1 << 20) + 1)));
    let (parts, _) = request(Method::POST, &format!("/bot{TOKEN}/getUpdates"), "").into_parts();
    let answer = rig.bot().await.send(Request::from_parts(parts, body)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
}
