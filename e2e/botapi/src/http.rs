//! The Bot API port: HTTP/1.1 in, calls to the emulator, answers out.
//!
//! A connection that the client closes ends its handler, not its request: a poll keeps its slot until its timeout or until it is evicted.
//! The journal is told that nobody reads the answer.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, OnceLock, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header::{
        ACCEPT_RANGES, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE,
        RETRY_AFTER,
    },
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown, sockopt::set_socket_linger};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

use crate::{
    answer::{Answer, Content},
    args::{Args, Target, file_target, target},
    body::{Refused, decoded},
    bot::{DOWNLOAD, Reaction, Sender},
    connections::Connections,
    emulator::Emulator,
    journal::Origin,
    model::{ConnectionEnd, Error},
    server::RequestId,
};

/// Bytes of a request's head; above that it is answered with 431.
const MAX_HEADERS: usize = 1 << 18;
/// The server has no limit of its own here.
const MAX_HEADER_LINES: usize = 4096;

/// One client's connection.
pub(crate) struct Connection {
    id: u64,
    ip: IpAddr,
    lane: Option<Arc<str>>,
    /// Owned by the connection's task: who waits for an answer must not keep the socket open.
    stream: Weak<TcpStream>,
    tls: bool,
    log: Arc<Connections>,
    end: OnceLock<ConnectionEnd>,
}

/// The handler gives up: hyper closes the connection.
#[derive(Debug, thiserror::Error)]
#[error("reset on purpose")]
struct Reset;

pub(crate) async fn listen(emulator: Emulator, listener: TcpListener, lane: Option<Arc<str>>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // An IPv4 peer of a dual-stack port is that IPv4 address to everybody else.
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                let stop = emulator.stopped().clone();
                let task = serve(emulator.clone(), stream, peer, lane.clone());
                tokio::spawn(async move { stop.run_until_cancelled(task).await });
            }
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(emulator: Emulator, stream: TcpStream, peer: SocketAddr, lane: Option<Arc<str>>) {
    let _ = stream.set_nodelay(true);
    let stream = Arc::new(stream);
    let tls = emulator.tls().cloned();
    let connection = Arc::new(Connection {
        id: emulator.next_connection(),
        ip: peer.ip(),
        lane,
        stream: Arc::downgrade(&stream),
        tls: tls.is_some(),
        log: emulator.connections_log().clone(),
        end: OnceLock::new(),
    });
    connection.log.opened(connection.origin(), peer);
    let socket = Socket(stream, connection.clone());
    let result = match tls {
        None => serve_http(emulator, connection.clone(), socket).await.map_err(io::Error::other),
        Some(tls) => match tls.accept(socket).await {
            Ok(stream) => serve_http(emulator, connection.clone(), stream).await.map_err(io::Error::other),
            Err(error) => Err(error),
        },
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection");
    }
    let end = *connection.end.get_or_init(|| ConnectionEnd::ServerFin);
    connection.log.closed(connection.id, end);
}

