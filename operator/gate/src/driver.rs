//! The task that owns a bot's core: feeds it what happens, does what it says.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pollux_clock::BootInstant;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::answer::{self, Update};
use crate::core::{Action, Call, Core, Input, Outcome, PollArgs, PollId, PollQuery, Reply, RequestId};
use crate::fence::{self, Fence};
use crate::link::{Job, Link, LinkEvent};
use crate::metrics::Metrics;
use crate::upstream::{HttpClient, Origin, Tokens};
use crate::{BotIdentity, Drained, Event, Settings, Status};

/// So many calls are told of at once at most.
const MOST_CALLS: usize = 256;

/// What the edges tell the driver.
pub(crate) enum Message {
    /// Something for the core.
    Input(Input),
    /// A `getUpdates` of the bot, and where its answer goes.
    Poll(RequestId, PollArgs, oneshot::Sender<Held>),
    /// Calls are to be looked at.
    Calls,
    /// Tell me when drained.
    Drain(oneshot::Sender<Drained>),
    /// `getMe` said who the bot is.
    Identity(BotIdentity),
}

/// The answer to a held request.
pub(crate) enum Held {
    Empty,
    /// The upstream body, to be given to the bot only while the fence holds.
    Updates(Bytes),
}

pub(crate) type Messages = mpsc::UnboundedSender<Message>;

/// What all tasks of a bot's gate share.
pub(crate) struct Shared {
    pub(crate) messages: Messages,
    pub(crate) fence: Fence,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) settings: watch::Sender<Settings>,
    pub(crate) tokens: Tokens,
    pub(crate) token_file: PathBuf,
    pub(crate) origin: Origin,
    pub(crate) client: HttpClient,
    pub(crate) metrics: Metrics,
    /// The bot uses the test data centre: so do the polls.
    pub(crate) test_dc: AtomicBool,
    /// The last good answer to `getMe`.
    pub(crate) get_me: crate::get_me::Memory,
    /// The webhook that the bot does not want.
    pub(crate) unwanted: crate::webhook::Unwanted,
    /// Calls that the core has not heard of.
    pub(crate) calls: Mutex<Calls>,
    /// Those that are not finished.
    pub(crate) calls_in_flight: AtomicUsize,
    /// The last delivery or completed call, as the fence counts; 0: none yet.
    pub(crate) last_activity: AtomicU64,
    /// Stop accepting, finish what was begun.
    pub(crate) stopping: CancellationToken,
}

/// A bot makes thousands of calls in a second, and hardly any of them changes what the gate does next: most wait here for the
/// next step of the core.
pub(crate) struct Calls {
    waiting: Vec<(Call, BootInstant)>,
    /// The core waits for them.
    minded: bool,
}

pub(crate) struct Driver {
    shared: Arc<Shared>,
    core: Core,
    inbox: mpsc::UnboundedReceiver<Message>,
    status: watch::Sender<Status>,
    events: broadcast::Sender<Event>,
    link: Link,
    polling: Option<(PollId, BootInstant)>,
    held: HashMap<RequestId, oneshot::Sender<Held>>,
    drains: Vec<oneshot::Sender<Drained>>,
    identity: Option<BotIdentity>,
    /// The upstream answer of the step that is being done, and what is in it.
    body: Bytes,
    updates: Vec<Update>,
    /// Who waits for a drain is told when the status says so too.
    drained: Option<Drained>,
    /// So is who deletes the webhook, and perhaps drops the pending updates: it looks whether this process leads.
    unwanted: Option<bool>,
}

// === impl Calls ===

impl Calls {
    pub(crate) fn new() -> Self {
        Self { waiting: Vec::new(), minded: true }
    }
}

// === impl Shared ===

impl Shared {
    pub(crate) fn input(&self, input: Input) {
        // The driver ends with the runtime.
        let _ = self.messages.send(Message::Input(input));
    }

