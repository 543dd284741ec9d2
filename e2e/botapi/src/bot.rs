//! One bot as the emulator keeps it: its server, its journal, its faults, and the requests that wait for an answer.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    answer::{self, Answer},
    args::Args,
    deliver::Poster,
    files::Files,
    flood::Flood,
    journal::{Journal, LaneNames, Origin},
    methods,
    model::{At, Conflict, Error, Fault, FaultKind, Push},
    server::{Effect, GetUpdates, KeptOut, Key, RequestId, Server, SetWebhook, WebhookAnswer, updates_json},
    updates,
};

mod serving;

/// Whether the sender of a request is still there to read its answer.
pub(crate) trait Sender: Send + Sync {
    fn alive(&self) -> bool;

    /// It was answered when it had gone.
    fn unheard(&self, request: RequestId, status: u16);
}

/// One request and who sent it.
pub(crate) struct Call {
    pub(crate) request: RequestId,
    pub(crate) origin: Origin,
    pub(crate) sender: Arc<dyn Sender>,
    /// As it was sent.
    pub(crate) method: String,
    pub(crate) args: Args,
}

/// How a request is reacted to.
pub(crate) enum Reaction {
    Answer(Answer),
    Wait(oneshot::Receiver<Answer>),
    Reset,
    /// Never answered; reset when the token is cancelled.
    Hang(CancellationToken),
    Late(Duration, Box<Reaction>),
    /// Executed, and reset in place of the answer.
    ResetAfter(Box<Reaction>),
}

struct Waiting {
    origin: Origin,
    sender: Arc<dyn Sender>,
    answer: oneshot::Sender<Answer>,
}

/// What the emulator was told about all bots.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    pub(crate) http_webhooks: bool,
    pub(crate) flood_limits: bool,
}

/// Whether the server serves the bot. Times are the server's.
#[derive(Clone, Copy, Debug)]
enum Session {
    Running {
        since: At,
    },
    /// The next call finds it restarting.
    Closed,
    LoggedOut {
        at: At,
    },
}

pub(crate) struct Bot {
    pub(crate) id: i64,
    pub(crate) username: String,
    pub(crate) journal: Journal,
    pub(crate) server: Server,
    pub(crate) load: Option<CancellationToken>,
    next_message_id: i64,
    rules: Rules,
    session: Session,
    flood: Flood,
    pub(crate) poster: Option<(u64, Poster)>,
    faults: Vec<Fault>,
    hanging: CancellationToken,
    /// How far the server's clock was moved. The journal's was not: the verdict is about real time.
    shift: Duration,
    /// When the last call came, on the clock that was not moved.
    last_seen: At,
    pub(crate) files: Files,
    /// What setMyCommands set, by scope and language.
    pub(crate) commands: HashMap<String, Value>,
    waiting: HashMap<RequestId, Waiting>,
}

/// The name of downloads among methods: for the log, and for faults.
pub(crate) const DOWNLOAD: &str = "file";
const DEFAULT_FAULT_SECONDS: Duration = Duration::from_secs(5);

// === impl Bot ===

impl Bot {
    pub(crate) fn new(token: &str, username: &str) -> Result<Self, Error> {
        let id = bot_id(token).ok_or(Error::Token)?;
        // Far from those of other bots, so that a reply to the wrong bot is noticed.
        let first_update = 100_000_001 + (id % 1000) as i32 * 1_000_000;
        Ok(Self {
            id,
            username: username.to_owned(),
            journal: Journal::new(first_update),
            server: Server::new(first_update),
            load: None,
            next_message_id: 1,
            rules: Rules::default(),
            session: Session::Running { since: At::ZERO },
            flood: Flood::default(),
            poster: None,
            faults: Vec::new(),
            hanging: CancellationToken::new(),
            shift: Duration::ZERO,
            last_seen: At::ZERO,
            files: Files::default(),
            commands: HashMap::new(),
            waiting: HashMap::new(),
        })
    }

    pub(crate) fn next_message_id(&mut self) -> i64 {
        let id = self.next_message_id;
        self.next_message_id += 1;
        id
    }

    pub(crate) fn push(&mut self, now: At, date: i64, push: Push) -> Vec<i32> {
        let mut ids = Vec::new();
        for _ in 0..push.count {
            let message_id = self.next_message_id();
            let json = |id| updates::update(id, message_id, date, &push).to_string();
            match self.server.push(now + self.shift, Key { kind: push.kind, chat: push.chat }, json) {
                Ok(id) => {
                    self.journal.pushed(now, id, push.chat);
                    ids.push(id);
                }
                Err(why) => self.journal.keep_out(why == KeptOut::NoRoom),
            }
        }
        ids
    }

