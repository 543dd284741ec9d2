//! The admin port: JSON over HTTP, and the lanes page.
//!
//! | request | what it does |
//! | --- | --- |
//! | `GET /` | the lanes page |
//! | `POST /bots {token, username}` | adds a bot (again: no change) |
//! | `POST /push {token, count, chat, kind}` | puts updates into the queue; answers their ids |
//! | `POST /clock {advance_seconds}` | moves the server's clock on: expiry, timeouts, retries; the records keep real time |
//! | `POST /files?token=&name=` | the body becomes a file of the bot; answers its `file_id` |
//! | `POST /load {token, rate, burst, burst_every, chats, seed, seconds, count}` | starts a load; `DELETE /load?token=` ends it |
//! | `POST /faults {token, method, kind, count, seconds, lane}` | adds a fault, for good without a count; `DELETE /faults?token=` removes all of them |
//! | `POST /marks {text, kind, token, before, after}` | a named instant; kind `note`, `planned` or `crash` |
//! | `POST /lanes {ip, pod}` | names a peer's address |
//! | `GET /verdict`, `GET /verdict?token=` | the verdict; `window=` is the half width in seconds around a handover (5) |
//! | `GET /settled?timeout=30`, `…&token=`, `…&quiet=` | waits until all updates are confirmed and answered |
//! | `GET /ledger?token=`, `GET /polls?token=`, `GET /requests?token=` | the records |
//! | `GET /connections?token=` | every connection: its peer, its requests, who ended it and how; without `token`: all |
//! | `DELETE /records?keep=60`, `…&token=` | forgets what was over that many seconds ago (0); see `Emulator::forget` for what stays |
//! | `GET /timeline?minutes=5` | what the page shows |
//! | `GET /healthz` | `ok` |
//!
//! Without `token`: the only bot, where one is meant and there is one.

use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

use crate::{
    emulator::Emulator,
    model::{Error, Fault, Load, Mark, Push, secs},
    timeline,
};

const PAGE: &str = include_str!("page.html");
/// A file of 20 MiB, or any command.
const MAX_BODY: usize = 21 << 20;
const DEFAULT_WINDOW: Duration = Duration::from_secs(5);
const DEFAULT_SETTLED: Duration = Duration::from_secs(30);
const DEFAULT_MINUTES: f64 = 3.0;

pub(crate) async fn listen(emulator: Emulator, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let emulator = emulator.clone();
        let stop = emulator.stopped().clone();
        let service = service_fn(move |request| {
            let emulator = emulator.clone();
            async move { Ok::<_, std::convert::Infallible>(handle(&emulator, request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move { stop.run_until_cancelled(connection).await });
    }
}

/// Why a request was refused.
#[derive(Debug)]
struct Refused(StatusCode, String);

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let status = if error == Error::UnknownBot { StatusCode::NOT_FOUND } else { StatusCode::BAD_REQUEST };
        Self(status, error.to_string())
    }
}

fn bad(text: impl std::fmt::Display) -> Refused {
    Refused(StatusCode::BAD_REQUEST, text.to_string())
}

async fn handle(emulator: &Emulator, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let query = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return failure(&bad("the body is too big or was cut off"));
    };
    let admin = Admin { emulator, query, body: body.to_bytes() };
    let answer = match (&parts.method, parts.uri.path()) {
        (&Method::GET, "/") => return text("text/html; charset=utf-8", PAGE.into()),
        (&Method::GET, "/healthz") => return text("text/plain", "ok".into()),
        (&Method::POST, path) => admin.post(path),
        (&Method::DELETE, path) => admin.delete(path),
        (&Method::GET, path) => admin.get(path).await,
        _ => Err(Refused(StatusCode::METHOD_NOT_ALLOWED, "GET, POST or DELETE".to_owned())),
    };
    match answer {
        Ok(value) => text("application/json", value.to_string()),
        Err(refused) => failure(&refused),
    }
}

