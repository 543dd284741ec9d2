//! The library's face: an emulator in this process, on ephemeral ports of loopback.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    admin,
    args::{Args, Target},
    body::{MAX_DOWNLOAD, Upload},
    bot::{Bot, Call, Reaction, Rules, Sender, bot_id},
    connections::Connections,
    deliver::{Posted, Poster},
    http,
    journal::{LaneNames, Origin},
    load::Schedule,
    model::{At, Error, Fault, Load, Mark, Options, Push, Settled},
    server::{Failure, Post, RequestId},
    tls,
};

const MAX_TEXT: u32 = 1 << 20;
/// The clock goes no further: dates stay dates.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);

mod records;

/// A running emulator. Clones are handles to the same one; it stops with [`Emulator::shutdown`] or with its runtime.
#[derive(Clone)]
pub struct Emulator(Arc<Inner>);

struct Inner {
    started: Instant,
    address: SocketAddr,
    admin_address: SocketAddr,
    tls: Option<TlsAcceptor>,
    state: Mutex<State>,
    /// Counts changes of state.
    changed: watch::Sender<u64>,
    /// The next deadline may have become another one.
    timer: Notify,
    requests: AtomicU64,
    connections: AtomicU64,
    log: Arc<Connections>,
    rules: Rules,
    /// PEM: whom webhooks' certificates are checked against, besides the well-known ones.
    authorities: Vec<u8>,
    stop: CancellationToken,
}

/// All that requests, timers and admins change.
#[derive(Default)]
pub(crate) struct State {
    /// By token.
    pub(crate) bots: BTreeMap<String, Bot>,
    pub(crate) lanes: LaneNames,
    pub(crate) marks: Vec<(At, Mark)>,
    /// How far the server's clock was moved.
    shift: Duration,
}

// === impl Emulator ===

impl Emulator {
    /// Starts one. Returns when both ports listen.
    ///
    /// # Errors
    /// A port is taken, or the certificate cannot be read.
    pub async fn start(options: Options) -> io::Result<Self> {
        let tls = options.tls.as_ref().map(tls::acceptor).transpose()?;
        let api = TcpListener::bind(options.listen).await?;
        let admin = TcpListener::bind(options.admin).await?;
        let started = Instant::now();
        let emulator = Self(Arc::new(Inner {
            started,
            address: api.local_addr()?,
            admin_address: admin.local_addr()?,
            tls,
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            timer: Notify::new(),
            requests: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            log: Arc::new(Connections::new(started)),
            rules: Rules { http_webhooks: options.webhooks.http, flood_limits: options.flood_limits },
            authorities: options.webhooks.ca.map_or_else(|| Ok(Vec::new()), std::fs::read)?,
            stop: CancellationToken::new(),
        }));
        emulator.spawn(http::listen(emulator.clone(), api, None));
        emulator.spawn(admin::listen(emulator.clone(), admin));
        emulator.spawn(emulator.clone().run_timer());
        Ok(emulator)
    }

    /// Base URL of the Bot API, `http://127.0.0.1:port` (`https://` with TLS), without a slash at its end.
    pub fn url(&self) -> String {
        self.url_of(self.0.address)
    }

    /// Base URL of the admin port.
    pub fn admin_url(&self) -> String {
        format!("http://{}", reachable(self.0.admin_address))
    }

    /// A further port (of loopback) of the same Bot API, whose requests belong to the lane `name`: how pollers are told apart when
    /// all of them come from one address. Returns its base URL.
    ///
    /// # Errors
    /// No port is free.
    pub async fn lane(&self, name: &str) -> io::Result<String> {
        let listener = TcpListener::bind((IpAddr::from([127, 0, 0, 1]), 0)).await?;
        let url = self.url_of(listener.local_addr()?);
        self.spawn(http::listen(self.clone(), listener, Some(name.into())));
        Ok(url)
    }

    fn url_of(&self, address: SocketAddr) -> String {
        let scheme = if self.0.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", reachable(address))
    }

    /// Names the lane of an IP address (in a cluster: the pod's name), from now on; and before, if it had no name yet.
    pub fn name_lane(&self, ip: IpAddr, name: &str) {
        let now = self.now();
        self.change(|state| state.lanes.set(now, ip, name));
    }

    // === bots, updates, faults, marks ===

