//! What was seen: verdicts, records, and forgetting them.

use std::time::Duration;

use super::Emulator;
use crate::{
    model::{BotVerdict, ConnectionRecord, Error, Ledger, PollRecord, RequestRecord, Verdict},
    verdict::Case,
};

// === impl Emulator ===

impl Emulator {
    /// The verdict about all bots; `window` is the half width around a handover (5 s is usual).
    pub fn verdict(&self, window: Duration) -> Verdict {
        let tokens: Vec<String> = self.state().bots.keys().cloned().collect();
        let bots = tokens.iter().filter_map(|token| self.bot_verdict(token, window).ok());
        Verdict::of(bots.collect())
    }

    /// The verdict about one bot.
    ///
    /// # Errors
    /// [`Error::UnknownBot`].
    pub fn bot_verdict(&self, token: &str, window: Duration) -> Result<BotVerdict, Error> {
        self.judge(token, window, Duration::ZERO)
    }

    /// A verdict; an update that left the queue less than `patience` ago may still be answered.
    pub(crate) fn judge(&self, token: &str, window: Duration, patience: Duration) -> Result<BotVerdict, Error> {
        let state = self.state();
        let now = self.now();
        let bot = state.bots.get(token).ok_or(Error::UnknownBot)?;
        let polls = bot.journal.polls(&state.lanes);
        let updates = bot.journal.updates(&state.lanes);
        let (username, bot_id) = (bot.username.clone(), bot.id);
        let (stray, refused, dropped) = (bot.journal.stray(), bot.journal.refused(), bot.journal.dropped());
        let forgotten = bot.journal.forgotten();
        let marks = state.marks_of(token);
        drop(state);
        let case = Case {
            username: &username,
            bot_id,
            polls: &polls,
            updates: &updates,
            stray,
            refused,
            dropped,
            forgotten,
            marks: &marks,
            window,
            now,
            patience,
        };
        Ok(case.judge())
    }

    /// The life of every update of a bot.
    ///
    /// # Errors
    /// [`Error::UnknownBot`].
    pub fn ledger(&self, token: &str) -> Result<Ledger, Error> {
        self.read_bot(token, |bot, lanes| Ledger {
            username: bot.username.clone(),
            updates: bot.journal.updates(lanes),
        })
    }

    /// Every getUpdates request to a bot, in the order of arrival.
    ///
    /// # Errors
    /// [`Error::UnknownBot`].
    pub fn polls(&self, token: &str) -> Result<Vec<PollRecord>, Error> {
        self.read_bot(token, |bot, lanes| bot.journal.polls(lanes))
    }

    /// Every other request to a bot, in the order of arrival.
    ///
    /// # Errors
    /// [`Error::UnknownBot`].
    pub fn requests(&self, token: &str) -> Result<Vec<RequestRecord>, Error> {
        self.read_bot(token, |bot, lanes| bot.journal.requests(lanes))
    }

    /// Every connection over which something for this bot came (without a token: every connection), in the order of opening.
    ///
    /// # Errors
    /// [`Error::UnknownBot`].
    pub fn connections(&self, token: Option<&str>) -> Result<Vec<ConnectionRecord>, Error> {
        let state = self.state();
        if token.is_some_and(|token| !state.bots.contains_key(token)) {
            return Err(Error::UnknownBot);
        }
        Ok(self.0.log.of(token, &state.lanes))
    }

    /// Forgets the records of what was over more than `keep` ago, so that a run of hours does not grow without bound; returns how many.
    ///
    /// Updates that were lost, or answered twice, are never forgotten; those that were answered once stay in the verdict's sums, and a
    /// second answer to one of them is still a dup. Polls and what is made from them (conflicts, handovers, silence) are forgotten:
    /// take the verdict before.
    ///
    /// # Errors
    /// [`Error::UnknownBot`].
    pub fn forget(&self, token: Option<&str>, keep: Duration) -> Result<usize, Error> {
        let cut = self.now().saturating_sub(keep);
        let mut state = self.state();
        if token.is_some_and(|token| !state.bots.contains_key(token)) {
            return Err(Error::UnknownBot);
        }
        let bots = state.bots.iter_mut().filter(|(t, _)| token.is_none_or(|token| token == *t));
        let forgotten: usize = bots.map(|(_, bot)| bot.journal.forget(cut)).sum();
        Ok(forgotten + if token.is_none() { self.0.log.forget(cut) } else { 0 })
    }
}
