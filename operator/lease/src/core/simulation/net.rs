//! What lies between the processes and the row: lines that are cut, half open, slow or refused, a server that restarts and
//! forgets, locks that end with their sessions, and the one queue of everything that is still to happen.

use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{mpsc, oneshot};

use super::oracle::{Process, Seen};
use crate::core::server::{Asker, Moment, Server};
use crate::core::{Answer, Ask, Rule, Statement, Told};
use crate::error::Error;
use crate::session::News;

/// How far a standby may be behind.
const LAG: Duration = Duration::from_secs(8);
const SNAPSHOT: Duration = Duration::from_millis(500);
/// As a session has it, with a place for the news of its end.
const UNREAD: usize = 65;

pub(super) struct Net {
    pub(super) now: Duration,
    queue: BTreeMap<Key, Due>,
    number: u64,
    pub(super) random: StdRng,
    /// No more faults.
    pub(super) calm: bool,
    pub(super) processes: Vec<Process>,
    pub(super) lines: Vec<Line>,
    backends: i32,
    // the server
    pub(super) server: Server,
    pub(super) without: Option<Rule>,
    incarnation: u32,
    down_until: Duration,
    past: VecDeque<(Duration, Server)>,
    locks: BTreeMap<i64, (i32, u32)>,
    pub(super) pooler: Pooler,
    // what was seen
    pub(super) seen: Seen,
    trace: Option<Vec<String>>,
}

pub(super) type Key = (Duration, u64);

pub(super) enum Due {
    Wake(Waker),
    Do(Deed),
    /// A statement that takes long; when calm comes, it is hurried.
    Late(Deed),
}

type Deed = Box<dyn FnOnce(&mut Net) + Send>;
type Reply<T> = oneshot::Sender<Result<T, Error>>;
type Opened = (usize, mpsc::Receiver<News>);

/// What gives each transaction another backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pooler {
    None,
    /// No notification passes it, and the probe finds it.
    Found,
    /// The probe does not, and the session for locks is now this backend, now that.
    Unnoticed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Work,
    Lock { silence: Duration },
}

/// A connection.
pub(super) struct Line {
    pub(super) process: usize,
    pub(super) kind: Kind,
    backend: i32,
    news: mpsc::Sender<News>,
    /// When its backend last heard of it.
    heard: Duration,
    pub(super) ended: bool,
    /// Half open: what is sent in this direction is lost, and nobody is told.
    pub(super) to_server: bool,
    pub(super) to_client: bool,
}

// === impl Net: time ===

impl Net {
    pub(super) fn new(seed: u64, traced: bool) -> Self {
        Self {
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            number: 0,
            random: StdRng::seed_from_u64(seed),
            calm: false,
            processes: Vec::new(),
            lines: Vec::new(),
            backends: 0,
            server: Server::default(),
            without: None,
            incarnation: 0,
            down_until: Duration::ZERO,
            past: VecDeque::new(),
            locks: BTreeMap::new(),
            pooler: Pooler::None,
            seen: Seen::default(),
            trace: traced.then(Vec::new),
        }
    }

    pub(super) fn at(&mut self, at: Duration, due: Due) -> Key {
        self.number += 1;
        let key = (at.max(self.now), self.number);
        self.queue.insert(key, due);
        key
    }

    pub(super) fn after(&mut self, pause: Duration, deed: impl FnOnce(&mut Self) + Send + 'static) {
        self.at(self.now + pause, Due::Do(Box::new(deed)));
    }

    pub(super) fn forget(&mut self, key: Key) {
        self.queue.remove(&key);
    }

    /// The next thing that happens, if it does before `end`; it is that late then.
    pub(super) fn next(&mut self, end: Duration) -> Option<Due> {
        let first = self.queue.first_entry().filter(|entry| entry.key().0 < end);
        let Some(entry) = first else {
            self.now = end;
            return None;
        };
        let ((at, _), due) = entry.remove_entry();
        self.now = at;
        Some(due)
    }

    /// Nothing goes wrong any more, and what was late comes soon.
    pub(super) fn calm_down(&mut self) {
        self.calm = true;
        let late: Vec<_> =
            self.queue.iter().filter(|(_, due)| matches!(due, Due::Late(_))).map(|(key, _)| *key).collect();
        for key in late {
            let soon = self.now + self.millis(0..1000);
            if let Some(due) = self.queue.remove(&key) {
                self.at(soon.min(key.0), due);
            }
        }
    }

    pub(super) fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_micros(self.random.random_range(range.start * 1000..range.end * 1000))
    }

    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    pub(super) fn note(&mut self, what: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>10.6} {}", self.now.as_secs_f64(), what(self));
            self.trace.get_or_insert_default().push(line);
        }
    }

    pub(super) fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().unwrap_or_default()
    }

    /// Mostly quick, sometimes slow.
    fn transit(&mut self) -> Duration {
        match self.random.random_range(0..100) {
            _ if self.calm => self.millis(0..2),
            0..95 => self.millis(0..4),
            _ => self.millis(4..400),
        }
    }
}

// === impl Net: lines ===

