//! What passes through an agent costs it no memory, however long it is (R23).

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::world::World;
use pollux_pods::Agent;

/// Telegram's own limit for an upload.
const LENGTH: usize = 50 << 20;
const BLOCK: usize = 1 << 16;
/// Of an agent, at any time of its life.
const MOST_KIB: u64 = 16 << 10;
const JSON: &str = "content-type: application/json\r\n";

/// A Telegram that takes uploads and gives files.
async fn telegram() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let head = head(&mut stream).await?;
        if head.contains("/file/bot") {
            stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n").as_bytes()).await?;
            for _ in 0..LENGTH / BLOCK {
                stream.write_all(&[0; BLOCK]).await?;
            }
            continue;
        }
        let length = if head.contains("chunked") { chunked(&mut stream).await? } else { 0 };
        let body = format!(r#"{{"ok":true,"result":{{"id":4242,"username":"echo_bot","length":{length}}}}}"#);
        let answer = format!("HTTP/1.1 200 OK\r\n{JSON}content-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await?;
    }
}

async fn head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Reads a chunked body and returns its length without the chunks' own.
async fn chunked(stream: &mut TcpStream) -> std::io::Result<usize> {
    let mut length = 0;
    let mut block = vec![0; 1 << 20];
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(stream.read_u8().await?);
        }
        let text = String::from_utf8_lossy(&line);
        let size = usize::from_str_radix(text.trim(), 16).expect("the size of a chunk");
        let mut left = size + 2;
        while left > 0 {
            let want = left.min(block.len());
            left -= stream.read(&mut block[..want]).await?;
        }
        length += size;
        if size == 0 {
            return Ok(length);
        }
    }
}

async fn upload(gate: SocketAddr, token: String) {
    let mut stream = TcpStream::connect(gate).await.unwrap();
    let text = format!(
        "POST /bot{token}/sendDocument HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=x\r\n\
         transfer-encoding: chunked\r\n\r\n"
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    for _ in 0..LENGTH / BLOCK {
        stream.write_all(format!("{BLOCK:x}\r\n").as_bytes()).await.unwrap();
        stream.write_all(&[0; BLOCK]).await.unwrap();
        stream.write_all(b"\r\n").await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert!(head(&mut stream).await.unwrap().starts_with("HTTP/1.1 200"));
    let mut answer = [0; 512];
    let count = stream.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]);
    assert!(answer.contains(&format!("\"length\":{LENGTH}")), "{answer}");
}

async fn download(gate: SocketAddr, token: String) {
    let mut stream = TcpStream::connect(gate).await.unwrap();
    let text = format!("GET /file/bot{token}/a HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    assert!(head(&mut stream).await.unwrap().starts_with("HTTP/1.1 200"));
    let mut block = vec![0; BLOCK];
    let mut got = 0;
    while got < LENGTH {
        let count = stream.read(&mut block).await.unwrap();
        assert!(count > 0, "{got}");
        got += count;
    }
}

/// The most memory that the process ever had, in KiB.
fn peak(agent: &Agent) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn r23_long_uploads_and_downloads_cost_no_memory() {
    let world = World::without_database().await;
    let mut pod = world.pod("echo-1").await;
    pod.api = format!("http://{}", telegram().await);
    pod.log_level = "info";
    let agent = pod.start();
    pod.wait_ready().await;
    let before = peak(&agent);
    let gate = SocketAddr::new(pod.ip, 8081);
    let mut streams = JoinSet::new();
    for _ in 0..4 {
        streams.spawn(upload(gate, world.token.clone()));
        streams.spawn(download(gate, world.token.clone()));
    }
    while let Some(done) = streams.join_next().await {
        done.unwrap();
    }
    let after = peak(&agent);
    println!("peak memory: {before} KiB before, {after} KiB after 8 streams of {LENGTH} bytes at once");
    assert!(after <= MOST_KIB, "{before} KiB before, {after} KiB after");
}
