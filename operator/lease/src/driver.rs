//! Carries out what the protocol wants: connects, sends, sleeps, and tells everybody who waits.
//!
//! It is one future: what is under way is polled with it and given up by dropping it, so whoever does not poll it has frozen the
//! whole process, and whoever drops it has killed it.

use std::future::{pending, ready};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use pollux_clock::BootInstant;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info, warn};

use crate::core::{Action, Answer, Call, Core, Event, Statement};
use crate::error::Error;
use crate::flaw::Flaw;
use crate::lane::Lane;
use crate::lease::Command;
use crate::metrics::Metrics;
use crate::session::News;
use crate::statements::{Caller, name};
use crate::view::{DatabaseState, HandedOver, Role, View};
use crate::world::{Open, Pending, World};

/// How long signing off may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// What the schema takes is twice this: its text is spaced more widely.
const LONGEST_REPORT: usize = 8 * 1024;
/// How often a file lock that somebody has is tried.
const LOCK_AGAIN: Duration = Duration::from_millis(100);

pub(crate) struct Driver<W: World> {
    pub(crate) world: W,
    pub(crate) random: StdRng,
    pub(crate) core: Core,
    pub(crate) caller: Caller,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) view: watch::Sender<View>,
    pub(crate) metrics: Metrics,
    /// The pod's file lock is ours.
    pub(crate) locked: bool,
    pub(crate) waiting: Vec<oneshot::Sender<HandedOver>>,
    pub(crate) ending: Vec<oneshot::Sender<()>>,
    pub(crate) end_by: Option<BootInstant>,
    pub(crate) attempts: u32,
    pub(crate) probe: Probe,
    pub(crate) lane: Lane<W::Session>,
    #[cfg(test)]
    pub(crate) flaw: Option<Flaw>,
}

/// Whether notifications arrive. Nothing but trying tells: a pooler that gives each transaction another connection takes the
/// LISTEN, and what it is told reaches whoever happens to have that connection.
pub(crate) enum Probe {
    /// Tried with the next connection.
    Wanted,
    /// One is sent on a connection of its own.
    Sent(Pending<bool>),
    /// One arrived.
    Heard,
    /// The one that was sent did not.
    Unheard,
}

/// The way to PostgreSQL.
enum Link<S> {
    /// There is none; try again at this time.
    Down(BootInstant),
    /// One is being made.
    Opening(Pending<Open<S>>),
    /// There is one, and perhaps a statement under way on it.
    Up { session: Arc<S>, news: mpsc::Receiver<News>, call: Option<Pending<Answer>>, sent: Option<(Call, BootInstant)> },
}

/// What the driver waited for.
enum Happened<S> {
    Command(Option<Command>),
    Opened(Result<Open<S>, Error>),
    News(Option<News>),
    Called(Box<Result<Answer, Error>>),
    Probed(Result<bool, Error>),
    Lane(Event),
    Time,
    End,
}

// === impl Driver ===