impl Net {
    /// A process connects: answered, refused (no place left, the server is starting), or not answered at all.
    pub(super) fn open(&mut self, n: usize, kind: Kind) -> oneshot::Receiver<Result<Opened, Error>> {
        let (tx, rx) = oneshot::channel();
        let refused = !self.calm && self.chance(3);
        let transit = self.transit();
        if self.processes[n].away_until > self.now {
            self.never(tx);
            return rx;
        }
        self.after(transit, move |net| {
            if refused || net.down_until > net.now {
                let _ = tx.send(Err(away("too many connections")));
                return;
            }
            let (news, heard) = mpsc::channel(UNREAD);
            let id = net.lines.len();
            let backend = net.backend();
            let line = Line {
                process: n,
                kind,
                backend,
                news,
                heard: net.now,
                ended: false,
                to_server: true,
                to_client: true,
            };
            net.lines.push(line);
            net.note(|net| format!("{} has line {id} {kind:?}", net.name(n)));
            if tx.send(Ok((id, heard))).is_err() {
                net.close(id);
            } else if let Kind::Lock { silence } = kind {
                net.mind(id, silence);
            }
        });
        rx
    }

    /// Half open: nobody will ever answer, and nobody says so.
    fn never<T: Send + 'static>(&mut self, reply: Reply<T>) {
        self.after(Duration::from_hours(1), move |_| drop(reply));
    }

    fn backend(&mut self) -> i32 {
        self.backends += 1;
        self.backends
    }

    /// The server ends a session that is silent for too long.
    fn mind(&mut self, id: usize, silence: Duration) {
        let pause = (self.lines[id].heard + silence).saturating_sub(self.now);
        self.after(pause, move |net| {
            if net.lines[id].ended {
                return;
            }
            if net.lines[id].heard + silence <= net.now {
                net.note(|_| format!("line {id} was silent"));
                net.end(id);
            } else {
                net.mind(id, silence);
            }
        });
    }

    /// The process has dropped it. The server hears of it, if it hears of anything.
    pub(super) fn close(&mut self, id: usize) {
        if self.lines[id].to_server {
            let transit = self.transit();
            self.after(transit, move |net| net.end(id));
        }
    }

    /// The server's end of it is gone, and the client is told, if it can be.
    pub(super) fn end(&mut self, id: usize) {
        if std::mem::replace(&mut self.lines[id].ended, true) {
            return;
        }
        let backend = self.lines[id].backend;
        self.locks.retain(|_, (holder, _)| *holder != backend);
        if self.lines[id].to_client {
            let transit = self.transit();
            self.after(transit, move |net| {
                let _ = net.lines[id].news.try_send(News::Ended("cut".to_owned()));
            });
        }
    }

    /// A pooler goes on with another backend; the locks stay with the old one until it is ended for its silence.
    pub(super) fn exchange(&mut self, id: usize) {
        let new = self.backend();
        let old = std::mem::replace(&mut self.lines[id].backend, new);
        if let Kind::Lock { silence } = self.lines[id].kind {
            self.note(|_| format!("line {id} is backend {new} now, not {old}"));
            self.after(silence, move |net| net.locks.retain(|_, (holder, _)| *holder != old));
        }
    }

    /// Who listens is told to look; mostly.
    fn notify(&mut self, by: usize) {
        for id in 0..self.lines.len() {
            let line = &self.lines[id];
            let deaf = line.ended || line.kind != Kind::Work || line.process == by || self.pooler == Pooler::Found;
            if !deaf && (self.calm || self.chance(90)) {
                let transit = self.transit();
                self.after(transit, move |net| net.tell(id, String::new()));
            }
        }
    }

    pub(super) fn tell(&mut self, id: usize, payload: String) {
        let line = &self.lines[id];
        if !line.ended && line.to_client && line.news.capacity() > 1 {
            let _ = line.news.try_send(News::Notified(payload));
        }
    }

    pub(super) fn lines_of(&self, n: usize) -> Vec<usize> {
        (0..self.lines.len()).filter(|id| self.lines[*id].process == n && !self.lines[*id].ended).collect()
    }

    /// Whether a pooler was found; if not, the process is notified under its own name.
    pub(super) fn probe(&mut self, n: usize) -> oneshot::Receiver<Result<bool, Error>> {
        let (tx, rx) = oneshot::channel();
        let (there, back) = (self.transit(), self.transit());
        let lost = !self.calm && self.chance(10);
        self.after(there, move |net| {
            if lost || net.down_until > net.now {
                let _ = tx.send(Err(away("too many connections")));
                return;
            }
            let found = net.pooler == Pooler::Found;
            let _ = tx.send(Ok(found));
            if !found {
                let me = net.name(n).to_owned();
                net.after(back, move |net| {
                    for id in
                        net.lines_of(n).into_iter().filter(|id| net.lines[*id].kind == Kind::Work).collect::<Vec<_>>()
                    {
                        net.tell(id, me.clone());
                    }
                });
            }
        });
        rx
    }
}

// === impl Net: the server ===