    /// Adds a bot; nothing changes when it is there already.
    ///
    /// # Errors
    /// [`Error::Token`]: it is not of the form `<digits>:<secret>`.
    pub fn add_bot(&self, token: &str, username: &str) -> Result<(), Error> {
        let mut bot = Bot::new(token, username)?;
        self.change(|state| {
            bot.advance(self.now(), state.shift);
            bot.born(self.now(), self.0.rules);
            state.bots.entry(token.to_owned()).or_insert(bot);
        });
        Ok(())
    }

    /// Puts updates into a bot's queue and returns their ids.
    ///
    /// # Errors
    /// [`Error::UnknownBot`].
    pub fn push(&self, token: &str, push: Push) -> Result<Vec<i32>, Error> {
        if push.bytes > MAX_TEXT {
            return Err(Error::Value("bytes: 1048576 at most".to_owned()));
        }
        self.change_bot(token, |bot, now| bot.push(now, bot.unix_time(), push))
    }

    /// Gives a bot a file, as if a user had sent it, and returns its `file_id`. Of more than 20 MiB only the size is kept: it cannot be
    /// downloaded. The last 64 MiB of all files are kept.
    ///
    /// # Errors
    /// [`Error::UnknownBot`].
    pub fn add_file(&self, token: &str, name: &str, content: impl Into<Bytes>) -> Result<String, Error> {
        let content = content.into();
        let (name, size) = (name.to_owned(), content.len() as u64);
        let content = (size <= MAX_DOWNLOAD).then_some(content);
        self.change_bot(token, |bot, _| bot.files.add(Upload { field: String::new(), name, size, content }))
    }

    /// Moves the server's clock on: timeouts, conflicts that wait, lifetimes of updates, retries of webhooks. Records, load and the delays of
    /// faults keep real time. Updates whose time is over are deleted at once.
    pub fn advance(&self, by: Duration) {
        self.change(|state| {
            let by = by.min(CENTURY.saturating_sub(state.shift));
            state.shift += by;
            let now = self.now();
            state.bots.values_mut().for_each(|bot| bot.advance(now, by));
        });
    }

    /// Starts a load on a bot, in place of the one that runs.
    ///
    /// # Errors
    /// [`Error::UnknownBot`], or [`Error::Value`]: rate or time between bursts is out of range.
    pub fn load(&self, token: &str, load: Load) -> Result<(), Error> {
        if !(0.0..=10_000.0).contains(&load.rate) || (load.rate > 0.0 && load.rate < 0.001) {
            return Err(Error::Value("rate: 0, or 0.001 to 10000 a second".to_owned()));
        }
        if load.burst > 0 && load.burst_every < Duration::from_millis(1) {
            return Err(Error::Value("burst_every: at least 0.001 s".to_owned()));
        }
        let stop = self.0.stop.child_token();
        self.change_bot(token, |bot, _| {
            if let Some(old) = bot.load.replace(stop.clone()) {
                old.cancel();
            }
        })?;
        let (emulator, token) = (self.clone(), token.to_owned());
        self.spawn(async move {
            stop.run_until_cancelled(emulator.run_load(&token, load)).await;
            // A load that was replaced is cancelled, and its successor is not its to remove.
            let over = !stop.is_cancelled();
            let _ = emulator.change_bot(&token, |bot, _| bot.load.take_if(|_| over));
        });
        Ok(())
    }

    async fn run_load(&self, token: &str, load: Load) {
        let start = tokio::time::Instant::now();
        for (at, chat) in Schedule::new(load) {
            tokio::time::sleep_until(start + at).await;
            let push = Push { chat, ..Push::default() };
            if self.push(token, push).is_err() {
                return;
            }
        }
        // The load lasts as long as was asked for, also when its last update was earlier.
        if let (Some(seconds), None) = (load.seconds, load.count) {
            tokio::time::sleep_until(start + seconds).await;
        }
    }

    /// Whether a load runs.
    pub fn loading(&self, token: &str) -> bool {
        self.state().bots.get(token).is_some_and(|bot| bot.load.is_some())
    }

    /// Ends a bot's load.
    ///
    /// # Errors
    /// [`Error::UnknownBot`].
    pub fn stop_load(&self, token: &str) -> Result<(), Error> {
        self.change_bot(token, |bot, _| {
            if let Some(load) = bot.load.take() {
                load.cancel();
            }
        })
    }

