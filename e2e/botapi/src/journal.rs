//! What happened to one bot: every poll, every update's life, every other request. Records only; `verdict` judges.
//!
//! Lanes are named when a record is read: a pod's name may become known after its first poll.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    model::{
        At, Conflict, Delivery, FaultKind, Peer, PollEnd, PollRecord, Removal, Removed, Reply, RequestRecord,
        UpdateRecord,
    },
    server::{GetUpdates, RequestId},
};

/// Who sent a request, before it has a name.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) ip: IpAddr,
    /// The lane of the port that was connected to.
    pub(crate) port_lane: Option<Arc<str>>,
    pub(crate) connection: u64,
}

/// The names of lanes, with the time from which each is valid: an address may serve two pods, one after the other.
#[derive(Debug, Default)]
pub(crate) struct LaneNames(HashMap<IpAddr, Vec<(At, String)>>);

// === impl LaneNames ===

impl LaneNames {
    pub(crate) fn set(&mut self, now: At, ip: IpAddr, name: &str) {
        let names = self.0.entry(ip).or_default();
        if names.last().is_none_or(|(_, last)| last != name) {
            names.push((now, name.to_owned()));
        }
    }

    /// The name that is valid at that time; what was seen before the first name was known belongs to the first one.
    pub(crate) fn name(&self, origin: &Origin, at: At) -> String {
        if let Some(lane) = &origin.port_lane {
            return lane.to_string();
        }
        let Some(names) = self.0.get(&origin.ip) else {
            return origin.ip.to_string();
        };
        let valid = names.iter().rev().find(|(from, _)| *from <= at).or(names.first());
        valid.map_or_else(|| origin.ip.to_string(), |(_, name)| name.clone())
    }

    pub(crate) fn peer(&self, origin: &Origin, at: At) -> Peer {
        Peer { lane: self.name(origin, at), ip: origin.ip.to_string(), connection: origin.connection }
    }
}

/// A poll; the record's `peer` is filled in when it is read.
#[derive(Debug)]
struct Poll {
    origin: Origin,
    record: PollRecord,
}

/// How an update left the queue.
#[derive(Debug)]
struct Left {
    at: At,
    why: Removal,
    by: Option<(RequestId, Origin)>,
}

#[derive(Debug, Default)]
struct Life {
    pushed: At,
    chat: i64,
    deliveries: Vec<(At, RequestId, Origin, bool)>,
    removed: Option<Left>,
    replies: Vec<(At, RequestId, Origin)>,
}

/// Everything that happened to one bot.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    polls: Vec<Poll>,
    poll_of: HashMap<RequestId, usize>,
    first_id: i32,
    next_id: i32,
    /// By id; those between `first_id` and `next_id` that are missing are forgotten.
    updates: BTreeMap<i32, Life>,
    requests: Vec<(Origin, RequestRecord)>,
    request_of: HashMap<RequestId, usize>,
    stray: u64,
    refused: u64,
    dropped: u64,
    /// Updates that are not both removed and answered.
    unsettled: HashSet<i32>,
    /// When an update last moved.
    moved: At,
}

// === impl Journal ===

impl Journal {
    pub(crate) fn new(first_id: i32) -> Self {
        Self { first_id, next_id: first_id, ..Self::default() }
    }

    pub(crate) fn pushed(&mut self, now: At, id: i32, chat: i64) {
        debug_assert_eq!(id, self.next_id, "ids are given in sequence");
        self.next_id = id + 1;
        self.updates.insert(id, Life { pushed: now, chat, ..Life::default() });
        self.unsettled.insert(id);
        self.moved = now;
    }

    /// The bot's allowed_updates, or a full queue, kept an update out.
    pub(crate) fn keep_out(&mut self, no_room: bool) {
        self.refused += 1;
        self.dropped += u64::from(no_room);
    }

    pub(crate) fn poll(&mut self, now: At, request: RequestId, origin: Origin, args: &GetUpdates, open_polls: u32) {
        let record = PollRecord {
            request,
            peer: Peer { lane: String::new(), ip: String::new(), connection: 0 },
            arrived: now,
            ended: None,
            gone: None,
            end: PollEnd::Open,
            evicted_by: None,
            offset: args.offset,
            limit: args.limit.unwrap_or(100),
            timeout: args.timeout,
            delivered: None,
            updates: 0,
            open_polls,
        };
        self.poll_of.insert(request, self.polls.len());
        self.polls.push(Poll { origin, record });
    }

    fn poll_mut(&mut self, request: RequestId) -> Option<&mut PollRecord> {
        let index = *self.poll_of.get(&request)?;
        self.polls.get_mut(index).map(|p| &mut p.record)
    }

