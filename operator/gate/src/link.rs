//! The one connection for upstream polls (R10, R12, R13).
//!
//! It is closed by a TCP reset, always: after an ordinary close, bytes that are still in the kernel can be delivered
//! minutes later, when a partition heals, and would throw out the new leader. Dropping it closes it, synchronously,
//! because no other task holds any part of it. Every write of a request looks at the fence first.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioIo;
use pollux_clock::BootInstant;
use rustix::net::sockopt;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::ServiceExt;

use crate::answers::BoxError;
use crate::fence::{self, Fence};
use crate::upstream::Origin;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Unacknowledged data, or an unanswered keep-alive, breaks the connection after this time (R12). No longer than the shortest
/// lease, so that the kernel of a stopped process does not send its poll to a successor's disadvantage (R13).
const USER_TIMEOUT: Duration = Duration::from_secs(3);
/// Telegram cuts an answer at 4 MiB, before or after the update that crosses the line (512 KiB at most).
const LARGEST_ANSWER: usize = 5 << 20;

/// A `getUpdates` as it goes over the wire.
pub(crate) struct Job {
    pub(crate) path: String,
    pub(crate) form: String,
    pub(crate) patience: Duration,
}

/// What happened on the connection.
pub(crate) enum LinkEvent {
    /// The request was handed to the socket.
    Written(BootInstant),
    /// The request is over.
    Ended(Result<Answer, LinkError>),
}

/// An answer of the server.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

/// Why there is none. No message holds a URL.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("the fence of the lease has passed")]
    Fenced,
    /// The connection had been idle before and broke before an answer began: it was closed by the server, most likely.
    #[error("the idle connection was closed")]
    Stale,
    #[error("the connection broke: {0}")]
    Broken(BoxError),
}

type Connecting = Pin<Box<dyn Future<Output = Option<Connection>> + Send>>;
type Exchanging = Pin<Box<dyn Future<Output = (Result<Answer, LinkError>, Option<Connection>)> + Send>>;

enum State {
    Closed,
    Warming(Connecting),
    Idle(Connection),
    Busy(Exchanging),
}

/// The connection, or the absence of one.
pub(crate) struct Link {
    origin: Origin,
    pass: Arc<Pass>,
    state: State,
    reported: bool,
}

/// Shared by the link and its socket.
struct Pass {
    fence: Fence,
    /// A request is on its way: writes need the fence. (The TLS handshake of a standby does not.)
    armed: AtomicBool,
    written: AtomicU64,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>,
    used: bool,
}

// === impl Link ===

impl Link {
    pub(crate) fn new(origin: Origin, fence: Fence) -> Self {
        let pass = Arc::new(Pass { fence, armed: AtomicBool::new(false), written: AtomicU64::new(0) });
        Self { origin, pass, state: State::Closed, reported: false }
    }

    /// Connects, if there is no connection.
    pub(crate) fn warm(&mut self) {
        if let State::Closed = self.state {
            let connecting = connect(self.origin.clone(), self.pass.clone());
            self.state = State::Warming(Box::pin(async move { connecting.await.ok() }));
        }
    }

    /// Sends a request. The one before must be over or reset.
    pub(crate) fn send(&mut self, job: Job) {
        self.reported = false;
        self.pass.written.store(0, Ordering::SeqCst);
        let state = std::mem::replace(&mut self.state, State::Closed);
        let (ready, warming) = match state {
            State::Idle(connection) => (Some(connection), None),
            State::Warming(connecting) => (None, Some(connecting)),
            State::Closed | State::Busy(_) => (None, None),
        };
        let exchange = exchange(self.origin.clone(), self.pass.clone(), ready, warming, job);
        self.state = State::Busy(Box::pin(exchange));
    }

    /// Closes the connection with a reset, whatever it is doing.
    pub(crate) fn reset(&mut self) {
        self.state = State::Closed;
        self.pass.armed.store(false, Ordering::SeqCst);
    }

    /// Waits for what happens next. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> LinkEvent {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<LinkEvent> {
        loop {
            match &mut self.state {
                State::Closed => return Poll::Pending,
                State::Warming(connecting) => {
                    self.state = ready!(connecting.as_mut().poll(cx)).map_or(State::Closed, State::Idle);
                }
                State::Idle(connection) => {
                    // Whatever an idle connection does is its end.
                    let _ = ready!(connection.driver.as_mut().poll(cx));
                    self.state = State::Closed;
                }
                State::Busy(exchanging) => {
                    let polled = exchanging.as_mut().poll(cx);
                    if let Some(at) = self.newly_written() {
                        if let Poll::Ready((result, connection)) = polled {
                            // Both at once: the end is told at the next call.
                            self.state = State::Busy(Box::pin(std::future::ready((result, connection))));
                        }
                        return Poll::Ready(LinkEvent::Written(at));
                    }
                    let (result, connection) = ready!(polled);
                    self.pass.armed.store(false, Ordering::SeqCst);
                    self.state = connection.map_or(State::Closed, State::Idle);
                    return Poll::Ready(LinkEvent::Ended(result));
                }
            }
        }
    }

    fn newly_written(&mut self) -> Option<BootInstant> {
        let written = self.pass.written.load(Ordering::SeqCst);
        if self.reported || written == 0 {
            return None;
        }
        self.reported = true;
        Some(fence::instant(written))
    }
}

