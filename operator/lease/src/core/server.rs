//! The server's side, for the model and the simulation: says in Rust what the statements say in SQL.
//! `against_sql` holds the two against each other.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::identity::Replica;
use crate::view::HandOver;

/// A successor's beat must be younger than this.
const FRESH: Duration = Duration::from_millis(300);
/// A candidate that has beaten within this time is probably alive.
const ALIVE: Duration = Duration::from_secs(3);

/// What is in the tables, as far as the protocol is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Server {
    pub(super) row: Row,
    /// The incarnation that the row was written in.
    pub(super) written_in: u32,
    pub(super) candidates: BTreeMap<String, Known>,
    pub(super) setting: Option<Settings>,
}

/// What is not in the tables: the server itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Moment {
    pub(super) now: Duration,
    pub(super) incarnation: u32,
    pub(super) without: Option<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Known {
    pub(super) beat: i64,
    pub(super) at: Duration,
    pub(super) ready: bool,
    pub(super) leaving: bool,
    pub(super) locked: bool,
    pub(super) replica: Replica,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asker {
    pub(super) id: String,
    pub(super) replica: Replica,
}

// === impl Moment ===

impl Moment {
    fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }
}

// === impl Server ===

impl Server {
    /// Carries out a statement, and says whether somebody is to be woken.
    pub(super) fn carry_out(&mut self, at: Moment, who: &Asker, statement: &Statement) -> (Answer, bool) {
        let row = self.row.clone();
        let mine = row.holder.as_deref() == Some(who.id.as_str());
        let known = !at.keeps(Rule::IncarnationIsCompared) || statement.known.incarnation == at.incarnation.to_string();
        let seen = statement.known.epoch;
        let expected = self.row.handover_expected;
        let done = match &statement.call {
            Call::Look | Call::Gap { .. } | Call::Rotate => true,
            Call::Beat(sign) => self.note(at, who, sign),
            Call::Renew { epoch, renew_seq, ttl, session, sign } => {
                let same = row.renew_seq == *renew_seq || !at.keeps(Rule::RenewComparesNumber);
                let ok = known && mine && row.epoch == *epoch && same && !row.release;
                if ok {
                    self.row.renew_seq += 1;
                    self.row.ttl_ms = millis(*ttl);
                    self.row.grant_beat = None;
                    self.row.session = *session;
                    self.written_in = at.incarnation;
                }
                self.note(at, who, sign);
                ok
            }
            Call::Acquire { epoch, ttl } => {
                let ok = known && row.holder.is_none() && row.epoch == *epoch && self.may_lead(at, &who.id);
                ok && self.grant(at, &who.id, *ttl, None, seen)
            }
            Call::Takeover { epoch, renew_seq, evidence, ttl, vacate } => {
                let same = row.renew_seq == *renew_seq || !at.keeps(Rule::TakeoverComparesNumber);
                let known = known && self.candidates.contains_key(&who.id);
                let same = known && row.holder.is_some() && row.epoch == *epoch && same;
                let locked = self.candidates.get(&who.id).is_some_and(|known| known.locked);
                let pod = row.locked && locked && row.replica.pod_uid == who.replica.pod_uid;
                let pod = mine || pod || !at.keeps(Rule::ThePodsLock);
                let proof = match evidence {
                    Evidence::Ttl => !vacate,
                    Evidence::Session => !vacate && row.session.is_some(),
                    Evidence::Pod => pod,
                    Evidence::Free | Evidence::Handover => false,
                };
                match (same && proof && (*vacate || self.may_lead(at, &who.id)), vacate) {
                    (true, true) => self.let_go(),
                    (true, false) => {
                        let granted = self.grant(at, &who.id, *ttl, None, seen);
                        if !at.keeps(Rule::EpochRises) && *evidence == Evidence::Pod {
                            self.row.epoch = row.epoch;
                        }
                        granted
                    }
                    (false, _) => false,
                }
            }
            Call::Expect { epoch, expected } => {
                if mine && row.epoch == *epoch {
                    self.row.handover_expected = *expected;
                }
                true
            }
            Call::Handover { epoch, ttl, otherwise, order } => {
                let known = known && self.candidates.contains_key(&who.id);
                known && mine && row.epoch == *epoch && self.handover(at, who, (*ttl, *otherwise), order, seen)
            }
            Call::Depart => {
                self.candidates.remove(&who.id);
                true
            }
        };
        let woken = self.row.holder != row.holder || self.row.handover_expected != expected;
        let granted = mine && row.grant_beat.is_some() && !row.handover_expected;
        let brief = match statement.call {
            Call::Look => granted,
            Call::Handover { .. } => done && self.row.holder.is_some(),
            _ => false,
        };
        let around = (!brief).then(|| self.around(at, &who.id));
        (Answer { around, ..self.answer(at, done) }, woken)
    }

    fn note(&mut self, at: Moment, who: &Asker, sign: &Sign) -> bool {
        let old = self.candidates.get(&who.id).map_or(0, |known| known.beat);
        if sign.beat > old {
            let Sign { beat, ready, leaving, locked, .. } = *sign;
            let known = Known { beat, at: at.now, ready, leaving, locked, replica: who.replica.clone() };
            self.candidates.insert(who.id.clone(), known);
        }
        true
    }