impl Net {
    /// A statement sets out. Once it has, it may be carried out at any later moment, whatever becomes of its line.
    pub(super) fn send(&mut self, id: usize, statement: Statement) -> oneshot::Receiver<Result<Answer, Error>> {
        let (tx, rx) = oneshot::channel();
        let n = self.lines[id].process;
        self.sending(n, &statement);
        let line = &self.lines[id];
        if line.ended && line.to_client {
            return rx; // it hears of it by being refused
        }
        if line.ended || !line.to_server {
            self.never(tx);
            return rx;
        }
        let who = self.processes[n].who.clone();
        let deed: Deed = Box::new(move |net| net.carry_out(id, who, statement, tx));
        if !self.calm && self.chance(3) {
            let late = self.now + self.millis(400..20_000);
            self.at(late, Due::Late(deed));
        } else {
            let soon = self.now + self.transit();
            self.at(soon, Due::Do(deed));
        }
        rx
    }

    fn carry_out(&mut self, id: usize, who: Asker, statement: Statement, reply: Reply<Answer>) {
        if self.down_until > self.now {
            let up = self.down_until + self.transit();
            self.at(up, Due::Late(Box::new(move |net| net.carry_out(id, who, statement, reply))));
            return;
        }
        if !self.calm && self.random.random_ratio(1, 200) {
            let message = "canceling statement due to lock timeout".to_owned();
            let error = Error::Refused { code: "55P03".to_owned(), message, mend: None };
            return self.answer(id, Err(error), reply);
        }
        self.keep_a_snapshot();
        let before = self.server.row.clone();
        let moment = Moment { now: self.now, incarnation: self.incarnation, without: self.without };
        let (answer, woken) = self.server.carry_out(moment, &who, &statement);
        self.note(|net| {
            let row = &net.server.row;
            format!(
                "{}: {:?} {} -> {} {} {:?}",
                who.id, statement.call, answer.done, row.epoch, row.renew_seq, row.holder
            )
        });
        self.judge(&before, &who.id, &statement, answer.done);
        if woken {
            self.notify(self.lines[id].process);
        }
        self.answer(id, Ok(answer), reply);
    }

    fn answer<T: Send + 'static>(&mut self, id: usize, answer: Result<T, Error>, reply: Reply<T>) {
        let transit = self.transit();
        self.after(transit, move |net| match &net.lines[id] {
            line if !line.to_client => net.never(reply),
            line if line.ended => drop(reply),
            _ => drop(reply.send(answer)),
        });
    }

    fn keep_a_snapshot(&mut self) {
        if self.past.back().is_none_or(|(at, _)| self.now - *at >= SNAPSHOT) {
            self.past.push_back((self.now, self.server.clone()));
            self.past.retain(|(at, _)| self.now - *at < LAG);
        }
    }

    /// It comes back as it was, or as it was some seconds ago, and all lines are gone.
    pub(super) fn restart(&mut self, forgets: bool) {
        self.incarnation += 1;
        self.down_until = self.now + self.millis(1..4000);
        self.note(|net| {
            format!("the server restarts ({}), up at {:?}", if forgets { "forgets" } else { "knows" }, net.down_until)
        });
        if forgets && !self.past.is_empty() {
            let index = self.random.random_range(0..self.past.len());
            // Settings are what the controller says, and it says them again.
            let setting = self.server.setting.clone();
            self.server = Server { setting, ..self.past[index].1.clone() };
        }
        self.past.clear();
        (0..self.lines.len()).for_each(|id| self.end(id));
    }

    pub(super) fn up(&mut self) {
        self.down_until = self.now;
    }

    // === locks ===

    pub(super) fn ask(&mut self, id: usize, ask: Ask) -> oneshot::Receiver<Result<Told, Error>> {
        let (tx, rx) = oneshot::channel();
        let line = &self.lines[id];
        if line.ended && line.to_client {
            return rx;
        }
        if line.ended || !line.to_server {
            self.never(tx);
            return rx;
        }
        let transit = self.transit();
        self.after(transit, move |net| net.asked(id, ask, tx));
        rx
    }

    fn asked(&mut self, id: usize, ask: Ask, reply: Reply<Told>) {
        if self.lines[id].ended {
            return;
        }
        self.lines[id].heard = self.now;
        if !self.calm && self.pooler == Pooler::Unnoticed && self.chance(5) {
            self.exchange(id);
        }
        let backend = self.lines[id].backend;
        let granted = match ask {
            Ask::Beat => true,
            Ask::Try { key } => {
                let (holder, times) = self.locks.entry(key).or_insert((backend, 0));
                *times += u32::from(*holder == backend);
                *holder == backend
            }
            Ask::Release { key } => match self.locks.get_mut(&key) {
                Some((holder, times)) if *holder == backend => {
                    *times -= 1;
                    if *times == 0 {
                        self.locks.remove(&key);
                    }
                    true
                }
                _ => false,
            },
        };
        self.note(|net| format!("{}: {ask:?} {granted} by {backend}", net.name(net.lines[id].process)));
        self.answer(id, Ok(Told { granted, backend }), reply);
    }
}

pub(super) fn away(reason: &str) -> Error {
    Error::Away { address: "db".to_owned(), reason: reason.to_owned() }
}