async fn serve_http<S>(emulator: Emulator, connection: Arc<Connection>, stream: S) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(move |request| {
        let (emulator, connection) = (emulator.clone(), connection.clone());
        async move { handle(emulator, connection, request).await }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    // Twice: hyper does not count exactly, and answers the same.
    server.max_buf_size(2 * MAX_HEADERS).max_headers(MAX_HEADER_LINES);
    server.serve_connection(TokioIo::new(stream), service).await
}

async fn handle(
    emulator: Emulator,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Reset> {
    if head_length(&request) > MAX_HEADERS {
        return Ok(refused(Refused::Bare(431)));
    }
    if request.uri().scheme().is_some() {
        let text = "Not Found: absolute URI is specified in the Request-Line";
        return Ok(response(Answer::error(404, text)));
    }
    if let Some((token, path)) = file_target(request.uri().path()) {
        return download(emulator, connection, &request, token, path).await;
    }
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return Ok(refused(Refused::Bare(501)));
    }
    let Some(target) = target(request.uri().path()) else {
        return Ok(response(Answer::error(404, "Not Found")));
    };
    let (parts, body) = request.into_parts();
    let args = match arguments(&parts, body).await {
        Ok(args) => args,
        Err(why) => return Ok(refused(why)),
    };
    answer(emulator, connection, target, args).await.map(response)
}

fn head_length(request: &Request<Incoming>) -> usize {
    let lines = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    request.uri().path_and_query().map_or(0, |p| p.as_str().len()) + lines.sum::<usize>()
}

/// Reads what a request asks for.
async fn arguments(parts: &http::request::Parts, body: Incoming) -> Result<Args, Refused> {
    let header = |name| parts.headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or("");
    let body = if body.is_end_stream() {
        None
    } else {
        let stream = body.into_data_stream().map_err(io::Error::other).boxed();
        Some(decoded(&header(CONTENT_ENCODING).to_ascii_lowercase(), stream)?)
    };
    Args::read(parts.uri.query(), header(CONTENT_TYPE), body).await
}

/// Has a request executed and waits for its answer.
async fn answer(emulator: Emulator, connection: Arc<Connection>, target: Target, args: Args) -> Result<Answer, Reset> {
    let (id, reaction) = emulator.call(&connection, &target, args);
    let reaction = match reaction {
        Ok(reaction) => reaction,
        Err(error) => return Ok(unauthorized(&error, &target.method)),
    };
    let mut watch = Watch { emulator, token: target.token, request: id, answered: false };
    let answer = react(reaction).await;
    watch.answered = true;
    let answer = answer.ok_or_else(|| connection.reset())?;
    connection.log.answered(connection.id, id, answer.status, !connection.alive());
    Ok(answer)
}

/// `/file/bot<token>/<path>`: GET and HEAD, whole or one range.
async fn download(
    emulator: Emulator,
    connection: Arc<Connection>,
    request: &Request<Incoming>,
    token: String,
    path: String,
) -> Result<Response<Full<Bytes>>, Reset> {
    let head = *request.method() == Method::HEAD;
    if !head && *request.method() != Method::GET {
        return Ok(refused(Refused::Bare(405)));
    }
    let range = request.headers().get(RANGE).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let args = Args::of(vec![("file_path".to_owned(), path)]);
    let answer = answer(emulator, connection, Target { token, method: DOWNLOAD.to_owned() }, args).await?;
    Ok(file_response(answer, head, range.as_deref()))
}

fn unauthorized(error: &Error, method: &str) -> Answer {
    match error {
        Error::Token => Answer::error(401, "Unauthorized: invalid token specified"),
        _ if method.eq_ignore_ascii_case("close") => Answer::error(400, "Bad Request: the bot has already been closed"),
        _ => Answer::error(401, "Unauthorized"),
    }
}

/// None: no answer, reset the connection.
async fn react(reaction: Reaction) -> Option<Answer> {
    match reaction {
        Reaction::Answer(answer) => Some(answer),
        Reaction::Wait(answer) => answer.await.ok(),
        Reaction::Reset => None,
        Reaction::Hang(let_go) => {
            let_go.cancelled().await;
            None
        }
        Reaction::Late(delay, reaction) => {
            let answer = Box::pin(react(*reaction)).await;
            tokio::time::sleep(delay).await;
            answer
        }
        Reaction::ResetAfter(reaction) => {
            Box::pin(react(*reaction)).await;
            None
        }
    }
}

/// Tells the journal when the handler is dropped before its answer: the client has closed the connection.
struct Watch {
    emulator: Emulator,
    token: String,
    request: RequestId,
    answered: bool,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.answered {
            self.emulator.sender_gone(&self.token, self.request);
        }
    }
}

/// The rest of the request is not read: the connection ends with this answer.
fn refused(why: Refused) -> Response<Full<Bytes>> {
    let mut response = match why {
        Refused::Upload => response(Answer::error(413, "Request Entity Too Large")),
        Refused::Bare(status) => {
            let mut bare = Response::new(Full::default());
            *bare.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
            bare
        }
    };
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn file_response(answer: Answer, head: bool, range: Option<&str>) -> Response<Full<Bytes>> {
    if answer.content != Content::File {
        return response(answer);
    }
    let (body, length) = (answer.body.clone(), answer.body.len());
    let mut response = response(answer);
    response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let (part, content_range) = match range.and_then(|text| asked_range(text, length)) {
        None => (body, None),
        Some(Ok((from, to))) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            (body.slice(from..to), Some(format!("bytes {from}-{}/{length}", to - 1)))
        }
        Some(Err(OutOfRange)) => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            (Bytes::new(), Some(format!("bytes */{length}")))
        }
    };
    if let Some(value) = content_range.and_then(|text| HeaderValue::try_from(text).ok()) {
        response.headers_mut().insert(CONTENT_RANGE, value);
    }
    response.headers_mut().insert(CONTENT_LENGTH, part.len().into());
    *response.body_mut() = if head { Full::default() } else { Full::new(part) };
    response
}

/// The range has nothing of the file.
#[derive(Debug, PartialEq, Eq)]
struct OutOfRange;