    /// The poll lost its slot; its 409 may still be to come.
    pub(crate) fn evicted(&mut self, now: At, request: RequestId, by: RequestId) {
        if let Some(poll) = self.poll_mut(request) {
            poll.ended.get_or_insert(now);
            poll.evicted_by = (by != request).then_some(by);
        }
    }

    pub(crate) fn conflict(&mut self, now: At, request: RequestId, cause: Conflict) {
        if let Some(poll) = self.poll_mut(request) {
            poll.ended.get_or_insert(now);
            poll.end = PollEnd::Conflict { cause };
        }
    }

    pub(crate) fn fault(&mut self, now: At, request: RequestId, kind: FaultKind) {
        if let Some(poll) = self.poll_mut(request) {
            poll.ended.get_or_insert(now);
            poll.end = match kind {
                FaultKind::Status(409) => PollEnd::Conflict { cause: Conflict::Injected },
                kind => PollEnd::Fault { kind },
            };
        }
    }

    /// The sender went away before it was answered. Whatever is answered later is answered to nobody.
    pub(crate) fn gone(&mut self, now: At, request: RequestId) {
        if let Some(poll) = self.poll_mut(request) {
            poll.gone.get_or_insert(now);
        }
    }

    pub(crate) fn delivered(&mut self, now: At, request: RequestId, ids: &[i32]) {
        let Some(index) = self.poll_of.get(&request) else {
            return;
        };
        let Some(Poll { origin, record }) = self.polls.get_mut(*index) else {
            return;
        };
        record.ended = Some(now);
        record.end = PollEnd::Answered;
        record.updates = ids.len();
        record.delivered = ids.first().copied().zip(ids.last().copied());
        let (origin, usable) = (origin.clone(), record.gone.is_none());
        for id in ids {
            if let Some(life) = self.life(*id) {
                life.deliveries.push((now, request, origin.clone(), usable));
                self.moved = now;
            }
        }
    }

    /// A webhook answered, whatever: it has the update.
    pub(crate) fn posted(&mut self, now: At, request: RequestId, origin: &Origin, id: i32) {
        if let Some(life) = self.life(id) {
            life.deliveries.push((now, request, origin.clone(), true));
            self.moved = now;
        }
    }

    pub(crate) fn removed(&mut self, now: At, ids: &[i32], why: Removal, by: Option<(RequestId, Origin)>) {
        for id in ids {
            let Some(life) = self.life(*id) else { continue };
            life.removed = Some(Left { at: now, why, by: by.clone() });
            let answered = !life.replies.is_empty();
            self.moved = now;
            if answered {
                self.unsettled.remove(id);
            }
        }
    }

    /// A message was sent; its text answers the updates that it mentions.
    pub(crate) fn replied(&mut self, now: At, request: RequestId, origin: &Origin, text: &str) {
        for id in mentions(text) {
            if self.was_forgotten(id) {
                self.recall(now, id, request, origin);
            }
            let Some(life) = self.life(id) else {
                self.stray += 1;
                continue;
            };
            life.replies.push((now, request, origin.clone()));
            let removed = life.removed.is_some();
            self.moved = now;
            if removed {
                self.unsettled.remove(&id);
            }
        }
    }

    pub(crate) fn request(&mut self, now: At, request: RequestId, origin: Origin, method: &str) {
        let peer = Peer { lane: String::new(), ip: String::new(), connection: 0 };
        let record = RequestRecord { request, method: method.to_owned(), peer, arrived: now, status: None };
        self.request_of.insert(request, self.requests.len());
        self.requests.push((origin, record));
    }

    pub(crate) fn answered(&mut self, request: RequestId, status: u16) {
        if let Some((_, record)) = self.request_of.get(&request).and_then(|i| self.requests.get_mut(*i)) {
            record.status = Some(status);
        }
    }

    fn life(&mut self, id: i32) -> Option<&mut Life> {
        self.updates.get_mut(&id)
    }

    // === forgetting ===

    /// Forgets what was over before `cut`, except updates that were lost or answered twice; returns how many records.
    pub(crate) fn forget(&mut self, cut: At) -> usize {
        let records = self.polls.len() + self.requests.len() + self.updates.len();
        self.polls.retain(|p| p.record.end == PollEnd::Open || p.record.ended.is_none_or(|at| at >= cut));
        self.poll_of = self.polls.iter().enumerate().map(|(i, p)| (p.record.request, i)).collect();
        self.requests.retain(|(_, r)| r.arrived >= cut);
        self.request_of = self.requests.iter().enumerate().map(|(i, (_, r))| (r.request, i)).collect();
        self.updates.retain(|_, life| !life.over(cut));
        records - (self.polls.len() + self.requests.len() + self.updates.len())
    }

