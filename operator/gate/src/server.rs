//! The bot's side: connections, routing, held requests.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pollux_clock::BootInstant;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::answers::{self, Body};
use crate::args::{self, Args, BotPath, Method, Refused};
use crate::body::Finished;
use crate::core::{Closed, ConnectionId, Input, RequestId};
use crate::driver::{Held, Message, Shared};
use crate::fence;
use crate::proxy::Outgoing;
use crate::{get_me, proxy, webhook};

/// The server's own limit for a request's line and headers: a buffer must hold all of it.
const LARGEST_HEAD: usize = 256 << 10;
/// Pause after a failure to accept (no file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

static IDS: AtomicU64 = AtomicU64::new(1);

fn next_id() -> u64 {
    IDS.fetch_add(1, Ordering::Relaxed)
}

/// One connection, as far as the rules care.
struct Connection {
    id: ConnectionId,
    shared: Arc<Shared>,
    /// It has made a request with the bot's token, so it is the bot's.
    known: AtomicBool,
    reused: AtomicBool,
    open: AtomicUsize,
    interrupted: AtomicBool,
    last_answer: AtomicU64,
}

/// A request that is being answered on a connection.
struct Open {
    connection: Arc<Connection>,
    finished: bool,
}

/// A held `getUpdates`: when the bot goes away, hyper drops the answer that it was waiting for, and the core hears of it.
struct Waiting {
    shared: Arc<Shared>,
    id: RequestId,
    answered: bool,
}

/// Serves the bot until the gate stops; then finishes what was begun.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.stopping.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(shared.clone(), stream));
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection(shared: Arc<Shared>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let connection = Arc::new(Connection {
        id: ConnectionId(next_id()),
        shared: shared.clone(),
        known: AtomicBool::new(false),
        reused: AtomicBool::new(false),
        open: AtomicUsize::new(0),
        interrupted: AtomicBool::new(false),
        last_answer: AtomicU64::new(0),
    });
    let service = service_fn(|request| {
        let connection = connection.clone();
        async move { Ok::<_, Infallible>(route(connection, request).await) }
    });
    let serving = protocol().serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shared.stopping.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection of the bot ended");
    }
    connection.closed();
}

/// Without a time-out of its own: the gate is never the side that closes an idle connection (R3). What is read ahead of a
/// slow peer is bounded, or a few uploads at once would take more memory than the rest of the agent (R23).
fn protocol() -> http1::Builder {
    let mut protocol = http1::Builder::new();
    protocol.header_read_timeout(None).max_buf_size(LARGEST_HEAD);
    protocol
}

// === impl Connection ===

impl Connection {
    /// A request with the bot's token was seen on it.
    fn introduce(&self) {
        if self.known.swap(true, Ordering::Relaxed) {
            self.reused.store(true, Ordering::Relaxed);
        } else {
            self.shared.input(Input::Connected(self.id));
        }
    }

    fn closed(&self) {
        if !self.known.load(Ordering::Relaxed) {
            return;
        }
        let how = if self.interrupted.load(Ordering::Relaxed) || self.open.load(Ordering::Relaxed) > 0 {
            Closed::Interrupted
        } else {
            let since = BootInstant::now() - fence::instant(self.last_answer.load(Ordering::Relaxed));
            Closed::Idle { since, reused: self.reused.load(Ordering::Relaxed) }
        };
        self.shared.input(Input::Disconnected(self.id, how));
    }
}

// === impl Open ===

impl Open {
    fn new(connection: &Arc<Connection>) -> Self {
        connection.open.fetch_add(1, Ordering::Relaxed);
        Self { connection: connection.clone(), finished: false }
    }
}