    // === the clock ===

    /// Moves the server's clock on. What has become too old is deleted.
    pub(crate) fn advance(&mut self, now: At, by: Duration) {
        self.shift += by;
        let effects = self.server.expire(now + self.shift);
        self.apply(now, effects, None);
    }

    /// What the server's clock says.
    pub(crate) fn unix_time(&self) -> i64 {
        let now = SystemTime::now() + self.shift;
        now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
    }

    /// When `tick` is due, on the clock that was not moved.
    pub(crate) fn deadline(&self) -> Option<At> {
        self.server.deadline().map(|at| at.saturating_sub(self.shift))
    }

    // === faults ===

    pub(crate) fn add_fault(&mut self, fault: Fault) {
        if fault.count != Some(0) {
            self.faults.push(fault);
        }
    }

    pub(crate) fn clear_faults(&mut self) {
        self.faults.clear();
        std::mem::take(&mut self.hanging).cancel();
    }

    fn take_fault(&mut self, method: &str, lane: &str) -> Option<Fault> {
        let strikes = |f: &Fault| {
            (f.method == "*" || f.method.eq_ignore_ascii_case(method)) && f.lane.as_ref().is_none_or(|l| l == lane)
        };
        let index = self.faults.iter().position(strikes)?;
        let fault = self.faults[index].clone();
        if let Some(count) = &mut self.faults[index].count {
            *count -= 1;
            if *count == 0 {
                self.faults.remove(index);
            }
        }
        Some(fault)
    }

    // === requests ===

    pub(crate) fn call(&mut self, now: At, date: i64, names: &LaneNames, call: Call) -> Reaction {
        let method = call.method.to_ascii_lowercase();
        self.last_seen = now;
        let request = call.request;
        let lane = names.name(&call.origin, now);
        let polls = method == "getupdates";
        if polls {
            self.record_poll(now, &call);
        } else {
            self.journal.request(now, request, call.origin.clone(), &call.method);
        }
        let Some(fault) = self.take_fault(&method, &lane) else {
            return self.execute(now, date, &method, call);
        };
        let seconds = fault.seconds.unwrap_or(DEFAULT_FAULT_SECONDS);
        let answer = match fault.kind {
            FaultKind::Late => {
                return Reaction::Late(seconds, Box::new(self.execute(now, date, &method, call)));
            }
            FaultKind::ResetAfter => {
                return Reaction::ResetAfter(Box::new(self.execute(now, date, &method, call)));
            }
            FaultKind::Reset | FaultKind::Hang => None,
            FaultKind::Status(status) => Some(Answer::usual(status, seconds.as_secs())),
            FaultKind::Html(status) => Some(Answer::html(status)),
        };
        if polls {
            self.journal.fault(now, request, fault.kind);
        }
        match answer {
            Some(answer) => {
                self.journal.answered(request, answer.status);
                Reaction::Answer(answer)
            }
            None if fault.kind == FaultKind::Hang => Reaction::Hang(self.hanging.clone()),
            None => Reaction::Reset,
        }
    }

    fn record_poll(&mut self, now: At, call: &Call) {
        self.look_for_sender_of_pending(now);
        let rival = self.server.pending().and_then(|p| self.waiting.get(&p)).is_some_and(|w| w.sender.alive());
        let args = get_updates(&call.args);
        self.journal.poll(now, call.request, call.origin.clone(), &args, 1 + u32::from(rival));
    }

    fn execute(&mut self, now: At, date: i64, method: &str, call: Call) -> Reaction {
        if method == "getupdates" {
            return Reaction::Wait(self.get_updates(now, call));
        }
        let request = call.request;
        let answer = self.answer(now, date, method, call);
        self.journal.answered(request, answer.status);
        Reaction::Answer(answer)
    }

    fn get_updates(&mut self, now: At, call: Call) -> oneshot::Receiver<Answer> {
        let args = get_updates(&call.args);
        let (answer, answered) = oneshot::channel();
        let Call { request, origin, sender, .. } = call;
        self.waiting.insert(request, Waiting { origin, sender, answer });
        if let Some(closed) = self.not_serving(now) {
            self.finish(request, closed);
            return answered;
        }
        let effects = self.server.get_updates(now + self.shift, request, &args);
        self.apply(now, effects, None);
        answered
    }

