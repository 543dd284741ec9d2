//! Telegram's limits for messages, as its FAQ tells them (the cloud's own are not public): one a second to a chat, 20 a minute to a
//! group, 30 a second in all. <https://core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this>

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::model::At;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Flood {
    all: Window,
    chats: HashMap<i64, Window>,
    groups: HashMap<i64, Window>,
}

#[derive(Debug, Default)]
struct Window(VecDeque<At>);

// === impl Flood ===

impl Flood {
    /// Seconds to wait; none: the message may go, and counts.
    pub(crate) fn check(&mut self, now: At, method: &str, chat: Option<i64>) -> Option<u64> {
        let sends = method.starts_with("send") && method != "sendchataction" || method.starts_with("copymessage");
        let chat = chat.filter(|_| sends || method.starts_with("forwardmessage"))?;
        let mut windows = vec![(&mut self.all, 30, SECOND), (self.chats.entry(chat).or_default(), 1, SECOND)];
        if chat < 0 {
            windows.push((self.groups.entry(chat).or_default(), 20, MINUTE));
        }
        let wait = windows.iter_mut().filter_map(|(window, count, width)| window.wait(now, *count, *width)).max();
        if let Some(wait) = wait {
            return Some(wait.as_millis().div_ceil(1000).max(1) as u64);
        }
        windows.into_iter().for_each(|(window, ..)| window.0.push_back(now));
        None
    }
}

// === impl Window ===

impl Window {
    fn wait(&mut self, now: At, count: usize, width: Duration) -> Option<Duration> {
        while self.0.front().is_some_and(|at| *at + width <= now) {
            self.0.pop_front();
        }
        let oldest = *self.0.front()?;
        (self.0.len() >= count).then(|| oldest + width - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_a_second_in_all_whatever_the_chat_and_reads_are_free() {
        let mut flood = Flood::default();
        let mut send = |ms, chat| flood.check(At::from_millis(ms), "sendmessage", Some(chat));
        assert!((0..30).all(|chat| send(chat as u64, 100 + chat).is_none()));
        assert_eq!(send(500, 200), Some(1));
        assert_eq!(send(1000, 200), None, "a second after the first one");
        assert_eq!(send(1000, 201), Some(1), "the second one of them is 1 ms younger");
        assert_eq!(flood.check(At::from_millis(1000), "sendchataction", Some(100)), None);
    }
}