    /// Updates that were answered once, and whose records are gone.
    pub(crate) fn forgotten(&self) -> u64 {
        (self.next_id - self.first_id) as u64 - self.updates.len() as u64
    }

    fn was_forgotten(&self, id: i32) -> bool {
        (self.first_id..self.next_id).contains(&id) && !self.updates.contains_key(&id)
    }

    /// What is known of a forgotten update: it was confirmed, and answered once.
    fn recall(&mut self, now: At, id: i32, request: RequestId, origin: &Origin) {
        let removed = Some(Left { at: now, why: Removal::Confirmed, by: None });
        let replies = vec![(now, request, origin.clone())];
        self.updates.insert(id, Life { pushed: now, removed, replies, ..Life::default() });
    }

    // === reading ===

    pub(crate) fn stray(&self) -> u64 {
        self.stray
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(crate) fn moved(&self) -> At {
        self.moved
    }

    /// Updates that are not both removed and answered.
    pub(crate) fn unsettled(&self) -> usize {
        self.unsettled.len()
    }

    /// Updates that were removed and are not answered.
    pub(crate) fn unanswered(&self) -> u64 {
        let removed = |id: &&i32| self.updates.get(*id).is_some_and(|life| life.removed.is_some());
        self.unsettled.iter().filter(removed).count() as u64
    }

    pub(crate) fn polls(&self, names: &LaneNames) -> Vec<PollRecord> {
        let named = |p: &Poll| PollRecord { peer: names.peer(&p.origin, p.record.arrived), ..p.record.clone() };
        self.polls.iter().map(named).collect()
    }

    pub(crate) fn requests(&self, names: &LaneNames) -> Vec<RequestRecord> {
        let named = |(origin, record): &(Origin, RequestRecord)| RequestRecord {
            peer: names.peer(origin, record.arrived),
            ..record.clone()
        };
        self.requests.iter().map(named).collect()
    }

    pub(crate) fn updates(&self, names: &LaneNames) -> Vec<UpdateRecord> {
        self.updates.iter().map(|(id, life)| life.named(*id, names)).collect()
    }
}

// === impl Life ===

impl Life {
    /// Confirmed and answered once, before that time.
    fn over(&self, cut: At) -> bool {
        let left = self.removed.as_ref().is_some_and(|left| left.at < cut);
        left && matches!(&self.replies[..], [(at, ..)] if *at < cut)
    }

    fn named(&self, id: i32, names: &LaneNames) -> UpdateRecord {
        let deliveries = self.deliveries.iter().map(|(at, request, origin, usable)| Delivery {
            at: *at,
            request: *request,
            peer: names.peer(origin, *at),
            usable: *usable,
        });
        let replies = self.replies.iter().map(|(at, request, origin)| Reply {
            at: *at,
            request: *request,
            peer: names.peer(origin, *at),
        });
        let removed = self.removed.as_ref().map(|left| Removed {
            at: left.at,
            why: left.why,
            request: left.by.as_ref().map(|(request, _)| *request),
            lane: left.by.as_ref().map(|(_, origin)| names.name(origin, left.at)),
        });
        UpdateRecord {
            id,
            pushed: self.pushed,
            chat: self.chat,
            deliveries: deliveries.collect(),
            removed,
            replies: replies.collect(),
        }
    }
}

/// The ids that a text mentions as `#<update_id>`, each once.
fn mentions(text: &str) -> Vec<i32> {
    let mut ids = Vec::new();
    for part in text.split('#').skip(1) {
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        if let Ok(id) = part[..end].parse()
            && !ids.contains(&id)
        {
            ids.push(id);
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_mentions_each_id_once() {
        assert_eq!(mentions("echo: #12, #13 #12 and #x # 7 #99999999999"), [12, 13]);
        assert!(mentions("12").is_empty());
    }

    #[test]
    fn an_address_that_served_two_pods_keeps_both_names() {
        let ip = IpAddr::from([10, 0, 0, 7]);
        let origin = Origin { ip, port_lane: None, connection: 1 };
        let mut names = LaneNames::default();
        assert_eq!(names.name(&origin, At::ZERO), "10.0.0.7");
        names.set(At::from_secs(10), ip, "a");
        names.set(At::from_secs(20), ip, "b");
        let at = |s| names.name(&origin, At::from_secs(s));
        assert_eq!([at(5), at(10), at(19), at(20)], ["a", "a", "a", "b"]);
    }
}