fn text(content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn failure(Refused(status, error): &Refused) -> Response<Full<Bytes>> {
    let mut response = text("application/json", json!({"error": error}).to_string());
    *response.status_mut() = *status;
    response
}

struct Admin<'a> {
    emulator: &'a Emulator,
    query: Vec<(String, String)>,
    body: Bytes,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewBot {
    token: String,
    username: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lane {
    ip: IpAddr,
    pod: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Clock {
    #[serde(with = "secs")]
    advance_seconds: Duration,
}

type Answer = Result<Value, Refused>;

// === impl Admin ===

impl Admin<'_> {
    fn post(&self, path: &str) -> Answer {
        let e = self.emulator;
        match path {
            "/bots" => {
                let bot: NewBot = self.whole()?;
                e.add_bot(&bot.token, &bot.username)?;
            }
            "/push" => {
                let (token, push) = self.for_bot::<Push>()?;
                return Ok(json!({"ids": e.push(&token, push)?}));
            }
            "/files" => {
                let name = self.argument("name").unwrap_or("file.bin");
                return Ok(json!({"file_id": e.add_file(&self.token()?, name, self.body.clone())?}));
            }
            "/clock" => {
                let clock: Clock = self.whole()?;
                e.advance(clock.advance_seconds);
            }
            "/load" => {
                let (token, load) = self.for_bot::<Load>()?;
                e.load(&token, load)?;
            }
            "/faults" => {
                let (token, fault) = self.for_bot::<Fault>()?;
                e.fault(&token, fault)?;
            }
            "/marks" => {
                let at = e.mark(self.whole::<Mark>()?)?;
                return Ok(json!({"at_ms": at.as_secs_f64() * 1000.0}));
            }
            "/lanes" => {
                let lane: Lane = self.whole()?;
                e.name_lane(lane.ip, &lane.pod);
            }
            _ => return Err(not_found(path)),
        }
        Ok(json!({"ok": true}))
    }

    fn delete(&self, path: &str) -> Answer {
        if path == "/records" {
            let keep = self.seconds("keep")?.unwrap_or_default();
            return Ok(json!({"forgotten": self.emulator.forget(self.argument("token"), keep)?}));
        }
        let token = self.token()?;
        match path {
            "/load" => self.emulator.stop_load(&token)?,
            "/faults" => self.emulator.clear_faults(&token)?,
            _ => return Err(not_found(path)),
        }
        Ok(json!({"ok": true}))
    }

    async fn get(&self, path: &str) -> Answer {
        let e = self.emulator;
        match path {
            "/verdict" => {
                let window = self.seconds("window")?.unwrap_or(DEFAULT_WINDOW);
                match self.argument("token") {
                    Some(token) => value(&e.bot_verdict(token, window)?),
                    None => value(&e.verdict(window)),
                }
            }
            "/settled" => {
                let limit = self.seconds("timeout")?.unwrap_or(DEFAULT_SETTLED);
                value(&e.settled(self.argument("token"), limit, self.seconds("quiet")?).await?)
            }
            "/ledger" => value(&e.ledger(&self.token()?)?),
            "/polls" => value(&e.polls(&self.token()?)?),
            "/requests" => value(&e.requests(&self.token()?)?),
            "/connections" => value(&e.connections(self.argument("token"))?),
            "/timeline" => {
                let minutes = self.number("minutes")?.unwrap_or(DEFAULT_MINUTES);
                value(&timeline::timeline(e, Duration::try_from_secs_f64(minutes * 60.0).map_err(bad)?))
            }
            _ => Err(not_found(path)),
        }
    }

    // === reading requests ===

    fn whole<T: DeserializeOwned>(&self) -> Result<T, Refused> {
        serde_json::from_slice(&self.body).map_err(bad)
    }

    /// A body of `token` and the members of `T`.
    fn for_bot<T: DeserializeOwned>(&self) -> Result<(String, T), Refused> {
        let mut members: Map<String, Value> = self.whole()?;
        let token = match members.remove("token") {
            Some(Value::String(token)) => token,
            Some(_) => return Err(bad("token: a string")),
            None => self.token()?,
        };
        Ok((token, serde_json::from_value(Value::Object(members)).map_err(bad)?))
    }

    fn argument(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn token(&self) -> Result<String, Refused> {
        if let Some(token) = self.argument("token") {
            return Ok(token.to_owned());
        }
        let state = self.emulator.state();
        let mut tokens = state.bots.keys();
        match (tokens.next(), tokens.next()) {
            (Some(only), None) => Ok(only.clone()),
            _ => Err(bad("which bot? token= is missing")),
        }
    }

    fn number(&self, name: &str) -> Result<Option<f64>, Refused> {
        let parse = |text: &str| text.parse::<f64>().map_err(|_| bad(format!("{name}: a number")));
        self.argument(name).map(parse).transpose()
    }

    fn seconds(&self, name: &str) -> Result<Option<Duration>, Refused> {
        let duration = |seconds| Duration::try_from_secs_f64(seconds).map_err(|e| bad(format!("{name}: {e}")));
        self.number(name)?.map(duration).transpose()
    }
}

fn value(answer: &impl Serialize) -> Answer {
    serde_json::to_value(answer).map_err(|e| Refused(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

fn not_found(path: &str) -> Refused {
    Refused(StatusCode::NOT_FOUND, format!("no such thing here: {path}"))
}
