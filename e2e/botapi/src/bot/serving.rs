//! Whether a bot is served (close, logOut), and what its webhook gets.

use std::time::Duration;

use super::{Bot, Call, DOWNLOAD, Rules, Session};
use crate::{
    answer::Answer,
    deliver::Poster,
    journal::LaneNames,
    model::At,
    server::{Failure, Post},
};

const TEN_MINUTES: Duration = Duration::from_secs(600);

// === impl Bot ===

impl Bot {
    /// The bot is served from this time on.
    pub(crate) fn born(&mut self, now: At, rules: Rules) {
        (self.rules, self.session) = (rules, Session::Running { since: now + self.shift });
    }

    /// How long `close` is refused: for ten minutes, unless the bot came within ten minutes of the server's own start.
    pub(super) fn too_young(&self, now: At) -> Option<u64> {
        let Session::Running { since } = self.session else {
            return None;
        };
        let left = (since + TEN_MINUTES).saturating_sub(now + self.shift);
        (since > TEN_MINUTES && !left.is_zero()).then(|| left.as_secs().max(1))
    }

    pub(super) fn not_serving(&mut self, now: At) -> Option<Answer> {
        let now = now + self.shift;
        match self.session {
            Session::LoggedOut { at } if now < at + TEN_MINUTES => Some(Answer::error(400, "Logged out")),
            Session::Closed => {
                self.session = Session::Running { since: now };
                Some(Answer::error(500, "Internal Server Error: restart"))
            }
            Session::LoggedOut { .. } => {
                self.session = Session::Running { since: now };
                None
            }
            Session::Running { .. } => None,
        }
    }

    // === webhooks ===

    /// What is to be posted now, and to where.
    pub(crate) fn posts(&mut self, now: At, authorities: &[u8]) -> Vec<(Post, Result<Poster, String>)> {
        if !matches!(self.session, Session::Running { .. }) {
            return Vec::new();
        }
        let posts = self.server.posts(now + self.shift);
        let Some(webhook) = self.server.webhook().filter(|_| !posts.is_empty()) else {
            return Vec::new();
        };
        if self.poster.as_ref().is_none_or(|(generation, _)| *generation != webhook.generation) {
            let certificate = webhook.certificate.as_deref().unwrap_or_default();
            match Poster::new(&webhook.url, &webhook.secret, authorities, certificate) {
                Ok(poster) => self.poster = Some((webhook.generation, poster)),
                Err(text) => return posts.into_iter().map(|post| (post, Err(text.clone()))).collect(),
            }
        }
        let poster = self.poster.as_ref().map(|(_, poster)| poster.clone());
        posts.into_iter().filter_map(|post| Some((post, Ok(poster.clone()?)))).collect()
    }

    /// What came of a post.
    pub(crate) fn posted(
        &mut self,
        now: At,
        names: &LaneNames,
        post: &Post,
        call: Call,
        posted: Result<(), (Failure, bool)>,
    ) {
        let heard = posted.as_ref().map_or_else(|(_, heard)| *heard, |()| true);
        if heard {
            self.journal.posted(now, call.request, &call.origin, post.update);
        }
        let result = posted.map_err(|(failure, _)| failure);
        let taken = result.is_ok();
        let effects = self.server.posted(now + self.shift, post, result);
        let method = call.args.get("method").to_ascii_lowercase();
        let refused = method.is_empty()
            || method.starts_with("get")
            || matches!(method.as_str(), "deletewebhook" | "setwebhook" | "close" | "logout" | DOWNLOAD);
        if taken && !refused {
            // Its answer is for nobody.
            let date = self.unix_time();
            self.call(now, date, names, Call { method, ..call });
        }
        self.apply(now, effects, None);
    }

    /// The date of a time of the server.
    pub(crate) fn date_of(&self, at: At) -> i64 {
        let ago = self.now_of_server().saturating_sub(at);
        self.unix_time() - ago.as_secs() as i64
    }

    fn now_of_server(&self) -> At {
        self.last_seen + self.shift
    }
}
