//! Carries out what the protocol wants: connects, sends, sleeps, and tells everybody who waits.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pollux_clock::BootInstant;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use crate::core::{Action, Answer, Call, Core, Event, Statement};
use crate::error::Error;
use crate::filelock::FileLock;
use crate::lane::Lane;
use crate::lease::Command;
use crate::metrics::Metrics;
use crate::session::{News, Session, read_file};
use crate::statements::{Caller, name};
use crate::view::{DatabaseState, HandedOver, Role, View};

/// How long signing off may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// What the schema takes is twice this: its text is spaced more widely.
const LONGEST_REPORT: usize = 8 * 1024;
/// How long trying whether notifications arrive may take. It is in nobody's way.
const ECHO: Duration = Duration::from_secs(30);
/// How often a file lock that somebody has is tried.
const LOCK_AGAIN: Duration = Duration::from_millis(100);

pub(crate) struct Driver {
    pub(crate) core: Core,
    pub(crate) caller: Caller,
    pub(crate) database_file: PathBuf,
    pub(crate) alive_file: Option<PathBuf>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) view: watch::Sender<View>,
    pub(crate) metrics: Metrics,
    pub(crate) lock: Option<FileLock>,
    pub(crate) waiting: Vec<oneshot::Sender<HandedOver>>,
    pub(crate) ending: Vec<oneshot::Sender<()>>,
    pub(crate) end_by: Option<Instant>,
    pub(crate) attempts: u32,
    pub(crate) probe: Probe,
    pub(crate) lane: Lane,
    pub(crate) own: mpsc::WeakUnboundedSender<Command>,
}

/// Whether notifications arrive. Nothing but trying tells: a pooler that gives each transaction another connection takes the
/// LISTEN, and what it is told reaches whoever happens to have that connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Not known yet.
    Open,
    /// One arrived.
    Heard,
    /// The one that was sent did not.
    Unheard,
}

/// The way to PostgreSQL.
enum Link {
    /// There is none; try again at this time.
    Down(Instant),
    /// One is being made.
    Opening(JoinHandle<Result<Open, Error>>),
    /// There is one, and perhaps a statement under way on it.
    Up {
        session: Arc<Session>,
        news: mpsc::Receiver<News>,
        call: Option<JoinHandle<Result<Answer, Error>>>,
        sent: Option<(Call, BootInstant)>,
    },
}

type Open = (Session, mpsc::Receiver<News>);

/// What the driver waited for.
enum Happened {
    Command(Option<Command>),
    Opened(Result<Open, Error>),
    News(Option<News>),
    Called(Box<Result<Answer, Error>>),
    Lane(Event),
    Time,
    End,
}

// === impl Driver ===