impl Finished for Open {
    fn finished(&mut self) {
        if !std::mem::replace(&mut self.finished, true) {
            self.connection.last_answer.store(fence::nanos(BootInstant::now()), Ordering::Relaxed);
            self.connection.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.finished {
            self.connection.interrupted.store(true, Ordering::Relaxed);
            self.connection.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.answered {
            self.shared.input(Input::Abandoned(self.id));
        }
    }
}

/// Answers one request.
async fn route(connection: Arc<Connection>, request: Request<Incoming>) -> Response<Body> {
    let shared = connection.shared.clone();
    let (mut parts, body) = request.into_parts();
    let Some(mut path) = BotPath::parse(parts.uri.path()) else {
        return own(&shared, &parts.method, parts.uri.path());
    };
    if !shared.tokens.knows(&path.token) {
        debug!(path = "/bot***", "a request with another token");
        return answers::error(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    connection.introduce();
    let mut open = Open::new(&connection);
    let mut args = Args::default();
    if path.method.is_empty() && !path.file {
        args = Args::of_query(parts.uri.query());
        path.method = args.get("method").unwrap_or_default().to_ascii_lowercase();
    }
    if path.file || (Method::of(&path.method) == Method::Other && !path.method.is_empty()) {
        let headers = std::mem::take(&mut parts.headers);
        return proxy::pass(&shared, &path, &parts, headers, Outgoing::Stream(body), open).await;
    }
    let body = match read(&parts, body, &mut args).await {
        Ok(body) => body,
        Err(refused) => {
            open.finished();
            let (status, description) = refused.answer();
            return answers::error(status, description);
        }
    };
    if path.method.is_empty() {
        path.method = args.get("method").unwrap_or_default().to_ascii_lowercase();
    }
    let method = Method::of(&path.method);
    if method == Method::Other {
        let headers = std::mem::take(&mut parts.headers);
        return proxy::pass(&shared, &path, &parts, headers, Outgoing::Read(body), open).await;
    }
    let response = match parts.method {
        http::Method::GET | http::Method::POST => own_method(&shared, method, &path, &args).await,
        _ => answers::empty(StatusCode::NOT_IMPLEMENTED),
    };
    open.finished();
    response
}

/// Reads the arguments of a call that may be the gate's, and gives its body back.
async fn read(parts: &http::request::Parts, body: Incoming, args: &mut Args) -> Result<Bytes, Refused> {
    let body = Limited::new(body, args::LARGEST).collect().await.map_err(|_| Refused::TooLong)?.to_bytes();
    *args = Args::of_query(parts.uri.query());
    args.read(&parts.headers, body.clone()).await?;
    Ok(body)
}

/// The methods that the gate answers itself.
async fn own_method(shared: &Arc<Shared>, method: Method, path: &BotPath<'_>, args: &Args) -> Response<Body> {
    match method {
        Method::GetUpdates => get_updates(shared, path, args).await,
        Method::GetMe => {
            let call = proxy::Call::start(shared, path);
            call.answered(get_me::serve(shared, path.test).await)
        }
        Method::SetWebhook if args.get("url").is_some_and(|url| !url.is_empty()) => {
            suppressed(shared, "setWebhook");
            answers::error(StatusCode::BAD_REQUEST, "Bad Request: webhook is managed by the gate")
        }
        Method::SetWebhook | Method::DeleteWebhook => {
            let drop = args.flag("drop_pending_updates");
            let dropping = drop && webhook::wants_drop(shared);
            shared.input(Input::WebhookUnwanted { drop: drop && !dropping });
            if dropping {
                webhook::drop_done(shared).await;
            }
            answers::done("Webhook is already deleted")
        }
        Method::Close => answers::json(StatusCode::OK, r#"{"ok":true,"result":true}"#),
        Method::LogOut => {
            suppressed(shared, "logOut");
            answers::error(StatusCode::BAD_REQUEST, "Bad Request: logOut is refused by the gate")
        }
        Method::Other => answers::error(StatusCode::NOT_FOUND, "Not Found: method not found"),
    }
}

fn suppressed(shared: &Shared, method: &'static str) {
    shared.input(Input::Suppressed(method));
}

/// Holds the request until the core says what to answer.
async fn get_updates(shared: &Arc<Shared>, path: &BotPath<'_>, args: &Args) -> Response<Body> {
    shared.test_dc.store(path.test, Ordering::Relaxed);
    let id = RequestId(next_id());
    let (answer, held) = oneshot::channel();
    let mut waiting = Waiting { shared: shared.clone(), id, answered: false };
    let _ = shared.messages.send(Message::Poll(id, args.poll(), answer));
    let held = held.await;
    waiting.answered = true;
    match held {
        // R8: this task may have been stopped between the core's decision and here.
        Ok(Held::Updates(body)) if shared.fence.holds() => answers::json(StatusCode::OK, body),
        Ok(Held::Updates(_)) => {
            shared.input(Input::Undelivered(id));
            answers::no_updates()
        }
        Ok(Held::Empty) | Err(_) => answers::no_updates(),
    }
}

/// The gate's own pages: for jobs of the bot that only the leader may do, and for work that makes no calls.
fn own(shared: &Shared, verb: &http::Method, path: &str) -> Response<Body> {
    match path {
        "/busy" | "/idle" if verb == http::Method::POST => {
            shared.input(if path == "/busy" { Input::Busy } else { Input::Idle });
            answers::json(StatusCode::OK, Bytes::from_static(br#"{"ok":true}"#))
        }
        "/busy" | "/idle" => answers::error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"),
        "/healthz" => answers::json(StatusCode::OK, Bytes::from_static(br#"{"ok":true}"#)),
        "/leader" => {
            let epoch = shared.status.borrow().leading.filter(|_| shared.fence.holds());
            let status = if epoch.is_some() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let left = epoch.map_or(0.0, |_| shared.fence.left().as_secs_f64());
            let body = serde_json::json!({"leader": epoch.is_some(), "epoch": epoch, "remainingSeconds": left});
            answers::json(status, body.to_string())
        }
        _ => answers::error(StatusCode::NOT_FOUND, "Not Found"),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Mutex;
    use std::time::Instant;

    use http_body_util::Full;
    use hyper::rt::{Sleep, Timer};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// The server's own limit for an idle connection; clients keep theirs for 10 to 300 s.
    const SHORTEST_IDLE: Duration = Duration::from_secs(500);

    /// A clock that never rings, and remembers for when it was set.
    #[derive(Clone, Default)]
    struct Remembers(Arc<Mutex<Vec<Duration>>>);

    struct Never;

    impl Future for Never {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<()> {
            std::task::Poll::Pending
        }
    }

    impl Sleep for Never {}

    impl Timer for Remembers {
        fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
            self.0.lock().unwrap().push(duration);
            Box::pin(Never)
        }

        fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
            self.sleep(deadline.saturating_duration_since(Instant::now()))
        }
    }

    /// Serves one request, lets the connection idle, and returns the times after which it would have been closed.
    async fn limits(mut protocol: http1::Builder) -> Vec<Duration> {
        let clock = Remembers::default();
        let (mut bot, gate) = tokio::io::duplex(4096);
        let service = service_fn(async |_| Ok::<_, Infallible>(Response::new(Full::new(Bytes::new()))));
        tokio::spawn(protocol.timer(clock.clone()).serve_connection(TokioIo::new(gate), service));
        for _ in 0..2 {
            bot.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                answer.push(bot.read_u8().await.unwrap());
            }
        }
        let set = clock.0.lock().unwrap();
        set.clone()
    }

    #[tokio::test]
    async fn r03_an_idle_connection_is_kept_as_long_as_the_server_keeps_it() {
        let limits = limits(protocol()).await;
        assert!(limits.iter().all(|limit| *limit >= SHORTEST_IDLE), "{limits:?}");
    }

    /// What the test above would see otherwise.
    #[tokio::test]
    async fn r03_the_library_by_itself_would_close_it() {
        let limits = limits(http1::Builder::new()).await;
        assert!(limits.iter().any(|limit| *limit < SHORTEST_IDLE), "{limits:?}");
    }
}
