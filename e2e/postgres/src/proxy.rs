//! A loopback proxy that loses what it is told to lose.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Stands between a client and a server on this machine. Everything passes until it is told otherwise.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    mode: Mode,
    /// Requests that contain this lose their replies, this many times.
    losing: Option<(Vec<u8>, usize)>,
    /// Requests that contain this stop here.
    holding: Option<Vec<u8>>,
    /// One of them stands here now.
    held: bool,
    /// Counts when they were let go.
    let_go: u64,
    /// Notifications do not pass.
    deaf: bool,
    lost: usize,
    disturbed: usize,
    /// Where new connections lead.
    upstream: u16,
    pairs: BTreeMap<u64, Pair>,
    /// Of these the server's end is gone, and the client is not told.
    half_open: BTreeSet<u64>,
    next: u64,
    closed: bool,
}

/// A connection's two ends.
#[derive(Debug)]
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Pass,
    Refuse,
    Hang,
    HangReplies,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Reply,
}

// === impl Proxy ===

impl Proxy {
    /// Listens on a free port for connections to `port` of this machine.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn start(port: u16) -> io::Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST, port)
    }

    /// The same on another address of this machine, for clients in a network namespace of their own.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn start_at(address: Ipv4Addr, port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        shared.lock().upstream = port;
        let accepting = shared.clone();
        thread::Builder::new().name("proxy".into()).spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.lock().closed {
                    break;
                }
                // A client that cannot be served sees its connection closed.
                let _ = accepting.serve(client);
            }
        })?;
        Ok(Self { address, shared })
    }

    /// The port to connect to.
    pub const fn port(&self) -> u16 {
        self.address.port()
    }

    /// Ends all connections and refuses new ones.
    pub fn cut(&self) {
        self.set(Mode::Refuse);
        self.end_all();
    }

    /// Ends all connections; new ones pass.
    pub fn end_all(&self) {
        let mut state = self.shared.lock();
        for pair in state.pairs.values() {
            let _ = pair.client.shutdown(Shutdown::Both);
            let _ = pair.server.shutdown(Shutdown::Both);
        }
        state.disturbed += state.pairs.len();
    }

    /// Leads to another port of this machine from now on: the address stays and another server answers. All connections end.
    pub fn retarget(&self, port: u16) {
        self.shared.lock().upstream = port;
        self.end_all();
    }

    /// The server sees all connections end and the clients are not told: what they send is swallowed. New ones pass.
    pub fn half_open(&self) {
        let mut state = self.shared.lock();
        let State { pairs, half_open, disturbed, .. } = &mut *state;
        *disturbed += pairs.len();
        for (id, pair) in pairs {
            half_open.insert(*id);
            let _ = pair.server.shutdown(Shutdown::Both);
        }
    }

    /// Nothing passes in either direction, and nobody is told: a network that swallows.
    pub fn hang(&self) {
        self.set(Mode::Hang);
    }

    /// Requests pass, replies do not, and nobody is told.
    pub fn hang_replies(&self) {
        self.set(Mode::HangReplies);
    }

    /// Everything passes again, also what hung.
    pub fn heal(&self) {
        self.set(Mode::Pass);
    }

    /// The next `count` requests that contain `text` are carried out by the server; their replies are lost, and so are their
    /// connections, after the server has finished.
    pub fn lose_replies_to(&self, text: &str, count: usize) {
        self.shared.lock().losing = Some((text.as_bytes().to_vec(), count));
    }

    /// Requests that contain `text` stop here, until [`Proxy::let_go`]; all else passes.
    pub fn hold(&self, text: &str) {
        self.shared.lock().holding = Some(text.as_bytes().to_vec());
    }

    /// Waits until a request is held. False if none is within `patience`.
    pub fn wait_until_held(&self, patience: Duration) -> bool {
        let none = |state: &mut State| !state.held;
        let waited = self.shared.changed.wait_timeout_while(self.shared.lock(), patience, none);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// What is held goes on, if its connection is still there ([`Proxy::end_all`] ends it first).
    pub fn let_go(&self) {
        let mut state = self.shared.lock();
        (state.holding, state.held) = (None, false);
        state.let_go += 1;
        self.shared.changed.notify_all();
    }

    /// From now on new connections get no notifications: what a pooler does that gives each transaction another connection.
    /// Without TLS only.
    pub fn swallow_notifications(&self) {
        self.shared.lock().deaf = true;
    }

    /// How many replies were lost that way.
    pub fn lost(&self) -> usize {
        self.shared.lock().lost
    }

    /// How many times something was disturbed: connections ended or refused, chunks held or swallowed, replies lost. A fault
    /// that disturbed nothing has shown nothing.
    pub fn disturbed(&self) -> usize {
        self.shared.lock().disturbed
    }

    fn set(&self, mode: Mode) {
        self.shared.lock().mode = mode;
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.cut();
        // Wakes the listener, so that it sees that it is over.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(self: &Arc<Self>, client: TcpStream) -> io::Result<()> {
        let port = {
            let mut state = self.lock();
            if state.mode == Mode::Refuse {
                state.disturbed += 1;
                return client.shutdown(Shutdown::Both);
            }
            state.upstream
        };
        let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let swallow = Arc::new(Mutex::new(false));
        let id = {
            let mut state = self.lock();
            state.next += 1;
            let id = state.next;
            state.pairs.insert(id, Pair { client: client.try_clone()?, server: server.try_clone()? });
            id
        };
        let (from, to) = (client.try_clone()?, server.try_clone()?);
        let (this, flag) = (self.clone(), swallow.clone());
        thread::spawn(move || this.copy(id, from, to, Direction::Request, &flag));
        let this = self.clone();
        thread::spawn(move || this.copy(id, server, client, Direction::Reply, &swallow));
        Ok(())
    }

    fn copy(&self, id: u64, mut from: TcpStream, mut to: TcpStream, direction: Direction, swallow: &Mutex<bool>) {
        let mut buffer = vec![0; 64 * 1024];
        let mut swallowed = Vec::new();
        let mut filter = (direction == Direction::Reply && self.lock().deaf).then(Messages::default);
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            let filtered = filter.as_mut().map(|filter| filter.without_notifications(&buffer[..n]));
            let chunk = filtered.as_deref().unwrap_or(&buffer[..n]);
            if direction == Direction::Request {
                self.hold_if_told(chunk);
            }
            if !self.passes(direction) {
                break;
            }
            let mut swallowing = swallow.lock().unwrap_or_else(PoisonError::into_inner);
            match direction {
                Direction::Request => *swallowing |= self.is_to_be_lost(chunk),
                Direction::Reply if *swallowing => {
                    swallowed.extend_from_slice(chunk);
                    if is_finished(&swallowed) {
                        let mut state = self.lock();
                        state.lost += 1;
                        state.disturbed += 1;
                        break;
                    }
                    continue;
                }
                Direction::Reply => {}
            }
            drop(swallowing);
            if !self.swallows(id) && to.write_all(chunk).is_err() && !self.swallows(id) {
                break;
            }
        }
        let mut state = self.lock();
        if direction == Direction::Reply && state.half_open.contains(&id) {
            return; // the client finds out for itself, and then the other direction ends
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
        state.pairs.remove(&id);
        state.half_open.remove(&id);
    }

    /// Whether the server's end is gone without a word to the client.
    fn swallows(&self, id: u64) -> bool {
        let mut state = self.lock();
        let swallows = state.half_open.contains(&id);
        state.disturbed += usize::from(swallows);
        swallows
    }

    /// Waits while what goes in this direction hangs. False if the connection is to end.
    fn passes(&self, direction: Direction) -> bool {
        let hangs = |state: &mut State| {
            state.mode == Mode::Hang || (state.mode == Mode::HangReplies && direction == Direction::Reply)
        };
        let mut state = self.lock();
        state.disturbed += usize::from(hangs(&mut state));
        let state = self.changed.wait_while(state, hangs).unwrap_or_else(PoisonError::into_inner);
        state.mode != Mode::Refuse
    }

    fn hold_if_told(&self, chunk: &[u8]) {
        let mut state = self.lock();
        if !state.holding.as_ref().is_some_and(|text| contains(chunk, text)) {
            return;
        }
        state.held = true;
        self.changed.notify_all();
        let since = state.let_go;
        let held = |state: &mut State| state.let_go == since && !state.closed;
        drop(self.changed.wait_while(state, held));
    }

    fn is_to_be_lost(&self, chunk: &[u8]) -> bool {
        let mut state = self.lock();
        let Some((text, count)) = &mut state.losing else { return false };
        let found = *count > 0 && contains(chunk, text);
        *count -= usize::from(found);
        found
    }
}

/// The server's messages, put together from what arrives.
#[derive(Default)]
struct Messages {
    rest: Vec<u8>,
    begun: bool,
}

impl Messages {
    /// Passes whole messages on, but no notification (`A`).
    fn without_notifications(&mut self, chunk: &[u8]) -> Vec<u8> {
        self.rest.extend_from_slice(chunk);
        let mut out = Vec::new();
        // The answer to the question for TLS is a single letter.
        if !self.begun && self.rest == [b'N'] {
            self.begun = true;
            return std::mem::take(&mut self.rest);
        }
        self.begun = true;
        while let [kind, a, b, c, d, ..] = self.rest[..] {
            let end = 1 + usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            if self.rest.len() < end {
                break;
            }
            let message: Vec<u8> = self.rest.drain(..end).collect();
            if kind != b'A' {
                out.extend_from_slice(&message);
            }
        }
        out
    }
}

fn contains(chunk: &[u8], text: &[u8]) -> bool {
    chunk.windows(text.len()).any(|window| window == text)
}

/// Whether the server has said that it is ready for the next request: then the last one is carried out.
fn is_finished(replies: &[u8]) -> bool {
    matches!(replies, [.., b'Z', 0, 0, 0, 5, b'I' | b'T' | b'E'])
}