impl Driver {
    /// Runs until it is told to end, or until nobody holds the handle any more.
    pub(crate) async fn run(mut self) {
        let mut link = Link::Down(Instant::now());
        loop {
            let happened = self.wait(&mut link).await;
            let events = match happened {
                Happened::End => break,
                Happened::Command(command) => self.command(command),
                Happened::Opened(result) => self.opened(result, &mut link),
                Happened::News(news) => self.news(news, &mut link),
                Happened::Called(result) => self.called(*result, &mut link),
                Happened::Lane(event) => vec![event],
                Happened::Time => self.time(&mut link),
            };
            let mut done = false;
            for event in events {
                done |= self.step(event, &mut link);
            }
            if let Some(event) = self.lane.want(self.core.lane_wanted(), &self.database_file) {
                done |= self.step(event, &mut link);
            }
            if done {
                break;
            }
        }
        self.view.send_modify(|view| {
            view.at = BootInstant::now();
            view.role = Role::Standby;
        });
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(HandedOver::Unknown);
        }
        for ended in self.ending.drain(..) {
            let _ = ended.send(());
        }
    }

    async fn wait(&mut self, link: &mut Link) -> Happened {
        let wake = self.core.wake_at().map(|at| Instant::now() + (at - BootInstant::now()));
        let wake = if self.lock_wanted() {
            Some(wake.unwrap_or_else(|| Instant::now() + LOCK_AGAIN).min(Instant::now() + LOCK_AGAIN))
        } else {
            wake
        };
        let wake = match link {
            Link::Down(at) => Some(wake.map_or(*at, |wake| wake.min(*at))),
            _ => wake,
        };
        let wake = [wake, self.lane.due()].into_iter().flatten().min();
        let end_by = self.end_by;
        let Self { commands, lane, .. } = self;
        tokio::select! {
            biased;
            () = until(end_by) => Happened::End,
            // Before the statements: a heartbeat is what a leader lives by.
            event = lane.next() => Happened::Lane(event),
            happened = connection(link) => happened,
            command = commands.recv() => Happened::Command(command),
            () = until(wake) => Happened::Time,
        }
    }

    /// Returns whether everything is over.
    fn step(&mut self, event: Event, link: &mut Link) -> bool {
        let now = BootInstant::now();
        let before = self.core.role();
        let actions = self.core.step(event, now);
        self.publish(before, now);
        for action in actions {
            match action {
                Action::Done => return true,
                Action::Settle(outcome) => {
                    for waiting in self.waiting.drain(..) {
                        let _ = waiting.send(outcome.clone());
                    }
                }
                Action::Send(statement) => self.send(statement, now, link),
                Action::Ask(ask) => self.lane.ask(ask),
            }
        }
        false
    }

    /// Before anything is sent: an order that gives the lease away must find the role given up (I7).
    fn publish(&self, before: Role, now: BootInstant) {
        let view = self.core.view(now);
        if before.epoch() != view.role.epoch() {
            match view.role {
                Role::Leader { epoch, .. } => info!(epoch, "leader"),
                Role::Standby => info!(epoch = view.epoch, "standby"),
            }
        }
        self.view.send_if_modified(|old| {
            let said = (old.database.error(), view.database.error());
            match (&old.database, &view.database) {
                (DatabaseState::Down { .. }, DatabaseState::Up { .. }) => info!("the lease database answers again"),
                (_, DatabaseState::Down { error, .. }) if said.0 != said.1 => warn!(%error, "the lease database"),
                _ => {}
            }
            let changed = *old != View { at: old.at, ..view.clone() };
            if changed {
                *old = view;
            }
            changed
        });
    }

    fn send(&self, statement: Statement, now: BootInstant, link: &mut Link) {
        let Link::Up { session, call: running, sent, .. } = link else { return };
        let (session, caller, patience) = (session.clone(), self.caller.clone(), self.core.patience());
        *sent = Some((statement.call.clone(), now));
        *running = Some(tokio::spawn(async move { caller.run(&session, &statement, patience).await }));
    }

    // === what happened ===

    fn command(&mut self, command: Option<Command>) -> Vec<Event> {
        vec![match command {
            Some(Command::Ready(ready)) => Event::Ready(ready),
            Some(Command::Report(report)) => {
                let length = report.to_string().len();
                if length > LONGEST_REPORT {
                    warn!(length, "a report that is too long is not sent");
                    return Vec::new();
                }
                Event::Report(report)
            }
            Some(Command::Token(token)) => {
                if token == self.caller.token {
                    return Vec::new();
                }
                self.caller.new_token = Some(token);
                Event::Rotated
            }
            Some(Command::ExpectHandover(expected)) => Event::Expect(expected),
            Some(Command::HandOver(order, done)) => {
                self.waiting.push(done);
                Event::HandOver(order)
            }
            Some(Command::Leave) => Event::Leave,
            Some(Command::FirstPoll(at)) => Event::FirstPoll(at),
            Some(Command::Probed(pooled)) => {
                if !pooled && self.probe == Probe::Heard {
                    return Vec::new();
                }
                self.probe = Probe::Unheard;
                warn!(
                    "notifications do not arrive: a transaction pooler is on the way; use its session mode, or the server itself"
                );
                Event::Blind
            }
            Some(Command::Shutdown(done)) => {
                self.ending.push(done);
                self.end_by.get_or_insert(Instant::now() + GOODBYE);
                Event::Shutdown
            }
            // Nobody can ask for anything any more.
            None => {
                self.end_by.get_or_insert(Instant::now() + GOODBYE);
                self.commands.close();
                Event::Shutdown
            }
        }]
    }

    fn opened(&mut self, result: Result<Open, Error>, link: &mut Link) -> Vec<Event> {
        match result {
            Ok((session, news)) => {
                self.attempts = 0;
                let session = Arc::new(session);
                self.send_probe(session.clone());
                *link = Link::Up { session, news, call: None, sent: None };
                vec![Event::Up { wakes: self.probe != Probe::Unheard }]
            }
            Err(e) => {
                *link = Link::Down(self.next_attempt());
                vec![Event::Down { error: e.to_string() }]
            }
        }
    }

    /// Until it is known: it costs a connection.
    fn send_probe(&self, main: Arc<Session>) {
        if self.probe != Probe::Open {
            return;
        }
        let (file, own) = (self.database_file.clone(), self.own.clone());
        let echo = format!("SELECT pg_notify('pollux_{}', '{}')", self.caller.bot.bot_id, self.caller.me.id.as_str());
        tokio::spawn(async move {
            // If there was no connection left for it, or PostgreSQL went away, it says nothing.
            let Ok(pooled) = probe(&main, &file, &echo).await else { return };
            if let Some(own) = own.upgrade() {
                let _ = own.send(Command::Probed(pooled));
            }
        });
    }

    fn news(&mut self, news: Option<News>, link: &mut Link) -> Vec<Event> {
        match news {
            Some(News::Notified(payload)) => {
                if payload == self.caller.me.id.as_str() {
                    self.probe = Probe::Heard;
                }
                vec![Event::Woken]
            }
            Some(News::Ended(reason)) => self.down(reason, link),
            None => self.down("the connection was closed".to_owned(), link),
        }
    }

    fn called(&mut self, result: Result<Answer, Error>, link: &mut Link) -> Vec<Event> {
        let Link::Up { sent, .. } = link else { return Vec::new() };
        let Some((call, at)) = sent.take() else { return Vec::new() };
        let took = BootInstant::now() - at;
        if let Call::Renew { .. } = call {
            let result = match &result {
                Ok(answer) if answer.done => "ok",
                Ok(_) => "lost",
                Err(_) => "error",
            };
            self.metrics.renewal(result, took);
        }
        let another_token = result.as_ref().is_err_and(Error::is_another_token);
        if call == Call::Rotate
            && (result.is_ok() || another_token)
            && let Some(token) = self.caller.new_token.take()
        {
            // If the old token is no proof any more, somebody else has already said so. After any other refusal (a lock that was
            // waited for too long) it still is one.
            self.caller.token = token;
        }
        match result {
            Ok(answer) => {
                debug!(statement = name(&call), done = answer.done, ?took, "answered");
                vec![Event::Answered(Box::new(answer))]
            }
            Err(e @ (Error::Refused { .. } | Error::Answer(_))) => {
                debug!(statement = name(&call), error = %e, "refused");
                vec![Event::Refused { error: e.to_string(), another_token }]
            }
            Err(e) => {
                debug!(statement = name(&call), error = %e, "lost");
                self.down(e.to_string(), link)
            }
        }
    }

    fn down(&mut self, error: String, link: &mut Link) -> Vec<Event> {
        *link = Link::Down(self.next_attempt());
        vec![Event::Down { error }]
    }

    fn time(&mut self, link: &mut Link) -> Vec<Event> {
        if let Link::Down(at) = link
            && *at <= Instant::now()
        {
            *link = Link::Opening(tokio::spawn(open(
                self.database_file.clone(),
                self.caller.bot.bot_id,
                self.core.patience(),
            )));
        }
        let mut events = vec![Event::Tick];
        if self.lock_wanted() {
            events.extend(self.take_lock());
        }
        events
    }

    fn lock_wanted(&self) -> bool {
        self.alive_file.is_some() && self.lock.is_none()
    }

    fn take_lock(&mut self) -> Option<Event> {
        let path = self.alive_file.as_ref()?;
        match FileLock::try_take(path) {
            Ok(lock) => {
                self.lock = lock;
                self.lock.as_ref().map(|_| Event::Locked)
            }
            Err(error) => {
                debug!(file = %path.display(), %error, "no file lock");
                None
            }
        }
    }

    /// Everybody loses the connection at once when the database restarts, and must not come back at once.
    fn next_attempt(&mut self) -> Instant {
        let last = if self.core.holds() { Duration::from_millis(500) } else { Duration::from_secs(3) };
        let pause = (Duration::from_millis(50) * 2_u32.pow(self.attempts.min(10))).min(last);
        self.attempts += 1;
        Instant::now() + pause.mul_f64(rand::random_range(0.5..1.5))
    }
}