    fn answer(&mut self, now: At, date: i64, method: &str, mut call: Call) -> Answer {
        if method == "close"
            && let Some(wait) = self.too_young(now)
        {
            return Answer::retry_after(wait);
        }
        if let Some(closed) = self.not_serving(now) {
            return closed;
        }
        if self.rules.flood_limits
            && let Some(wait) = self.flood.check(now + self.shift, method, call.args.integer("chat_id"))
        {
            return Answer::retry_after(wait);
        }
        match method {
            "setwebhook" | "deletewebhook" => self.set_webhook(now, method, &mut call),
            "close" | "logout" => {
                let (at, out) = (now + self.shift, method == "logout");
                self.session = if out { Session::LoggedOut { at } } else { Session::Closed };
                let effects = self.server.close(at, call.request, out);
                self.apply(now, effects, Some(&call));
                Answer::ok(&true.into())
            }
            "sendmessage" => methods::send_message(self, now, date, &call),
            DOWNLOAD => {
                let content = self.files.content(call.args.get("file_path"));
                content.map_or_else(|| Answer::error(404, "Not Found"), Answer::file)
            }
            _ => methods::other(self, date, method, &mut call.args),
        }
    }

    fn set_webhook(&mut self, now: At, method: &str, call: &mut Call) -> Answer {
        let set = method == "setwebhook";
        let url_argument = |args: &Args, name| {
            if set { args.get(name).to_owned() } else { String::new() }
        };
        let certificate = if set { call.args.take_file("certificate").and_then(|upload| upload.content) } else { None };
        let args = SetWebhook {
            certificate,
            max_connections: call.args.int32("max_connections"),
            ip_address: url_argument(&call.args, "ip_address"),
            http: self.rules.http_webhooks,
            url: url_argument(&call.args, "url"),
            secret_token: url_argument(&call.args, "secret_token"),
            drop_pending_updates: call.args.boolean("drop_pending_updates"),
            allowed_updates: optional(&call.args, "allowed_updates"),
        };
        let (answer, effects) = self.server.set_webhook(now + self.shift, call.request, &args);
        self.apply(now, effects, Some(call));
        match answer {
            WebhookAnswer::Ok(text) => Answer::ok_described(text),
            WebhookAnswer::BadRequest(text) => Answer::error(400, text),
            WebhookAnswer::RetryAfter(seconds) => Answer::retry_after(seconds),
        }
    }

    // === effects ===

    pub(crate) fn tick(&mut self, now: At) -> bool {
        let effects = self.server.tick(now + self.shift);
        let some = !effects.is_empty();
        self.apply(now, effects, None);
        some
    }

    fn apply(&mut self, now: At, effects: Vec<Effect>, call: Option<&Call>) {
        for effect in effects {
            match effect {
                Effect::Removed { ids, why, request } => {
                    let by = request.and_then(|r| Some((r, self.origin(r, call)?)));
                    self.journal.removed(now, &ids, why, by);
                }
                Effect::Deliver { request, updates } => {
                    self.look_for_sender(now, request);
                    let ids: Vec<i32> = updates.iter().map(|u| u.id).collect();
                    self.journal.delivered(now, request, &ids);
                    self.finish(request, Answer::ok_text(&updates_json(&updates)));
                }
                Effect::Evicted { request, by } => self.journal.evicted(now, request, by),
                Effect::Conflict { request, cause } => {
                    self.look_for_sender(now, request);
                    self.journal.conflict(now, request, cause);
                    let text = match cause {
                        Conflict::WebhookActive => answer::CONFLICT_WEBHOOK,
                        Conflict::SetWebhook => answer::CONFLICT_SET_WEBHOOK,
                        Conflict::GetUpdates | Conflict::Injected => answer::CONFLICT_GET_UPDATES,
                    };
                    self.finish(request, Answer::error(409, text));
                }
            }
        }
    }

    fn origin(&self, request: RequestId, call: Option<&Call>) -> Option<Origin> {
        let waiting = self.waiting.get(&request).map(|w| w.origin.clone());
        waiting.or_else(|| call.map(|c| c.origin.clone()))
    }

    fn finish(&mut self, request: RequestId, answer: Answer) {
        if let Some(waiting) = self.waiting.remove(&request) {
            let status = answer.status;
            // The handler of a connection that was closed is gone: the answer is written to nobody.
            if waiting.answer.send(answer).is_err() {
                waiting.sender.unheard(request, status);
            }
        }
    }

    /// The connection of a waiting request was closed. The poll keeps its slot.
    pub(crate) fn sender_gone(&mut self, now: At, request: RequestId) {
        self.journal.gone(now, request);
    }

