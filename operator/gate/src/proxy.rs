//! Everything that is not `getUpdates`: passed through as it is, on a leader, a standby and a terminating gate alike (R22).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use pollux_clock::BootInstant;
use tracing::{debug, warn};

use crate::answers::{self, Body};
use crate::args::BotPath;
use crate::body::{Activity, Download, Finished, Upload};
use crate::core;
use crate::driver::Shared;
use crate::metrics;

/// They concern one connection only (RFC 9110, 7.6.1); `Host` is the upstream's. `Expect` was honoured by the gate.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
    header::EXPECT,
];

/// A call in flight (R24): the core hears of its start and, whatever happens, of its end.
pub(crate) struct Call {
    shared: Arc<Shared>,
    method: &'static str,
    /// A call that a handler makes: it says that the bot works.
    counts: bool,
    started: BootInstant,
    status: u16,
    finished: bool,
}

// === impl Call ===

impl Call {
    pub(crate) fn start(shared: &Arc<Shared>, path: &BotPath<'_>) -> Self {
        let counts = !path.file && !matches!(path.method.as_str(), "getme" | "getwebhookinfo");
        let started = BootInstant::now();
        shared.called(core::Call::Started { counts, began: started }, started);
        shared.calls_in_flight.fetch_add(1, Ordering::Relaxed);
        let method = metrics::label(if path.file { "file" } else { &path.method });
        Self { shared: shared.clone(), method, counts, started, status: 0, finished: false }
    }

    fn over(&self, counts: bool, now: BootInstant) {
        self.shared.called(core::Call::Ended { counts, began: self.started }, now);
        self.shared.calls_in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// An answer that the gate has in full.
    pub(crate) fn answered(mut self, response: Response<Body>) -> Response<Body> {
        self.status = response.status().as_u16();
        self.finished();
        response
    }
}

impl Finished for Call {
    fn finished(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let now = BootInstant::now();
        self.shared.metrics.called(self.method, self.status, now - self.started);
        self.over(self.counts, now);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.finished {
            let now = BootInstant::now();
            self.shared.metrics.broken(self.method, now - self.started);
            self.over(false, now);
        }
    }
}

/// What the answer of a call is guarded by: the call itself, and whatever the connection wants to know.
pub(crate) struct Guard<C> {
    pub(crate) call: Call,
    pub(crate) connection: C,
}

impl<C: Finished> Finished for Guard<C> {
    fn finished(&mut self) {
        self.call.finished();
        self.connection.finished();
    }
}

/// A request's body on its way out.
pub(crate) enum Outgoing {
    /// It streams.
    Stream(Incoming),
    /// The gate has read it, to look for a method in it.
    Read(Bytes),
}

/// Passes a call through: its method and URL are in `parts`, its headers are given away. `connection` hears of the end of the answer.
pub(crate) async fn pass<C: Finished + Send + Unpin + 'static>(
    shared: &Arc<Shared>,
    path: &BotPath<'_>,
    parts: &http::request::Parts,
    headers: HeaderMap,
    body: Outgoing,
    connection: C,
) -> Response<Body> {
    let mut guard = Guard { call: Call::start(shared, path), connection };
    let activity = Activity::new();
    let (body, rest) = match body {
        Outgoing::Stream(body) => {
            let upload = Upload::new(body, activity.clone());
            (upload.clone().boxed_unsync(), Some(upload))
        }
        Outgoing::Read(bytes) => (answers::full(bytes), None),
    };
    let answer = match outgoing(shared, path, parts, headers, body) {
        Some(request) => {
            tokio::select! {
                answer = shared.client.request(request) => answer.map_err(|error| kind(&error)),
                () = activity.over() => Err("no answer for ten minutes"),
            }
        }
        None => Err("the path cannot be passed on"),
    };
    match answer {
        Ok(response) => {
            guard.call.status = response.status().as_u16();
            forward(path, response, guard)
        }
        Err(_) if rest.as_ref().is_some_and(Upload::broken_off) => {
            debug!(path = "/bot***", method = guard.call.method, "the bot broke its request off");
            // Nobody reads it.
            answers::bad_gateway()
        }
        Err(reason) => {
            // The error's own text could hold the URL, and the URL holds the token.
            warn!(path = "/bot***", method = guard.call.method, reason, "upstream failed; answered 502");
            if let Some(upload) = rest {
                upload.finish().await;
            }
            guard.connection.finished();
            guard.call.answered(answers::bad_gateway())
        }
    }
}

fn kind(error: &hyper_util::client::legacy::Error) -> &'static str {
    if error.is_connect() { "cannot connect" } else { "the connection broke" }
}

fn outgoing(
    shared: &Shared,
    path: &BotPath<'_>,
    parts: &http::request::Parts,
    headers: HeaderMap,
    body: Body,
) -> Option<Request<Body>> {
    let token = shared.tokens.current();
    let url = shared.origin.path(path.file, &token, path.rest, parts.uri.query());
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = shared.origin.uri(url)?;
    *request.headers_mut() = end_to_end(headers);
    Some(request)
}

fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    // What `Connection` names concerns the connection too.
    let named = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named: Vec<_> = named.flat_map(|list| list.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect();
    let hop = |name: &HeaderName| {
        HOP_BY_HOP.contains(name)
            || matches!(name.as_str(), "keep-alive" | "proxy-connection")
            || named.iter().any(|named| name == named.as_str())
    };
    let gone: Vec<_> = headers.keys().filter(|name| hop(name)).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
    headers
}

/// Gives the bot the answer as it is, but an error page in place of JSON (R23: it makes one library deaf for ever).
fn forward<C: Finished + Send + Unpin + 'static>(
    path: &BotPath<'_>,
    response: Response<Incoming>,
    mut guard: Guard<C>,
) -> Response<Body> {
    let (parts, body) = response.into_parts();
    let json = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let json = json.is_some_and(|kind| kind.contains("json"));
    if !path.file && parts.status.as_u16() >= 400 && !json {
        guard.connection.finished();
        return guard.call.answered(rewritten(&parts));
    }
    let mut answer = Response::new(Download::new(body, guard).boxed_unsync());
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = end_to_end(parts.headers);
    answer
}

fn rewritten(parts: &http::response::Parts) -> Response<Body> {
    let reason = parts.status.canonical_reason().unwrap_or("Bad Gateway");
    let mut answer = answers::error(parts.status, reason);
    if let Some(retry) = parts.headers.get(header::RETRY_AFTER) {
        answer.headers_mut().insert(header::RETRY_AFTER, retry.clone());
    }
    answer
}
