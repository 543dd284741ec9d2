//! A bot's queue of updates, as td's `TQueue` keeps it.
//!
//! * Ids are given in sequence; `tail` is the id that the next update gets, `head` the id of the oldest update (or `tail`).
//! * Asking from an id deletes everything below it: that is the confirmation.
//! * An id above `tail + 10` is "in the future", one below `head - 100000` is "in the past": both are refused, nothing is deleted.
//!   An id in `tail+1 ..= tail+10` is taken at its word: what arrives below it later is deleted without ever being delivered.
//! * Updates whose time is over are deleted when they are met.
//! * 100000 updates or 128 MiB at most, 512 KiB each; what is beyond is dropped silently.

use std::{collections::VecDeque, sync::Arc};

use crate::model::At;

const MAX_EVENTS: usize = 100_000;
const MAX_TOTAL_BYTES: usize = 1 << 27;
const MAX_EVENT_BYTES: usize = 1 << 19;
const FUTURE: i64 = 10;

/// A chat (or user), and the class of its updates.
pub(crate) type QueueKey = (i64, u8);

/// One update, as it will be sent.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) id: i32,
    pub(crate) key: QueueKey,
    pub(crate) expires: At,
    pub(crate) json: Arc<str>,
}

#[derive(Debug)]
pub(crate) struct Queue {
    events: VecDeque<Event>,
    tail: i32,
    bytes: usize,
}

/// What asking the queue gave.
#[derive(Debug, Default)]
pub(crate) struct Got {
    pub(crate) events: Vec<Event>,
    pub(crate) confirmed: Vec<i32>,
    pub(crate) expired: Vec<i32>,
}

/// The id is too far from the queue.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OutOfRange;

impl Queue {
    pub(crate) fn new(first_id: i32) -> Self {
        Self { events: VecDeque::new(), tail: first_id, bytes: 0 }
    }

    pub(crate) fn head(&self) -> i32 {
        self.events.front().map_or(self.tail, |e| e.id)
    }

    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    /// Appends an update; `json` is given its id. None: the queue is full, or the update too big.
    pub(crate) fn push(&mut self, expires: At, key: QueueKey, json: impl FnOnce(i32) -> String) -> Option<i32> {
        let id = self.tail;
        let json: Arc<str> = json(id).into();
        let full = self.events.len() >= MAX_EVENTS || self.bytes + json.len() > MAX_TOTAL_BYTES;
        if full || json.len() > MAX_EVENT_BYTES {
            return None;
        }
        self.bytes += json.len();
        self.events.push_back(Event { id, key, expires, json });
        self.tail += 1;
        Some(id)
    }