async fn open(file: PathBuf, bot_id: i64, patience: Duration) -> Result<Open, Error> {
    let patience = patience.max(Duration::from_secs(1));
    let database = read_file(&file)?;
    let (session, news) = Session::open(&database, "pollux-agent", patience).await?;
    session.listen(&format!("pollux_{bot_id}"), patience).await?;
    Ok((session, news))
}

/// Whether two sessions share the server's backends, which they only do through a pooler. If not, sends the echo, and asks the
/// one that listens for something: its backend delivers what it was notified of before it answers what came later.
async fn probe(main: &Session, file: &Path, echo: &str) -> Result<bool, Error> {
    const TRIES: usize = 5;
    let (other, _news) = Session::open(&read_file(file)?, "pollux-probe", ECHO).await?;
    let backend = async |session: &Session| -> Result<i32, Error> {
        // Not `one`: a warning that belongs to the statement under way must not be taken from it.
        let rows = session.all("SELECT pg_backend_pid()", &[], ECHO).await?;
        Ok(rows.first().map_or(0, |row| row.get(0)))
    };
    for _ in 0..TRIES {
        let before = backend(main).await?;
        let theirs = backend(&other).await?;
        if before == theirs || before != backend(main).await? {
            return Ok(true);
        }
    }
    other.one(echo, &[], ECHO).await?;
    backend(main).await.map(|_| false)
}

async fn connection(link: &mut Link) -> Happened {
    match link {
        Link::Down(_) => pending().await,
        Link::Opening(opening) => Happened::Opened(joined(opening).await),
        Link::Up { news, call, .. } => match call {
            Some(running) => tokio::select! {
                biased;
                result = joined(running) => {
                    *call = None;
                    Happened::Called(Box::new(result))
                }
                news = news.recv() => Happened::News(news),
            },
            None => Happened::News(news.recv().await),
        },
    }
}

async fn joined<T>(task: &mut JoinHandle<Result<T, Error>>) -> Result<T, Error> {
    task.await.unwrap_or_else(|e| Err(Error::Away { address: String::new(), reason: e.to_string() }))
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => {
            let () = pending().await;
            sleep(Duration::ZERO).await;
        }
    }
}
