//! Every connection to the Bot API ports: who opened it, what came over it, who ended it and how.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::{
    journal::{LaneNames, Origin},
    model::{At, ConnectionEnd, ConnectionRecord, ConnectionRequest},
    server::RequestId,
};

#[derive(Debug)]
struct Entry {
    origin: Origin,
    port: u16,
    tokens: BTreeSet<String>,
    opened: At,
    closed: Option<(At, ConnectionEnd)>,
    requests: Vec<ConnectionRequest>,
}

/// The log. Times are those of the journals.
#[derive(Debug)]
pub(crate) struct Connections {
    started: Instant,
    entries: Mutex<BTreeMap<u64, Entry>>,
}

// === impl Connections ===

impl Connections {
    pub(crate) fn new(started: Instant) -> Self {
        Self { started, entries: Mutex::default() }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> At {
        self.started.elapsed()
    }

    pub(crate) fn opened(&self, origin: Origin, peer: SocketAddr) {
        let entry = Entry {
            port: peer.port(),
            tokens: BTreeSet::new(),
            opened: self.now(),
            closed: None,
            requests: Vec::new(),
            origin,
        };
        self.entries().insert(entry.origin.connection, entry);
    }

    pub(crate) fn closed(&self, connection: u64, end: ConnectionEnd) {
        let now = self.now();
        if let Some(entry) = self.entries().get_mut(&connection) {
            entry.closed.get_or_insert((now, end));
        }
    }

    pub(crate) fn request(&self, connection: u64, token: &str, request: RequestId, method: &str) {
        let arrived = self.now();
        if let Some(entry) = self.entries().get_mut(&connection) {
            if !entry.tokens.contains(token) {
                entry.tokens.insert(token.to_owned());
            }
            let (answered, status, to_nobody) = (None, None, false);
            let method = method.to_owned();
            entry.requests.push(ConnectionRequest { request, method, arrived, answered, status, to_nobody });
        }
    }

    /// A request was answered; `to_nobody`: its sender had closed the connection before.
    pub(crate) fn answered(&self, connection: u64, request: RequestId, status: u16, to_nobody: bool) {
        let now = self.now();
        let mut entries = self.entries();
        let requests = entries.get_mut(&connection).map(|e| &mut e.requests);
        if let Some(record) = requests.and_then(|r| r.iter_mut().rev().find(|r| r.request == request))
            && record.answered.is_none()
        {
            (record.answered, record.status, record.to_nobody) = (Some(now), Some(status), to_nobody);
        }
    }

    /// Those over which something for this bot came; without a token: all.
    pub(crate) fn of(&self, token: Option<&str>, names: &LaneNames) -> Vec<ConnectionRecord> {
        let entries = self.entries();
        let of_bot = entries.values().filter(|e| token.is_none_or(|t| e.tokens.contains(t)));
        of_bot.map(|e| e.named(names)).collect()
    }

    /// Forgets what was over before `cut`.
    pub(crate) fn forget(&self, cut: At) -> usize {
        let mut entries = self.entries();
        let mut forgotten = 0;
        entries.retain(|_, entry| {
            let over = entry.closed.is_some_and(|(at, _)| at < cut)
                && entry.requests.iter().all(|r| r.answered.is_none_or(|at| at < cut));
            let before = entry.requests.len();
            entry.requests.retain(|r| r.answered.is_none_or(|at| at >= cut));
            forgotten += if over { before + 1 } else { before - entry.requests.len() };
            !over
        });
        forgotten
    }
}

// === impl Entry ===

impl Entry {
    fn named(&self, names: &LaneNames) -> ConnectionRecord {
        ConnectionRecord {
            peer: names.peer(&self.origin, self.opened),
            port: self.port,
            opened: self.opened,
            closed: self.closed.map(|(at, _)| at),
            end: self.closed.map(|(_, end)| end),
            requests: self.requests.clone(),
        }
    }
}