    /// Deletes all but the last `keep` updates and returns the ids of the deleted ones.
    pub(crate) fn keep_last(&mut self, keep: usize) -> Vec<i32> {
        let surplus = self.events.len().saturating_sub(keep);
        (0..surplus).filter_map(|_| self.pop()).collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Event> {
        self.events.iter()
    }

    /// When an update's time is over; none: it is not here.
    pub(crate) fn expires(&self, id: i32) -> Option<At> {
        self.events.iter().find(|e| e.id == id).map(|e| e.expires)
    }

    /// Deletes one update.
    pub(crate) fn forget(&mut self, id: i32) -> Vec<i32> {
        let Some(index) = self.events.iter().position(|e| e.id == id) else {
            return Vec::new();
        };
        self.bytes -= self.events.remove(index).map_or(0, |e| e.json.len());
        vec![id]
    }

    /// Deletes every update whose time is over and returns their ids.
    pub(crate) fn expire(&mut self, now: At) -> Vec<i32> {
        let (mut ids, mut bytes) = (Vec::new(), 0);
        self.events.retain(|e| {
            let over = e.expires < now;
            if over {
                ids.push(e.id);
                bytes += e.json.len();
            }
            !over
        });
        self.bytes -= bytes;
        ids
    }

    /// Deletes everything below `from` and returns the first `limit` updates from there.
    pub(crate) fn get(&mut self, from: i32, limit: usize, now: At) -> Result<Got, OutOfRange> {
        let id = i64::from(from);
        if id > i64::from(self.tail) + FUTURE || id < i64::from(self.head()) - MAX_EVENTS as i64 {
            return Err(OutOfRange);
        }
        let mut got = Got::default();
        while self.events.front().is_some_and(|e| e.id < from) {
            got.confirmed.extend(self.pop());
        }
        let mut index = 0;
        while got.events.len() < limit
            && let Some(event) = self.events.get(index)
        {
            if event.expires < now {
                got.expired.push(event.id);
                self.bytes -= event.json.len();
                self.events.remove(index);
            } else {
                got.events.push(event.clone());
                index += 1;
            }
        }
        Ok(got)
    }

    fn pop(&mut self) -> Option<i32> {
        let event = self.events.pop_front()?;
        self.bytes -= event.json.len();
        Some(event.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: At = At::from_secs(86_400);
    const ANY: QueueKey = (1, 0);

    fn queue(n: usize) -> Queue {
        let mut q = Queue::new(1_000_000);
        for _ in 0..n {
            q.push(FAR, ANY, |id| format!("#{id}")).expect("room");
        }
        q
    }

    fn ids(got: &Got) -> Vec<i32> {
        got.events.iter().map(|e| e.id - 1_000_000).collect()
    }

    #[test]
    fn asking_from_an_id_deletes_everything_below_it() {
        let mut q = queue(5);
        let got = q.get(1_000_002, 100, At::ZERO).expect("in range");
        assert_eq!(ids(&got), [2, 3, 4]);
        assert_eq!(got.confirmed, [1_000_000, 1_000_001]);
        assert_eq!(q.head(), 1_000_002);
    }

    #[test]
    fn tail_plus_10_is_taken_at_its_word_and_tail_plus_11_is_not() {
        let mut q = queue(2);
        assert_eq!(q.get(1_000_002 + 11, 100, At::ZERO).unwrap_err(), OutOfRange);
        assert_eq!(q.len(), 2, "an offset far in the future deletes nothing");
        let got = q.get(1_000_002 + 10, 100, At::ZERO).expect("in range");
        assert_eq!(got.confirmed.len(), 2);
        q.push(FAR, ANY, |_| String::new()).expect("room");
        let got = q.get(1_000_002 + 10, 100, At::ZERO).expect("in range");
        assert_eq!((got.confirmed.len(), got.events.len()), (1, 0), "deleted without ever being delivered");
    }

    #[test]
    fn an_id_more_than_100000_below_the_head_is_out_of_range() {
        let mut q = queue(1);
        assert!(q.get(1_000_000 - 100_000, 100, At::ZERO).is_ok());
        assert!(q.get(1_000_000 - 100_001, 100, At::ZERO).is_err());
    }

    #[test]
    fn an_expired_update_is_deleted_and_not_delivered() {
        let mut q = Queue::new(1);
        q.push(At::from_secs(30), ANY, |id| id.to_string()).expect("room");
        q.push(FAR, ANY, |id| id.to_string()).expect("room");
        let got = q.get(1, 100, At::from_secs(31)).expect("in range");
        assert_eq!(got.expired, [1]);
        assert_eq!(got.events.len(), 1);
        assert_eq!(q.len(), 1);
    }

    #[test]
    fn a_full_queue_drops_what_is_new() {
        let mut q = queue(MAX_EVENTS);
        assert_eq!(q.push(FAR, ANY, |_| String::new()), None);
        assert_eq!(q.tail, 1_000_000 + 100_000);
    }

    #[test]
    fn an_update_above_512_kib_is_dropped() {
        let mut q = queue(0);
        assert_eq!(q.push(FAR, ANY, |_| "x".repeat(MAX_EVENT_BYTES + 1)), None);
        assert!(q.push(FAR, ANY, |_| "x".repeat(MAX_EVENT_BYTES)).is_some());
    }
}
