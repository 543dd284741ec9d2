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
use crate::{BotIdentity, Token, TokenError};

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
    let test = if test { "/test" } else { "" };
    let path = shared.origin.path(false, &shared.tokens.current(), &format!("{test}/getMe"), None);
    let request = Request::get(shared.origin.uri(path)?).body(answers::full(Bytes::new())).ok()?;
    let asking = async {
        let response = shared.client.request(request).await.ok()?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST).collect().await.ok()?.to_bytes();
        Some((status, body))
    };
    let (status, body) = timeout(PATIENCE, asking).await.ok()??;
    match status {
        StatusCode::OK => {
            let me = serde_json::from_slice::<Me>(&body).ok()?;
            shared.get_me.keep(&body);
            let identity = BotIdentity { id: me.result.id, username: me.result.username };
            let _ = shared.messages.send(Message::Identity(identity));
        }
        StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND => shared.input(Input::TokenSeen(false)),
        _ => debug!(status = status.as_u16(), "getMe failed"),
    }
    Some(Answered { status, body })
}

/// Learns who the bot is: now, after each exchange of the token, and once a minute while the token is refused.
pub(crate) async fn identify(shared: Arc<Shared>) {
    let mut problem = None;
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
        while !exchanged(&shared, &mut problem, again).await && again.is_none_or(|again| Instant::now() < again) {}
    }
}

/// Looks at the token file once, after a pause that ends at `latest`; another token of this bot is used from now on.
async fn exchanged(shared: &Shared, known_problem: &mut Option<String>, latest: Option<Instant>) -> bool {
    let look = Instant::now() + shared.settings.borrow().token_check;
    tokio::time::sleep_until(latest.map_or(look, |latest| look.min(latest))).await;
    let current = shared.tokens.current();
    let problem = match read(shared).await {
        Ok(token) if token == current => None,
        Ok(token) if token.bot_id() == current.bot_id() => {
            info!("the token file holds another token of this bot; using it");
            shared.tokens.exchange(token);
            shared.input(Input::TokenChanged);
            return true;
        }
        Ok(_) => Some("the token file now holds the token of another bot; going on with the old one".to_owned()),
        Err(error) => Some(format!("{error}; going on with the token that was read before")),
    };
    if let Some(problem) = problem.as_ref().filter(|problem| known_problem.as_ref() != Some(*problem)) {
        warn!("{problem}");
    }
    *known_problem = problem;
    false
}

async fn read(shared: &Shared) -> Result<Token, TokenError> {
    let path = shared.token_file.clone();
    tokio::task::spawn_blocking(move || Token::read(&path)).await.unwrap_or(Err(TokenError::Malformed))
}