    fn look_for_sender(&mut self, now: At, request: RequestId) {
        if self.waiting.get(&request).is_some_and(|w| !w.sender.alive()) {
            self.journal.gone(now, request);
        }
    }

    fn look_for_sender_of_pending(&mut self, now: At) {
        if let Some(pending) = self.server.pending() {
            self.look_for_sender(now, pending);
        }
    }
}

/// The number before the colon; none: this is no token.
pub(crate) fn bot_id(token: &str) -> Option<i64> {
    let (id, secret) = token.split_once(':')?;
    let digits = !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()) && !id.starts_with('0');
    let fits = token.len() <= 80 && !token.contains('/') && !secret.is_empty();
    let id: i64 = id.parse().ok().filter(|_| digits && fits)?;
    (id < 1 << 54).then_some(id)
}

fn get_updates(args: &Args) -> GetUpdates {
    GetUpdates {
        offset: args.int32("offset").unwrap_or(0),
        limit: args.int32("limit"),
        timeout: args.int32("timeout").unwrap_or(0),
        allowed_updates: optional(args, "allowed_updates"),
    }
}

fn optional(args: &Args, name: &str) -> Option<String> {
    let text = args.get(name);
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::{
        net::IpAddr,
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::*;
    use crate::model::PollEnd;

    /// A client whose connection's task has not been told yet that it went away.
    #[derive(Default)]
    struct Client(AtomicBool);

    impl Sender for Client {
        fn alive(&self) -> bool {
            !self.0.load(Ordering::Relaxed)
        }

        fn unheard(&self, _: RequestId, _: u16) {}
    }

    struct Bench {
        bot: Bot,
        requests: RequestId,
    }

    impl Bench {
        fn new() -> Self {
            Self { bot: Bot::new("1:x", "bot").expect("a token"), requests: 0 }
        }

        async fn poll(&mut self, at: u64, client: &Arc<Client>, offset: i32) -> Reaction {
            self.requests += 1;
            let origin = Origin { ip: IpAddr::from([127, 0, 0, 1]), port_lane: None, connection: 1 };
            let query = format!("timeout=30&offset={offset}");
            let args = Args::read(Some(&query), "", None).await.expect("small");
            let method = "getUpdates".to_owned();
            let call = Call { request: self.requests, origin, sender: client.clone(), method, args };
            self.bot.call(Duration::from_secs(at), 0, &LaneNames::default(), call)
        }

        fn first_poll(&self) -> crate::model::PollRecord {
            self.bot.journal.polls(&LaneNames::default()).remove(0)
        }
    }

    #[tokio::test]
    async fn a_delivery_to_a_sender_that_went_away_unnoticed_is_unusable() {
        let (mut b, client) = (Bench::new(), Arc::new(Client::default()));
        let _reaction = b.poll(0, &client, 0).await;
        client.0.store(true, Ordering::Relaxed);
        b.bot.push(Duration::from_secs(1), 0, Push::default());
        assert!(b.bot.tick(Duration::from_secs(2)));
        let updates = b.bot.journal.updates(&LaneNames::default());
        assert!(!updates[0].deliveries[0].usable);
    }

    #[tokio::test]
    async fn a_conflict_of_a_sender_that_went_away_unnoticed_is_not_visible() {
        let (mut b, client, rival) = (Bench::new(), Arc::new(Client::default()), Arc::new(Client::default()));
        let _old = b.poll(0, &client, 0).await;
        let _new = b.poll(10, &rival, 0).await;
        let _newer = b.poll(11, &client, 1).await;
        rival.0.store(true, Ordering::Relaxed);
        assert!(b.bot.tick(Duration::from_secs(14)), "the second conflict comes 3 s late");
        let polls = b.bot.journal.polls(&LaneNames::default());
        assert_eq!((polls[0].gone, polls[1].gone), (None, Some(Duration::from_secs(14))));
        assert_eq!(polls[1].end, PollEnd::Conflict { cause: Conflict::GetUpdates });
    }

    #[tokio::test]
    async fn a_rival_that_went_away_unnoticed_does_not_overlap() {
        let (mut b, client) = (Bench::new(), Arc::new(Client::default()));
        let _old = b.poll(0, &client, 0).await;
        client.0.store(true, Ordering::Relaxed);
        let _new = b.poll(10, &Arc::new(Client::default()), 0).await;
        assert_eq!(b.first_poll().gone, Some(Duration::from_secs(10)));
        assert_eq!(b.bot.journal.polls(&LaneNames::default())[1].open_polls, 1);
    }
}
