//! R1: whatever way a library has of saying it, the gate hears what the Bot API server would hear.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::support::{Bot, LIMIT, Rig, TOKEN, emulator, request};
use crate::upstreams::scripted;

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

/// A leading gate before a server that tells what it is asked for.
struct Asked {
    rig: Rig,
    told: mpsc::UnboundedReceiver<(String, String)>,
}

// === impl Asked ===

impl Asked {
    async fn new() -> Self {
        let (url, told) = scripted(Bytes::from_static(br#"{"ok":true,"result":[{"update_id":9}]}"#)).await;
        let rig = Rig::new(&url).await;
        rig.lead(1);
        rig.until("leading", |status| status.leading == Some(1)).await;
        Self { rig, told }
    }

    /// What Telegram is asked for when the bot asks for this.
    async fn upstream(&mut self, bot: &mut Bot, request: Request<Full<Bytes>>) -> String {
        assert_eq!(bot.send(request).await.ids(), [9]);
        self.told.recv().await.unwrap().1
    }
}

/// A `POST` of `body` to what follows the token in the path.
fn post(rest: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let mut request = Request::post(format!("/bot{TOKEN}{rest}")).header("host", "127.0.0.1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.into())).unwrap()
}

#[tokio::test]
async fn r01_arguments_arrive_in_every_form() {
    let mut asked = Asked::new().await;
    let mut bot = asked.rig.bot().await;
    for (rest, kind, body, expected) in [
        ("/getUpdates", JSON, r#"{"offset":9,"limit":2,"limit":3,"timeout":30}"#, "offset=9&limit=2&timeout=30"),
        ("/getUpdates?limit=4", JSON, r#"{"offset":9,"limit":5,"timeout":30}"#, "offset=9&limit=4&timeout=30"),
        ("/getUpdates", JSON, r#"{"offset":9,"limit":6,"timeout":30,"x":["#, "offset=9&limit=6&timeout=30"),
        ("/getUpdates", JSON, r#"{"offset":"9","limit":"7","timeout":"30"}"#, "offset=9&limit=7&timeout=30"),
        ("/getUpdates?offset=9&limit=8&timeout=30", JSON, "null", "offset=9&limit=8&timeout=30"),
        ("/getUpdates?offset=9&limit=9&timeout=30", JSON, r#""offset""#, "offset=9&limit=9&timeout=30"),
        ("/getUpdates", FORM, "offset=9&limit=10x&timeout=30s", "offset=9&limit=10&timeout=30"),
        ("/getUpdates", FORM, "offset=%zz&offset=1&limit=11&timeout=30", "offset=0&limit=11&timeout=30"),
        ("/getUpdates", FORM, "offset=9&limit=&timeout=30", "offset=9&limit=20&timeout=30"),
        ("/getUpdates", FORM, "offset=9&limit=x&timeout=99", "offset=9&limit=1&timeout=50"),
        ("/", FORM, "method=GetUpdates&offset=9&limit=12&timeout=30", "offset=9&limit=12&timeout=30"),
        ("/?method=getUpdates", FORM, "offset=9&limit=13&timeout=30", "offset=9&limit=13&timeout=30"),
        ("/getUpdates?method=sendMessage", FORM, "offset=9&limit=14&timeout=30", "offset=9&limit=14&timeout=30"),
    ] {
        let form = asked.upstream(&mut bot, post(rest, &[("content-type", kind)], body)).await;
        assert_eq!(form, expected, "{rest} {body}");
    }
}

#[tokio::test]
async fn r01_packed_bodies_are_unpacked() {
    let mut asked = Asked::new().await;
    let mut bot = asked.rig.bot().await;
    let body = br#"{"offset":9,"limit":2,"timeout":30}"#;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(body).unwrap();
    let mut deflate = ZlibEncoder::new(Vec::new(), Compression::default());
    deflate.write_all(body).unwrap();
    for (coding, packed) in [("gzip", gzip.finish().unwrap()), ("Deflate", deflate.finish().unwrap())] {
        let sent = post("/getUpdates", &[("content-type", JSON), ("content-encoding", coding)], packed);
        assert_eq!(asked.upstream(&mut bot, sent).await, "offset=9&limit=2&timeout=30", "{coding}");
    }
    let unknown = post("/getUpdates", &[("content-type", JSON), ("content-encoding", "br")], "x");
    assert_eq!(bot.send(unknown).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn r01_a_small_body_that_unpacks_to_more_than_arguments_may_take_is_refused() {
    let asked = Asked::new().await;
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(&vec![b' '; 64 << 20]).unwrap();
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 128 << 10);
    let sent = post("/getUpdates", &[("content-type", JSON), ("content-encoding", "gzip")], bomb);
    assert_eq!(asked.rig.bot().await.send(sent).await.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn r01_a_post_without_a_body_or_arguments_is_a_poll() {
    let mut asked = Asked::new().await;
    let mut bot = asked.rig.bot().await;
    assert_eq!(asked.upstream(&mut bot, post("/getUpdates", &[], "")).await, "limit=20&timeout=0");
}

#[tokio::test]
async fn r01_a_chunked_multipart_is_read() {
    let mut asked = Asked::new().await;
    let mut stream = TcpStream::connect(asked.rig.address).await.unwrap();
    let head = format!(
        "POST /bot{TOKEN}/getUpdates HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\
         content-type: multipart/form-data; boundary=\"a b\"\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    for part in ["offset\"\r\n\r\n9", "limit\"\r\n\r\n2", "timeout\"\r\n\r\n30", "offset\"\r\n\r\n1"] {
        let chunk = format!("--a b\r\nContent-Disposition: form-data; name=\"{part}\r\n");
        stream.write_all(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes()).await.unwrap();
    }
    stream.write_all(b"7\r\n--a b--\r\n0\r\n\r\n").await.unwrap();
    let told = tokio::time::timeout(LIMIT, asked.told.recv()).await.unwrap().unwrap();
    assert_eq!(told.1, "offset=9&limit=2&timeout=30");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test]
async fn r01_an_empty_multipart_is_a_get_me() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    let sent = post("/getMe", &[("content-type", "multipart/form-data; boundary=x")], "--x--\r\n");
    assert_eq!(rig.bot().await.send(sent).await.json()["result"]["username"], "echo_bot");
}

/// The server counts in 32 bits: what looks like a large offset to everybody else would empty the queue.
#[tokio::test]
async fn r01_an_offset_of_more_than_32_bits_is_the_one_that_the_server_reads() {
    let mut asked = Asked::new().await;
    let mut bot = asked.rig.bot().await;
    let sent = post("/getUpdates?offset=4294967305&timeout=30&limit=5", &[], "");
    assert_eq!(asked.upstream(&mut bot, sent).await, "offset=9&limit=5&timeout=30");
}

#[tokio::test]
async fn r01_a_method_in_the_query_of_an_upload_lets_it_stream() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    let part = |head: &str, body: &str| format!("--x\r\nContent-Disposition: form-data; {head}\r\n\r\n{body}\r\n");
    let file = part("name=\"document\"; filename=\"large\"", &"x".repeat(2 << 20));
    let body = format!("{}{file}--x--\r\n", part("name=\"chat_id\"", "1"));
    let sent = post("/?method=sendDocument", &[("content-type", "multipart/form-data; boundary=x")], body);
    assert_eq!(rig.bot().await.send(sent).await.json()["ok"], true, "more than the gate would read");
}

#[tokio::test]
async fn r01_other_verbs_are_no_calls() {
    let emulator = emulator().await;
    let rig = Rig::new(&emulator.url()).await;
    let mut bot = rig.bot().await;
    for verb in [Method::PUT, Method::DELETE, Method::HEAD] {
        let answer = bot.send(request(verb, &format!("/bot{TOKEN}/logOut"), "")).await;
        assert_eq!((answer.status, answer.body.len()), (StatusCode::NOT_IMPLEMENTED, 0));
    }
}