/// Sends one request over `ready`, or over a new connection, and reads its answer, all within the job's patience.
async fn exchange(
    origin: Origin,
    pass: Arc<Pass>,
    ready: Option<Connection>,
    warming: Option<Connecting>,
    job: Job,
) -> (Result<Answer, LinkError>, Option<Connection>) {
    let fence = pass.fence.clone();
    let patience = job.patience;
    match timeout(patience, converse(origin, pass, ready, warming, job)).await {
        Ok(Ok((answer, connection))) => (Ok(answer), Some(connection)),
        Ok(Err(_)) if !fence.holds() => (Err(LinkError::Fenced), None),
        Ok(Err(error)) => (Err(error), None),
        Err(_) => (Err(LinkError::Timeout), None),
    }
}

async fn converse(
    origin: Origin,
    pass: Arc<Pass>,
    ready: Option<Connection>,
    warming: Option<Connecting>,
    job: Job,
) -> Result<(Answer, Connection), LinkError> {
    let warmed = match warming {
        Some(connecting) => connecting.await,
        None => ready,
    };
    let mut connection = match warmed.filter(|connection| !connection.sender.is_closed()) {
        Some(connection) => connection,
        None => connect(origin.clone(), pass.clone()).await.map_err(LinkError::Connect)?,
    };
    if !pass.fence.holds() {
        return Err(LinkError::Fenced);
    }
    pass.armed.store(true, Ordering::SeqCst);
    let reused = std::mem::replace(&mut connection.used, true);
    let request = request(&origin, job).map_err(|error| LinkError::Broken(error.into()))?;
    let answer = connection.ask(request, reused).await?;
    Ok((answer, connection))
}

fn request(origin: &Origin, job: Job) -> http::Result<Request<Full<Bytes>>> {
    Request::post(job.path)
        .header(HOST, origin.authority.as_str())
        .header(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))
        .body(Full::new(job.form.into()))
}

// === impl Connection ===

impl Connection {
    async fn ask(&mut self, request: Request<Full<Bytes>>, reused: bool) -> Result<Answer, LinkError> {
        let sender = &mut self.sender;
        let asking = async move {
            let broken = |error: hyper::Error| {
                if reused { LinkError::Stale } else { LinkError::Broken(error.into()) }
            };
            sender.ready().await.map_err(broken)?;
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), LARGEST_ANSWER);
            let body = body.collect().await.map_err(LinkError::Broken)?.to_bytes();
            Ok(Answer { status, body })
        };
        tokio::pin!(asking);
        let driver = &mut self.driver;
        let mut closed = false;
        std::future::poll_fn(|cx| {
            if !closed && driver.as_mut().poll(cx).is_ready() {
                closed = true;
            }
            asking.as_mut().poll(cx)
        })
        .await
    }
}

async fn connect(origin: Origin, pass: Arc<Pass>) -> io::Result<Connection> {
    let connecting = async {
        let tcp = reach(&origin, pass).await?;
        if !origin.tls {
            return http(tcp).await;
        }
        let name = ServerName::try_from(origin.host.clone()).map_err(io::Error::other)?;
        let tls = tokio_rustls::TlsConnector::from(origin.tls_config.clone()).connect(name, tcp).await?;
        http(tls).await
    };
    timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// A connection to the API: straight, or through the proxy, to which the socket's guards then apply.
async fn reach(origin: &Origin, pass: Arc<Pass>) -> io::Result<Socket> {
    let Some(proxy) = origin.proxy.clone() else {
        return dial(origin.host.clone(), origin.port, pass).await;
    };
    let dial = tower::service_fn(move |_: Uri| {
        let dialing = dial(proxy.host.clone(), proxy.port, pass.clone());
        async move { dialing.await.map(TokioIo::new) }
    });
    let tunnel = Tunnel::new(proxy.uri, dial).oneshot(proxy.target).await;
    tunnel.map(TokioIo::into_inner).map_err(|error| io::Error::other(format!("through the proxy: {}", chain(&error))))
}

/// An error and its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

async fn dial(host: String, port: u16, pass: Arc<Pass>) -> io::Result<Socket> {
    let tcp = TcpStream::connect((host, port)).await?;
    Ok(Socket { tcp: guarded(tcp)?, pass })
}

fn guarded(tcp: TcpStream) -> io::Result<TcpStream> {
    sockopt::set_tcp_nodelay(&tcp, true)?;
    sockopt::set_socket_linger(&tcp, Some(Duration::ZERO))?;
    sockopt::set_socket_keepalive(&tcp, true)?;
    sockopt::set_tcp_keepidle(&tcp, Duration::from_secs(5))?;
    sockopt::set_tcp_keepintvl(&tcp, Duration::from_secs(2))?;
    sockopt::set_tcp_keepcnt(&tcp, 3)?;
    sockopt::set_tcp_user_timeout(&tcp, u32::try_from(USER_TIMEOUT.as_millis()).unwrap_or(u32::MAX))?;
    Ok(tcp)
}

async fn http<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: T) -> io::Result<Connection> {
    let (sender, driver) = http1::handshake(TokioIo::new(io)).await.map_err(io::Error::other)?;
    Ok(Connection { sender, driver: Box::pin(driver), used: false })
}

/// A socket that writes nothing of a request after the fence, and notes when it wrote the first byte.
struct Socket {
    tcp: TcpStream,
    pass: Arc<Pass>,
}

// === impl Socket ===

impl Socket {
    fn allow(&self) -> io::Result<()> {
        if self.pass.armed.load(Ordering::SeqCst) && !self.pass.fence.holds() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the fence of the lease has passed"));
        }
        Ok(())
    }

    fn note(&self, written: &Poll<io::Result<usize>>) {
        if self.pass.armed.load(Ordering::SeqCst) && matches!(written, Poll::Ready(Ok(1..))) {
            let now = fence::nanos(BootInstant::now());
            let _ = self.pass.written.compare_exchange(0, now, Ordering::SeqCst, Ordering::SeqCst);
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.allow()?;
        let written = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.note(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.allow()?;
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