/// The part that is asked for: from, and to (exclusive). None: no range, several, or one that is not understood; the whole file then.
fn asked_range(text: &str, length: usize) -> Option<Result<(usize, usize), OutOfRange>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let (from, to) = match (first.trim(), last.trim()) {
        ("", suffix) => (length.saturating_sub(suffix.parse().ok()?), length),
        (first, "") => (first.parse().ok()?, length),
        (first, last) => {
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            if last < first {
                return None;
            }
            (first, last.saturating_add(1).min(length))
        }
    };
    Some(if from < to { Ok((from, to)) } else { Err(OutOfRange) })
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let content_type = match answer.content {
        Content::Json => "application/json",
        Content::Html => "text/html",
        Content::File => "application/octet-stream",
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
    if let Some(seconds) = answer.retry_after {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    response
}

// === impl Connection ===

impl Connection {
    pub(crate) fn origin(&self) -> Origin {
        Origin { ip: self.ip, port_lane: self.lane.clone(), connection: self.id }
    }

    /// From now on closing it is a reset.
    fn reset(&self) -> Reset {
        let _ = self.end.set(ConnectionEnd::ServerReset);
        if let Some(stream) = self.stream.upgrade() {
            let _ = set_socket_linger(&*stream, Some(Duration::ZERO));
        }
        Reset
    }
}

impl Sender for Connection {
    fn unheard(&self, request: RequestId, status: u16) {
        self.log.answered(self.id, request, status, true);
    }

    /// Asks the kernel: the connection's task may not yet have been told of a FIN or a reset that is here already.
    fn alive(&self) -> bool {
        let Some(stream) = self.stream.upgrade() else {
            return false;
        };
        let mut record = [0_u8; 5];
        match recv(&*stream, &mut record[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((0, _)) => false,
            Ok(_) => !(self.tls && closes_tls(record)),
            Err(error) => matches!(error, rustix::io::Errno::AGAIN | rustix::io::Errno::INTR),
        }
    }
}

/// Whether a TLS record is a close_notify: an alert in the open (1.2), or two bytes of alert, one of type and a tag of 16 (1.3).
fn closes_tls(record: [u8; 5]) -> bool {
    record[0] == 0x15 || (record[0] == 0x17 && record[3..] == [0, 2 + 1 + 16])
}

/// A stream that can be asked for its state while hyper owns it.
struct Socket(Arc<TcpStream>, Arc<Connection>);

// === impl Socket ===

impl Socket {
    /// Notes who ended the connection; the first sign counts.
    fn ended(&self, error: Option<&io::Error>) {
        let reset = |e: &io::Error| matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe);
        let end = if error.is_some_and(reset) { ConnectionEnd::ClientReset } else { ConnectionEnd::ClientFin };
        let _ = self.1.end.set(end);
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read(buf.initialize_unfilled()) {
                Ok(n) => {
                    if n == 0 {
                        self.ended(None);
                    }
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.ended(Some(&error));
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.ended(Some(&error));
                    return Poll::Ready(Err(error));
                }
                Ok(n) => return Poll::Ready(Ok(n)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = self.1.end.set(ConnectionEnd::ServerFin);
        match shutdown(&*self.0, Shutdown::Write) {
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn pair(tls: bool) -> (TcpStream, Arc<TcpStream>, Connection) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("it listens");
        let stream = Arc::new(listener.accept().await.expect("a client").0);
        let ip = IpAddr::from([127, 0, 0, 1]);
        let log = Arc::new(Connections::new(std::time::Instant::now()));
        let (stream_of, end) = (Arc::downgrade(&stream), OnceLock::new());
        let connection = Connection { id: 1, ip, lane: None, stream: stream_of, tls, log, end };
        (client, stream, connection)
    }

    /// On loopback the kernel hands a segment over within the call; a deadline all the same.
    async fn becomes_dead(connection: &Connection) -> bool {
        let dead = async {
            while connection.alive() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), dead).await.is_ok()
    }

    #[tokio::test]
    async fn the_kernel_knows_of_a_fin_that_nobody_has_read() {
        let (client, _stream, connection) = pair(false).await;
        assert!(connection.alive());
        drop(client);
        assert!(becomes_dead(&connection).await);
    }

    #[tokio::test]
    async fn the_kernel_knows_of_a_reset_that_nobody_has_read() {
        let (client, _stream, connection) = pair(false).await;
        set_socket_linger(&client, Some(Duration::ZERO)).expect("linger");
        drop(client);
        assert!(becomes_dead(&connection).await);
    }

    #[tokio::test]
    async fn bytes_that_wait_are_a_sign_of_life_except_those_that_close_tls() {
        for (record, tls, closes) in [
            ([0x15, 3, 3, 0, 2], true, true),
            ([0x17, 3, 3, 0, 19], true, true),
            ([0x17, 3, 3, 1, 0], true, false),
            (*b"GET /", false, false),
        ] {
            let (mut client, stream, connection) = pair(tls).await;
            client.write_all(&record).await.expect("write");
            stream.readable().await.expect("it arrives");
            assert_eq!(connection.alive(), !closes, "{record:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_whose_task_has_ended_is_dead() {
        let (_client, stream, connection) = pair(false).await;
        drop(stream);
        assert!(!connection.alive());
    }
}