    /// A call began or ended at `at`, which is now.
    pub(crate) fn called(&self, call: Call, at: BootInstant) {
        if let Call::Ended { counts: true, .. } = call {
            self.active(at);
        }
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.waiting.push((call, at));
        if calls.minded || calls.waiting.len() == MOST_CALLS {
            let _ = self.messages.send(Message::Calls);
        }
    }

    fn active(&self, at: BootInstant) {
        self.last_activity.fetch_max(fence::nanos(at), Ordering::Relaxed);
    }
}

// === impl Driver ===

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        inbox: mpsc::UnboundedReceiver<Message>,
        status: watch::Sender<Status>,
        events: broadcast::Sender<Event>,
    ) -> Self {
        let core = Core::new(shared.settings.borrow().clone(), rand::random());
        let link = Link::new(shared.origin.clone(), shared.fence.clone());
        Self {
            shared,
            core,
            inbox,
            status,
            events,
            link,
            polling: None,
            held: HashMap::new(),
            drains: Vec::new(),
            identity: None,
            body: Bytes::new(),
            updates: Vec::new(),
            drained: None,
            unwanted: None,
        }
    }

    pub(crate) async fn run(mut self) {
        let mut settings = self.shared.settings.subscribe();
        loop {
            let wakeup = self.core.wakeup();
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
                event = self.link.next() => self.link_event(event),
                () = until(wakeup) => self.feed(Input::Tick),
                Ok(()) = settings.changed() => {
                    let changed = settings.borrow_and_update().clone();
                    self.feed(Input::Settings(changed));
                }
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Input(input) => self.feed(input),
            Message::Calls => self.feed(Input::Tick),
            Message::Poll(request, args, answer) => {
                self.held.insert(request, answer);
                self.feed(Input::Poll { request, args });
            }
            Message::Drain(done) => {
                self.drains.push(done);
                self.feed(Input::Drain);
            }
            Message::Identity(identity) => {
                self.identity = Some(identity);
                self.feed(Input::TokenSeen(true));
            }
        }
    }

    /// One step of the core, its actions, and the steps that follow from them.
    fn feed(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            if let Input::Abandoned(request) = input {
                self.held.remove(&request);
            }
            self.hear_of_calls();
            let actions = self.core.step(input, BootInstant::now());
            self.shared.fence.set(self.core.fence());
            for action in actions {
                inputs.extend(self.act(action));
            }
        }
        self.mind_calls();
        self.publish();
        if let Some(drop) = self.unwanted.take() {
            self.shared.unwanted.delete(self.core.leading().filter(|_| drop));
        }
        if let Some(drained) = self.drained.take() {
            for waiting in self.drains.drain(..) {
                let _ = waiting.send(drained.clone());
            }
        }
    }

    fn hear_of_calls(&mut self) {
        let mut calls = self.shared.calls.lock().unwrap_or_else(PoisonError::into_inner);
        for (call, at) in calls.waiting.drain(..) {
            self.core.called(call, at);
        }
    }

    /// From now on the core is told of calls at once, or later. One that came meanwhile is not forgotten.
    fn mind_calls(&self) {
        let mut calls = self.shared.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.minded = self.core.minds_calls();
        if calls.minded && !calls.waiting.is_empty() {
            let _ = self.shared.messages.send(Message::Calls);
        }
    }

    fn act(&mut self, action: Action) -> Option<Input> {
        match action {
            Action::Answer(request, reply) => return self.answer(request, reply),
            Action::Poll { id, query, patience } => self.poll(id, &query, patience),
            Action::Cancel(id) => {
                debug!(poll = id.0, "poll cancelled");
                self.link.reset();
                self.end_poll("cancelled");
            }
            Action::Warm => self.link.warm(),
            Action::DeleteWebhook { drop } => self.unwanted = Some(drop || self.unwanted == Some(true)),
            Action::Emit(event) => self.emit(event),
            Action::Drained(drained) => {
                info!(
                    outcome = drained.outcome.as_str(),
                    milliseconds = drained.duration.as_millis(),
                    unacknowledged = drained.unacknowledged,
                    owed = drained.owed,
                    confirmed = drained.confirmed,
                    "drained"
                );
                self.drained = Some(drained);
            }
        }
        None
    }

    fn answer(&mut self, request: RequestId, reply: Reply) -> Option<Input> {
        let answer = self.held.remove(&request);
        let Reply::Updates { skip, take } = reply else {
            let _ = answer.map(|answer| answer.send(Held::Empty));
            return None;
        };
        let body = if skip == 0 && take == self.updates.len() {
            Some(self.body.clone())
        } else {
            answer::part(&self.body, skip, take)
        };
        self.shared.metrics.received(self.updates.iter().skip(skip).take(take));
        let held = body.map_or(Held::Empty, Held::Updates);
        let delivers = matches!(held, Held::Updates(_));
        let sent = answer.is_some_and(|answer| answer.send(held).is_ok());
        (!sent || !delivers).then_some(Input::Undelivered(request))
    }

    fn poll(&mut self, id: PollId, query: &PollQuery, patience: Duration) {
        let test = if self.shared.test_dc.load(Ordering::Relaxed) { "/test" } else { "" };
        let token = self.shared.tokens.current();
        let path = self.shared.origin.path(false, &token, &format!("{test}/getUpdates"), None);
        debug!(poll = id.0, offset = query.offset, limit = query.limit, seconds = query.timeout_seconds, "poll");
        self.polling = Some((id, BootInstant::now()));
        self.link.send(Job { path, form: form(query), patience });
    }

    fn link_event(&mut self, event: LinkEvent) {
        let Some((id, _)) = self.polling else { return };
        match event {
            LinkEvent::Written(at) => self.feed(Input::PollWritten(id, at)),
            LinkEvent::Ended(result) => {
                let (outcome, updates) = answer::read(&result);
                let code = match &result {
                    Ok(answer) => answer.status.to_string(),
                    Err(error) => {
                        warn!(poll = id.0, %error, "poll failed");
                        "none".to_owned()
                    }
                };
                if let (Ok(answer), false) = (&result, matches!(outcome, Outcome::Updates(_))) {
                    warn!(poll = id.0, status = answer.status, "poll refused");
                }
                self.end_poll(&code);
                self.body = result.map(|answer| answer.body).unwrap_or_default();
                self.updates = updates;
                self.feed(Input::PollEnded(id, outcome));
                self.body = Bytes::new();
                self.updates = Vec::new();
            }
        }
    }

    fn end_poll(&mut self, code: &str) {
        if let Some((_, started)) = self.polling.take() {
            self.shared.metrics.polled(code, BootInstant::now() - started);
        }
    }

    fn emit(&mut self, event: Event) {
        match &event {
            Event::LateRequest => {
                self.shared.metrics.late_requests.inc();
                info!("a late request of the predecessor took the polling slot; taken back");
            }
            Event::ForeignPoller => {
                warn!("somebody else polls with this token: an ungated replica, another server, a leaked token?");
            }
            Event::TokenRejected => {
                warn!("Telegram refuses the token; the bot is held until it is accepted")
            }
            other => info!(event = ?other, "event"),
        }
        // Nobody has to listen.
        let _ = self.events.send(event);
    }

    fn publish(&mut self) {
        let status = self.core.status(self.identity.clone(), BootInstant::now());
        self.shared.metrics.unconfirmed(self.core.unacknowledged());
        if let Some(at) = self.core.last_activity() {
            self.shared.active(at);
        }
        self.status.send_if_modified(|known| {
            let changed = *known != status;
            *known = status;
            changed
        });
    }
}

fn form(query: &PollQuery) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    if let Some(offset) = query.offset {
        form.append_pair("offset", &offset.to_string());
    }
    form.append_pair("limit", &query.limit.to_string());
    form.append_pair("timeout", &query.timeout_seconds.to_string());
    if let Some(list) = &query.allowed_updates {
        form.append_pair("allowed_updates", list);
    }
    form.finish()
}

async fn until(at: Option<BootInstant>) {
    match at {
        // The timer's wheel turns in milliseconds and may be early by one.
        Some(at) => tokio::time::sleep(at - BootInstant::now()).await,
        None => std::future::pending().await,
    }
}