    fn eligible(&self, at: Moment, known: &Known) -> bool {
        let list = self.setting.as_ref().and_then(|setting| setting.eligible.as_ref());
        list.is_none_or(|list| list.contains(&known.replica.revision)) || !at.keeps(Rule::EligibleOnly)
    }

    fn may_lead(&self, at: Moment, id: &str) -> bool {
        self.candidates.get(id).is_some_and(|known| known.ready && !known.leaving && self.eligible(at, known))
    }

    /// The epoch after this one; above all that anybody may have seen, also if this row has forgotten some: it goes on from
    /// the time then.
    fn next_epoch(&self, at: Moment, seen: i64) -> i64 {
        let next = self.row.epoch + 1;
        match at.keeps(Rule::EpochAboveTheForgotten) {
            true if self.settled(at) && seen < next => next,
            true => next.max(seen + 1).max(i64::from(millis(at.now))),
            false => next,
        }
    }

    fn settled(&self, at: Moment) -> bool {
        self.written_in == at.incarnation
    }

    fn grant(&mut self, at: Moment, to: &str, ttl: Duration, beat: Option<i64>, seen: i64) -> bool {
        let epoch = self.next_epoch(at, seen);
        let taker = &self.candidates[to];
        self.row = Row {
            epoch,
            renew_seq: self.row.renew_seq + 1,
            settled: false,
            ttl_ms: millis(ttl),
            holder: Some(to.to_owned()),
            locked: taker.locked,
            grant_beat: beat,
            handover_expected: false,
            release: false,
            session: None,
            replica: taker.replica.clone(),
        };
        self.written_in = at.incarnation;
        true
    }

    /// Does not settle the row: what was forgotten may have begun a later epoch than this one.
    fn let_go(&mut self) -> bool {
        self.row.holder = None;
        self.row.locked = false;
        self.row.grant_beat = None;
        self.row.session = None;
        self.row.renew_seq += 1;
        self.row.handover_expected = false;
        self.row.release = false;
        true
    }

    fn successor(&self, at: Moment, of: &str, only: Option<&str>, youth: Duration) -> Option<(String, &Known)> {
        let of_node = self.candidates.get(of).map(|known| known.replica.node.clone());
        let place = |known: &Known| {
            let list = self.setting.as_ref().and_then(|setting| setting.eligible.as_ref());
            list.map_or(0, |list| {
                list.iter().position(|revision| *revision == known.replica.revision).unwrap_or(list.len())
            })
        };
        let found = self.candidates.iter().filter(|(id, known)| {
            id.as_str() != of
                && known.ready
                && !known.leaving
                && self.eligible(at, known)
                && at.now.saturating_sub(known.at) < youth
                && only.is_none_or(|pod| known.replica.pod == pod)
        });
        let best = found
            .min_by_key(|(id, known)| (place(known), Some(&known.replica.node) == of_node.as_ref(), (*id).clone()));
        best.map(|(id, known)| (id.clone(), known))
    }

    fn handover(
        &mut self,
        at: Moment,
        who: &Asker,
        (ttl, otherwise): (Duration, Otherwise),
        order: &HandOver,
        seen: i64,
    ) -> bool {
        let only = order.to_pod.as_deref();
        let best = self.successor(at, &who.id, only, ALIVE).map(|(_, known)| known.replica.revision.clone());
        let to = self.successor(at, &who.id, only, FRESH);
        let to = to.map(|(id, known)| (id, known.beat, known.replica.revision.clone()));
        if let Some((id, beat, revision)) = to
            && (otherwise != Otherwise::Wait || best.as_ref() == Some(&revision))
        {
            return self.grant(at, &id, ttl, Some(beat), seen);
        }
        if otherwise == Otherwise::Release || otherwise == Otherwise::Wait && best.is_none() {
            return self.let_go();
        }
        self.row.handover_expected |= otherwise == Otherwise::Wait;
        false
    }

    fn answer(&self, at: Moment, done: bool) -> Answer {
        Answer {
            done,
            incarnation: at.incarnation.to_string(),
            lease: Some(Row { settled: self.settled(at), ..self.row.clone() }),
            around: None,
        }
    }

    fn around(&self, at: Moment, id: &str) -> Around {
        if !self.candidates.contains_key(id) {
            return Around::default();
        }
        let heir = |youth| self.successor(at, id, None, youth).map(|(_, known)| known.replica.pod.clone());
        let heir = match heir(FRESH) {
            Some(pod) => Some(Heir { pod, fresh: true }),
            None => heir(ALIVE).map(|pod| Heir { pod, fresh: false }),
        };
        Around { registered: true, setting: self.setting.clone(), request: None, heir }
    }

    /// Somebody asks that the holder lets go.
    pub(super) const fn force_release(&mut self) {
        self.row.release = self.row.holder.is_some();
    }

    /// The resource's hot settings.
    pub(super) fn set(&mut self, ttl: Duration, eligible: Option<&[&str]>, fast: bool) {
        let eligible = eligible.map(|list| list.iter().map(|&name| name.to_owned()).collect());
        let failover = if fast { "Fast" } else { "Ttl" };
        let json = json!({"leaseDurationSeconds": ttl.as_secs_f64(), "failover": failover});
        self.setting = Some(Settings { generation: 1, eligible, json });
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap()
}
