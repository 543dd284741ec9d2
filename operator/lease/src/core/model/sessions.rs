//! Sessions for locks: the server's side of them, and when a process opens and closes its own.

use std::time::Duration;

use super::world::{Parcel, What, World};
use crate::core::{Ask, Event, Told};

/// A process's session for locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Session {
    pub(super) id: i32,
    /// Behind a pooler it may be another one tomorrow.
    backend: i32,
    /// When the server last heard of it, and what silence it puts up with.
    heard: Duration,
    silence: Duration,
    /// The server has ended it.
    ended: bool,
}

// === impl World ===

impl World {
    /// When the server ends a session for its silence.
    pub(super) fn silent_at(&self, n: usize) -> Option<Duration> {
        self.nodes[n].session.filter(|session| !session.ended).map(|session| session.heard + session.silence)
    }

    /// Its locks are free.
    pub(super) fn end_session(&mut self, n: usize) {
        if let Some(session) = &mut self.nodes[n].session {
            session.ended = true;
            let backend = session.backend;
            self.locks.retain(|_, holder| *holder != backend);
        }
    }

    /// Behind a pooler that nobody noticed: the backend is gone, and another one answers.
    pub(super) fn change_backend(&mut self, n: usize) {
        self.sessions += 1;
        if let Some(session) = &mut self.nodes[n].session {
            let old = std::mem::replace(&mut session.backend, self.sessions);
            self.locks.retain(|_, holder| *holder != old);
        }
    }

    /// A session is wanted, or not wanted any more, or the process hears that it has ended.
    pub(super) fn session_changes(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        let wanted = node.core.lane_wanted();
        match node.session {
            None => wanted.is_some() && !node.cut,
            Some(session) => wanted != Some(session.silence) || session.ended && !node.cut,
        }
    }

    pub(super) fn change_session(&mut self, n: usize) {
        if self.nodes[n].session.is_some() {
            self.end_session(n);
            self.nodes[n].session = None;
            return self.step(n, Event::LaneDown);
        }
        let Some(silence) = self.nodes[n].core.lane_wanted() else { return };
        self.sessions += 1;
        let id = self.sessions;
        self.nodes[n].session = Some(Session { id, backend: id, heard: self.now, silence, ended: false });
        self.step(n, Event::LaneUp { key: id.into() });
    }

    pub(super) fn asked(&mut self, n: usize, id: i32, ask: Ask) {
        let Some(session) = self.nodes[n].session.as_mut().filter(|session| session.id == id && !session.ended) else {
            return;
        };
        session.heard = self.now;
        let backend = session.backend;
        let granted = match ask {
            Ask::Try { key } => *self.locks.entry(key).or_insert(backend) == backend,
            Ask::Beat => true,
            Ask::Release { key } => self.locks.remove(&key).is_some(),
        };
        let what = What::Told(id, Told { granted, backend });
        self.wire.push(Parcel {
            node: n,
            connection: 0,
            held: false,
            matters: granted && matches!(ask, Ask::Try { .. }),
            what,
        });
    }
}