impl<W: World> Driver<W> {
    /// Runs until it is told to end, or until nobody holds the handle any more.
    pub(crate) async fn run(mut self) {
        let mut link = Link::Down(self.world.now());
        loop {
            let before = self.world.now();
            let happened = self.wait(&mut link, before).await;
            // Afterwards: an answer that comes to a process which was frozen shows a row that is younger than the freeze.
            let now = if self.has(Flaw::ClockReadBeforeTheWait) { before } else { self.world.now() };
            let events = match happened {
                Happened::End => break,
                Happened::Command(command) => self.command(command, now),
                Happened::Opened(result) => self.opened(result, &mut link),
                Happened::News(news) => self.news(news, &mut link),
                Happened::Called(result) => self.called(*result, &mut link, now),
                Happened::Probed(result) => self.probed(result, &link),
                Happened::Lane(event) => vec![event],
                Happened::Time => self.time(&mut link, now),
            };
            let mut done = false;
            for event in events {
                done |= self.step(event, &mut link, now);
            }
            if let Some(event) = self.lane.want(self.core.lane_wanted(), &self.world, now) {
                done |= self.step(event, &mut link, now);
            }
            if done {
                break;
            }
        }
        let at = self.world.now();
        self.view.send_modify(|view| {
            view.at = at;
            view.role = Role::Standby;
        });
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(HandedOver::Unknown);
        }
        for ended in self.ending.drain(..) {
            let _ = ended.send(());
        }
    }

    async fn wait(&mut self, link: &mut Link<W::Session>, now: BootInstant) -> Happened<W::Session> {
        let lock = self.lock_wanted().then(|| now + LOCK_AGAIN);
        let again = match link {
            Link::Down(at) => Some(*at),
            _ => None,
        };
        let wake = [self.core.wake_at(), lock, again, self.lane.due()].into_iter().flatten().min();
        let Self { world, random, commands, lane, probe, end_by, .. } = self;
        tokio::select! {
            biased;
            () = until(world, *end_by) => Happened::End,
            // Before the statements: a heartbeat is what a leader lives by.
            event = lane.next(world, random) => Happened::Lane(event),
            happened = connection(link) => happened,
            pooled = echo(probe) => Happened::Probed(pooled),
            command = commands.recv() => Happened::Command(command),
            () = until(world, wake) => Happened::Time,
        }
    }

    /// Returns whether everything is over.
    fn step(&mut self, event: Event, link: &mut Link<W::Session>, now: BootInstant) -> bool {
        let before = self.core.role();
        let actions = self.core.step(event, now);
        if !self.has(Flaw::ViewAfterTheActions) {
            self.publish(before, now);
        }
        let mut done = false;
        for action in actions {
            match action {
                Action::Done => done = true,
                Action::Settle(outcome) => {
                    for waiting in self.waiting.drain(..) {
                        let _ = waiting.send(outcome.clone());
                    }
                }
                Action::Send(statement) => self.send(&statement, now, link),
                Action::Ask(ask) => self.lane.ask(ask, &self.world),
            }
        }
        if self.has(Flaw::ViewAfterTheActions) {
            self.publish(before, now);
        }
        done
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
            let mut changed = *old != View { at: old.at, ..view.clone() };
            if self.has(Flaw::RenewalsUnpublished) {
                changed &= old.role.epoch() != view.role.epoch();
            }
            if changed {
                *old = view;
            }
            changed
        });
    }

    fn send(&self, statement: &Statement, now: BootInstant, link: &mut Link<W::Session>) {
        let Link::Up { session, call, sent, .. } = link else { return };
        let patience = if self.has(Flaw::NoDeadline) { Duration::from_hours(1) } else { self.core.patience() };
        *sent = Some((statement.call.clone(), now));
        *call = Some(self.world.carry_out(session, &self.caller, statement, patience));
    }

    // === what happened ===

    fn command(&mut self, command: Option<Command>, now: BootInstant) -> Vec<Event> {
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
                if token == *self.caller.new_tokens.back().unwrap_or(&self.caller.token) {
                    return Vec::new();
                }
                self.caller.new_tokens.push_back(token);
                Event::Rotated
            }
            Some(Command::ExpectHandover(expected)) => Event::Expect(expected),
            Some(Command::HandOver(order, done)) => {
                self.waiting.push(done);
                Event::HandOver(order)
            }
            Some(Command::Leave) => Event::Leave,
            Some(Command::FirstPoll(at)) => Event::FirstPoll(at),
            Some(Command::Shutdown(done)) => {
                self.ending.push(done);
                self.end_by.get_or_insert(now + GOODBYE);
                Event::Shutdown
            }
            // Nobody can ask for anything any more.
            None => {
                self.end_by.get_or_insert(now + GOODBYE);
                self.commands.close();
                Event::Shutdown
            }
        }]
    }

    fn opened(&mut self, result: Result<Open<W::Session>, Error>, link: &mut Link<W::Session>) -> Vec<Event> {
        match result {
            Ok((session, news)) => {
                self.attempts = 0;
                // Until it is known, and no longer: it costs a connection.
                if let Probe::Wanted | Probe::Sent(_) = self.probe {
                    self.probe = Probe::Sent(self.world.probe(session.clone(), &self.caller));
                }
                *link = Link::Up { session, news, call: None, sent: None };
                vec![Event::Up { wakes: !matches!(self.probe, Probe::Unheard) }]
            }
            Err(e) => self.down(e.to_string(), link),
        }
    }

    fn probed(&mut self, result: Result<bool, Error>, link: &Link<W::Session>) -> Vec<Event> {
        let waiting = matches!(link, Link::Up { news, .. } if !news.is_empty());
        self.probe = match result {
            // There was no connection left for it, or PostgreSQL went away.
            Err(_) => Probe::Wanted,
            // It may be among what is yet to be looked at.
            Ok(false) if waiting => Probe::Sent(ready(Ok(false)).boxed()),
            Ok(_) => Probe::Unheard,
        };
        if !matches!(self.probe, Probe::Unheard) {
            return Vec::new();
        }
        warn!(
            "notifications do not arrive: a transaction pooler is on the way; use its session mode, or the server itself"
        );
        vec![Event::Blind]
    }

    fn news(&mut self, news: Option<News>, link: &mut Link<W::Session>) -> Vec<Event> {
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

    fn called(&mut self, result: Result<Answer, Error>, link: &mut Link<W::Session>, now: BootInstant) -> Vec<Event> {
        let Link::Up { sent, .. } = link else { return Vec::new() };
        let Some((call, at)) = sent.take() else { return Vec::new() };
        let took = now - at;
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
            && let Some(token) = self.caller.new_tokens.pop_front()
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

    fn down(&mut self, error: String, link: &mut Link<W::Session>) -> Vec<Event> {
        *link = Link::Down(self.next_attempt());
        vec![Event::Down { error }]
    }

    fn time(&mut self, link: &mut Link<W::Session>, now: BootInstant) -> Vec<Event> {
        if let Link::Down(at) = link
            && *at <= now
        {
            *link = Link::Opening(self.world.open(&self.caller, self.core.patience()));
        }
        let mut events = vec![Event::Tick];
        if self.lock_wanted() {
            events.extend(self.take_lock());
        }
        events
    }

    const fn lock_wanted(&self) -> bool {
        self.caller.me.file_lock && !self.locked
    }

    fn take_lock(&mut self) -> Option<Event> {
        self.locked = match self.world.lock_file() {
            Ok(taken) => taken || self.has(Flaw::LockedWithoutTheLock),
            Err(error) => {
                debug!(%error, "no file lock");
                false
            }
        };
        self.locked.then_some(Event::Locked)
    }

    /// Everybody loses the connection at once when the database restarts, and must not come back at once.
    fn next_attempt(&mut self) -> BootInstant {
        let last = if self.core.holds() { Duration::from_millis(500) } else { Duration::from_secs(3) };
        let pause = (Duration::from_millis(50) * 2_u32.pow(self.attempts.min(10))).min(last);
        self.attempts += 1;
        self.world.now() + pause.mul_f64(self.random.random_range(0.5..1.5))
    }
}

async fn connection<S>(link: &mut Link<S>) -> Happened<S> {
    match link {
        Link::Down(_) => pending().await,
        Link::Opening(opening) => Happened::Opened(opening.await),
        Link::Up { news, call, .. } => match call {
            Some(running) => tokio::select! {
                biased;
                result = running => {
                    *call = None;
                    Happened::Called(Box::new(result))
                }
                news = news.recv() => Happened::News(news),
            },
            None => Happened::News(news.recv().await),
        },
    }
}

async fn echo(probe: &mut Probe) -> Result<bool, Error> {
    match probe {
        Probe::Sent(sent) => sent.await,
        _ => pending().await,
    }
}

async fn until<W: World>(world: &W, at: Option<BootInstant>) {
    match at {
        Some(at) => world.until(at).await,
        None => pending().await,
    }
}
