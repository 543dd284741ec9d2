//! A small HTTP client over plain TCP: tests decide what is on the wire, and when a connection ends.

use std::time::Duration;

use pollux_botapi::{Emulator, Options};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

pub(crate) const TOKEN: &str = "123456:AAabc-secret";
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// An emulator with one bot.
pub(crate) async fn emulator() -> Emulator {
    let emulator = Emulator::start(Options::default()).await.expect("two free ports");
    emulator.add_bot(TOKEN, "echo_bot").expect("a good token");
    emulator
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub(crate) fn ids(&self) -> Vec<i64> {
        let json = self.json();
        let updates = json["result"].as_array().unwrap_or_else(|| panic!("{self:?}"));
        updates.iter().map(|u| u["update_id"].as_i64().expect("an id")).collect()
    }
}

/// One connection.
pub(crate) struct Client<S = TcpStream>(pub(crate) S);

impl Client {
    pub(crate) async fn connect(url: &str) -> Self {
        let address = url.strip_prefix("http://").expect("plain HTTP");
        Self(TcpStream::connect(address).await.expect("it listens"))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) async fn send(&mut self, request: &str) {
        self.0.write_all(request.as_bytes()).await.expect("write");
    }

    /// Reads one answer. None: the connection ended without one.
    pub(crate) async fn read(&mut self) -> Option<Answer> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            let mut part = [0_u8; 4096];
            match self.0.read(&mut part).await {
                Ok(0) | Err(_) => return None,
                Ok(n) => bytes.extend(&part[..n]),
            }
        };
        let head = String::from_utf8(bytes[..end].to_vec()).expect("a head of text");
        let length = head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.trim().parse().ok());
        let mut body = bytes[end..].to_vec();
        let missing = length.unwrap_or(0_usize).saturating_sub(body.len());
        let mut rest = vec![0; missing];
        self.0.read_exact(&mut rest).await.ok()?;
        body.extend(rest);
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        Some(Answer { status, head, body: String::from_utf8(body).expect("a body of text") })
    }

    pub(crate) async fn get(&mut self, path: &str) -> Option<Answer> {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        self.read().await
    }

    pub(crate) async fn post(&mut self, path: &str, content_type: &str, body: &str) -> Option<Answer> {
        let length = body.len();
        self.send(&format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await;
        self.read().await
    }

    pub(crate) async fn call(&mut self, method: &str, arguments: &str) -> Option<Answer> {
        self.post(&format!("/bot{TOKEN}/{method}"), "application/json", arguments).await
    }
}

/// One request on a connection of its own.
pub(crate) async fn get(url: &str, path: &str) -> Answer {
    Client::connect(url).await.get(path).await.expect("an answer")
}

/// One call on a connection of its own.
pub(crate) async fn call(url: &str, method: &str, arguments: &str) -> Answer {
    Client::connect(url).await.call(method, arguments).await.expect("an answer")
}

/// A bot that polls, and answers each update once.
pub(crate) async fn echo_bot(url: String) {
    let (mut polls, mut replies) = (Client::connect(&url).await, Client::connect(&url).await);
    let mut offset = 0;
    loop {
        let arguments = format!(r#"{{"offset":{offset},"timeout":30}}"#);
        let Some(answer) = polls.call("getUpdates", &arguments).await else { return };
        for id in answer.ids() {
            let arguments = format!(r##"{{"chat_id":1001,"text":"you said #{id}"}}"##);
            let Some(_) = replies.call("sendMessage", &arguments).await else { return };
            offset = id + 1;
        }
    }
}