    /// Adds a fault; faults strike in the order in which they were added.
    ///
    /// # Errors
    /// [`Error::UnknownBot`].
    pub fn fault(&self, token: &str, fault: Fault) -> Result<(), Error> {
        self.change_bot(token, |bot, _| bot.add_fault(fault))
    }

    /// Removes all faults of a bot. Requests that hang are let go (reset).
    ///
    /// # Errors
    /// [`Error::UnknownBot`].
    pub fn clear_faults(&self, token: &str) -> Result<(), Error> {
        self.change_bot(token, |bot, _| bot.clear_faults())
    }

    /// Puts a mark on the timeline and returns when.
    ///
    /// # Errors
    /// [`Error::UnknownBot`]: it names a bot that is not there.
    pub fn mark(&self, mark: Mark) -> Result<At, Error> {
        let now = self.now();
        self.change(|state| {
            if mark.token.as_ref().is_some_and(|token| !state.bots.contains_key(token)) {
                return Err(Error::UnknownBot);
            }
            state.marks.push((now, mark));
            Ok(now)
        })
    }

    // === what was seen ===

    /// Now, on the emulator's clock.
    pub fn now(&self) -> At {
        self.0.started.elapsed()
    }

    /// Waits until `done` holds, looking after every change of state, at most `limit`. Returns whether it holds.
    pub async fn until(&self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let mut changes = self.0.changed.subscribe();
        let holds = async {
            loop {
                changes.borrow_and_update();
                if done(self) || changes.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(limit, holds).await.is_ok() {
            return true;
        }
        done(self)
    }

    /// Waits until all updates that were pushed are confirmed and answered, at most `limit`, or until no update was pushed, delivered,
    /// confirmed or answered for `quiet`. Without a token: for all bots.
    ///
    /// # Errors
    /// [`Error::UnknownBot`].
    pub async fn settled(
        &self,
        token: Option<&str>,
        limit: Duration,
        quiet: Option<Duration>,
    ) -> Result<Settled, Error> {
        self.look_at_settled(token)?;
        let until = self.now() + limit;
        loop {
            let (settled, moved) = self.look_at_settled(token)?;
            let now = self.now();
            // Quiet since it was asked for: what a crash lost earlier must not end the waiting before it began.
            let still = quiet.map(|quiet| moved.max(until - limit) + quiet);
            if settled.settled || now >= until || still.is_some_and(|at| now >= at) {
                return Ok(settled);
            }
            let wake = still.map_or(until, |at| at.min(until));
            let moved_on = |e: &Self| e.look_at_settled(token).is_ok_and(|(s, at)| s.settled || at != moved);
            self.until(wake.saturating_sub(now), moved_on).await;
        }
    }

    fn look_at_settled(&self, token: Option<&str>) -> Result<(Settled, At), Error> {
        let state = self.state();
        if token.is_some_and(|token| !state.bots.contains_key(token)) {
            return Err(Error::UnknownBot);
        }
        let bots = state.bots.iter().filter(|(t, _)| token.is_none_or(|token| token == *t));
        let (mut pending, mut unanswered, mut unsettled, mut moved) = (0, 0, 0, At::ZERO);
        for (_, bot) in bots {
            pending += bot.server.pending_updates() as u64;
            unanswered += bot.journal.unanswered();
            unsettled += bot.journal.unsettled();
            moved = moved.max(bot.journal.moved());
        }
        Ok((Settled { settled: unsettled == 0, pending, unanswered }, moved))
    }

    /// Stops: closes the ports and every connection.
    pub fn shutdown(&self) {
        self.0.stop.cancel();
    }

    // === for the ports ===

    pub(crate) fn stopped(&self) -> &CancellationToken {
        &self.0.stop
    }

    pub(crate) fn tls(&self) -> Option<&TlsAcceptor> {
        self.0.tls.as_ref()
    }

    pub(crate) fn connections_log(&self) -> &Arc<Connections> {
        &self.0.log
    }

    pub(crate) fn next_connection(&self) -> u64 {
        self.0.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A request has arrived.
    pub(crate) fn call(
        &self,
        sender: &Arc<http::Connection>,
        target: &Target,
        args: Args,
    ) -> (RequestId, Result<Reaction, Error>) {
        let mut state = self.state();
        // Taken under the lock: requests are numbered in the order in which they take effect.
        let (now, request) = (self.now(), self.0.requests.fetch_add(1, Ordering::Relaxed) + 1);
        let state = &mut *state;
        let origin = sender.origin();
        self.0.log.request(origin.connection, &target.token, request, &target.method);
        let Some(bot) = state.bots.get_mut(&target.token) else {
            let error = if bot_id(&target.token).is_some() { Error::UnknownBot } else { Error::Token };
            return (request, Err(error));
        };
        let method = if target.method.is_empty() { args.get("method").to_owned() } else { target.method.clone() };
        let call = Call { request, origin, sender: sender.clone(), method, args };
        let reaction = bot.call(now, bot.unix_time(), &state.lanes, call);
        self.notify();
        (request, Ok(reaction))
    }

    /// The connection of a request was closed before the answer.
    pub(crate) fn sender_gone(&self, token: &str, request: RequestId) {
        let _ = self.change_bot(token, |bot, now| bot.sender_gone(now, request));
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.notify();
        result
    }

    fn change_bot<T>(&self, token: &str, change: impl FnOnce(&mut Bot, At) -> T) -> Result<T, Error> {
        self.change(|state| {
            let bot = state.bots.get_mut(token).ok_or(Error::UnknownBot)?;
            Ok(change(bot, self.now()))
        })
    }

    fn read_bot<T>(&self, token: &str, read: impl FnOnce(&Bot, &LaneNames) -> T) -> Result<T, Error> {
        let state = self.state();
        let bot = state.bots.get(token).ok_or(Error::UnknownBot)?;
        Ok(read(bot, &state.lanes))
    }

    fn notify(&self) {
        self.0.changed.send_modify(|n| *n += 1);
        self.0.timer.notify_one();
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.0.stop.clone();
        tokio::spawn(async move { stop.run_until_cancelled(task).await });
    }

    async fn post(self, token: String, post: Post, poster: Result<Poster, String>) {
        let posted = match poster {
            Ok(poster) => poster.post(&post).await,
            Err(text) => Posted::Unanswered(Failure { text, status: None, retry_after: None }),
        };
        let (result, args) = match posted {
            Posted::Taken(args) => (Ok(()), args),
            Posted::Refused(failure) => (Err((failure, true)), Args::default()),
            Posted::Unanswered(failure) => (Err((failure, false)), Args::default()),
        };
        self.change(|state| {
            let (now, request) = (self.now(), self.0.requests.fetch_add(1, Ordering::Relaxed) + 1);
            let origin = Origin { ip: Ipv4Addr::UNSPECIFIED.into(), port_lane: Some("webhook".into()), connection: 0 };
            let call = Call { request, origin, sender: Arc::new(Nobody), method: String::new(), args };
            if let Some(bot) = state.bots.get_mut(&token) {
                bot.posted(now, &state.lanes, &post, call, result);
            }
        });
    }

    /// Does what becomes due: answers polls at their timeout, sends delayed conflicts.
    async fn run_timer(self) {
        loop {
            let now = self.now();
            let (ticked, next) = {
                let mut state = self.state();
                let ticked = state.bots.values_mut().fold(false, |any, bot| bot.tick(now) | any);
                for (token, bot) in &mut state.bots {
                    for (post, poster) in bot.posts(now, &self.0.authorities) {
                        self.spawn(self.clone().post(token.clone(), post, poster));
                    }
                }
                (ticked, state.bots.values().filter_map(Bot::deadline).min())
            };
            if ticked {
                self.0.changed.send_modify(|n| *n += 1);
            }
            match next {
                Some(at) => {
                    let at = tokio::time::Instant::from_std(self.0.started + at);
                    let _ = tokio::time::timeout_at(at, self.0.timer.notified()).await;
                }
                None => self.0.timer.notified().await,
            }
        }
    }
}

// === impl State ===

impl State {
    /// Marks of this bot and of all bots.
    pub(crate) fn marks_of(&self, token: &str) -> Vec<(At, Mark)> {
        let of_bot = |(_, mark): &&(At, Mark)| mark.token.as_ref().is_none_or(|t| t == token);
        self.marks.iter().filter(of_bot).cloned().collect()
    }
}

/// Who sends what a webhook answers with.
struct Nobody;

impl Sender for Nobody {
    fn alive(&self) -> bool {
        true
    }

    fn unheard(&self, _: RequestId, _: u16) {}
}

/// An address that a client can connect to.
fn reachable(address: SocketAddr) -> SocketAddr {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::from([127, 0, 0, 1]));
    }
    address
}
