//! `getMe`: nine of the libraries that were tried exit when their first one fails, so it hardly ever may (R16).
//!
//! The gate asks Telegram itself, tries again while it fails, and then serves the last good answer if there is one. It
//! also asks once at its own start and whenever the token was exchanged: so it knows the bot's name and whether the
//! token is good before the bot asks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info, warn};

use crate::answers::{self, Body};
use crate::core::Input;
use crate::driver::{Message, Shared};
use crate::{BotIdentity, Token, TokenError, TokenProblem};

const LARGEST: usize = 64 << 10;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const FIRST_AGAIN: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// A server that takes the request and says nothing must not keep the gate from looking at its token.
const PATIENCE: Duration = Duration::from_secs(10);
const WHILE_REFUSED: Duration = Duration::from_secs(60);

/// The last good answer.
#[derive(Default)]
pub(crate) struct Memory(Mutex<Option<Bytes>>);

struct Answered {
    status: StatusCode,
    body: Bytes,
}

#[derive(Deserialize)]
struct Me {
    result: Bot,
}

#[derive(Deserialize)]
struct Bot {
    id: i64,
    #[serde(default)]
    username: String,
}

// === impl Memory ===

impl Memory {
    fn keep(&self, body: &Bytes) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(body.clone());
    }

    fn recall(&self) -> Option<Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Answers the bot within the patience of the settings.
pub(crate) async fn serve(shared: &Shared, test: bool) -> Response<Body> {
    let patience = shared.settings.borrow().get_me_patience;
    let deadline = Instant::now() + patience;
    let mut pause = FIRST_PAUSE;
    let mut refused = None;
    while let Ok(answered) = timeout_at(deadline, ask(shared, test)).await {
        match answered {
            Some(answer) if final_answer(answer.status) => {
                return answers::json(answer.status, answer.body);
            }
            Some(answer) => refused = Some(answer),
            None => {}
        }
        if Instant::now() + pause >= deadline {
            break;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
    match (shared.get_me.recall(), refused) {
        (Some(body), _) => answers::json(StatusCode::OK, body),
        (None, Some(answer)) if is_json(&answer.body) => answers::json(answer.status, answer.body),
        (None, Some(answer)) => {
            answers::error(answer.status, answer.status.canonical_reason().unwrap_or("Bad Gateway"))
        }
        (None, None) => answers::bad_gateway(),
    }
}

/// Everything but a flood limit and a server's own trouble is Telegram's word, also 401 (R26).
fn final_answer(status: StatusCode) -> bool {
    !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS
}

fn is_json(body: &Bytes) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

/// Asks Telegram once, for a limited time, and tells the driver what it said.
async fn ask(shared: &Shared, test: bool) -> Option<Answered> {
    let answered = request(shared, &shared.tokens.current(), test).await?;
    match answered.status {
        StatusCode::OK => {
            let me = serde_json::from_slice::<Me>(&answered.body).ok()?;
            shared.get_me.keep(&answered.body);
            let identity = BotIdentity { id: me.result.id, username: me.result.username };
            let _ = shared.messages.send(Message::Identity(identity));
        }
        status if refuses(status) => shared.input(Input::TokenSeen(false)),
        status => debug!(status = status.as_u16(), "getMe failed"),
    }
    Some(answered)
}

/// `None`: there was no answer in time.
async fn request(shared: &Shared, token: &Token, test: bool) -> Option<Answered> {
    let test = if test { "/test" } else { "" };
    let path = shared.origin.path(false, token, &format!("{test}/getMe"), None);
    let request = Request::get(shared.origin.uri(path)?).body(answers::full(Bytes::new())).ok()?;
    let asking = async {
        let response = shared.client.request(request).await.ok()?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST).collect().await.ok()?.to_bytes();
        Some(Answered { status, body })
    };
    timeout(PATIENCE, asking).await.ok()?
}

/// Telegram's front answers 404 to a token that it does not know.
fn refuses(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND)
}

/// Learns who the bot is: now, after each exchange of the token, and once a minute while the token is refused.
pub(crate) async fn identify(shared: Arc<Shared>) {
    let mut watch = Watch::default();
    let mut pause = FIRST_AGAIN;
    loop {
        let answered = ask(&shared, false).await.filter(|answer| final_answer(answer.status));
        let again = match &answered {
            Some(answer) if answer.status == StatusCode::OK => None,
            Some(_) => Some(WHILE_REFUSED),
            None => Some(pause),
        };
        pause = if answered.is_none() { (pause * 2).min(LAST_PAUSE) } else { FIRST_AGAIN };
        // The file is looked at meanwhile, whatever Telegram said.
        let again = again.map(|wait| Instant::now() + wait);
        while !watch.exchanged(&shared, again).await && again.is_none_or(|again| Instant::now() < again) {}
    }
}

/// What is known of the token file.
#[derive(Default)]
struct Watch {
    problem: Option<TokenProblem>,
    /// Telegram refused this one then.
    refused: Option<(Token, Instant)>,
}

// === impl Watch ===

impl Watch {
    /// Looks at the token file once, after a pause that ends at `latest`. Another token of this bot is used from now on, if
    /// Telegram accepts it: a wrong one in the Secret must not end what works.
    async fn exchanged(&mut self, shared: &Shared, latest: Option<Instant>) -> bool {
        let look = Instant::now() + shared.settings.borrow().token_check;
        tokio::time::sleep_until(latest.map_or(look, |latest| look.min(latest))).await;
        let current = shared.tokens.current();
        let problem = match read(shared).await {
            Ok(token) if token == current => None,
            Ok(token) if token.bot_id() != current.bot_id() => Some(TokenProblem::OtherBot),
            Ok(token) => match self.accepts(shared, &token).await {
                Some(true) => {
                    info!("the token file holds another token of this bot; using it");
                    shared.tokens.exchange(token);
                    shared.input(Input::TokenChanged);
                    *self = Self::default();
                    return true;
                }
                Some(false) => Some(TokenProblem::Refused),
                // It is asked again at the next look.
                None => self.problem,
            },
            Err(error) => {
                debug!(%error, "the token file");
                Some(TokenProblem::Unreadable)
            }
        };
        if problem != self.problem {
            if let Some(problem) = problem {
                warn!(
                    ?problem,
                    "the token file holds something else, which is not used; going on with the token that was read before"
                );
            }
            shared.input(Input::TokenProblem(problem));
            self.problem = problem;
        }
        false
    }

    /// Whether Telegram accepts this token; `None` if it does not say.
    async fn accepts(&mut self, shared: &Shared, token: &Token) -> Option<bool> {
        let recently = |(refused, at): &(Token, Instant)| refused == token && at.elapsed() < WHILE_REFUSED;
        if self.refused.as_ref().is_some_and(recently) {
            return Some(false);
        }
        let status = request(shared, token, false).await?.status;
        if refuses(status) {
            self.refused = Some((token.clone(), Instant::now()));
        }
        final_answer(status).then_some(status == StatusCode::OK)
    }
}

async fn read(shared: &Shared) -> Result<Token, TokenError> {
    let path = shared.token_file.clone();
    tokio::task::spawn_blocking(move || Token::read(&path)).await.unwrap_or(Err(TokenError::Malformed))
}
