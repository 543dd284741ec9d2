//! What became of the leaders, by disturbance and mode.

use std::collections::BTreeMap;
use std::time::Duration;

use pollux_lease_soak::failover::Failover;
use pollux_lease_soak::oracle::Lapse;
use serde_json::{Map, Value, json};

use super::disturbance::{Disturbance, Expected};

/// All cells.
#[derive(Debug, Default)]
pub(crate) struct Table {
    cells: BTreeMap<(Disturbance, Failover), Cell>,
    /// Disturbances that this machine cannot do, and why.
    lacks: BTreeMap<Disturbance, String>,
}

/// What one disturbance did in one mode, all rounds together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) rounds: u32,
    /// Leaders that saw it, each round's.
    pub(crate) leaders: usize,
    /// Of these, how many were replaced: the false alarms.
    pub(crate) deposed: usize,
    /// What allowed somebody else to lead.
    evidence: BTreeMap<String, usize>,
    /// Leaders that could not act for a while, and went on under the same epoch.
    pub(crate) silent: usize,
    /// The longest of those times.
    longest: Duration,
}

/// What became of one leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Somebody else leads, allowed by this.
    Deposed(Vec<String>),
    /// It leads. These were its lapses; mostly there were none.
    Kept(Vec<Lapse>),
}

// === impl Table ===

impl Table {
    pub(crate) fn lacks(&mut self, disturbance: Disturbance, why: &str) {
        self.lacks.insert(disturbance, why.to_owned());
    }

    pub(crate) fn add(&mut self, disturbance: Disturbance, round: &BTreeMap<Failover, Cell>) {
        for (failover, cell) in round {
            self.cells.entry((disturbance, *failover)).or_default().merge(cell);
        }
    }

    /// The goals that were missed: leaders that were deposed where nobody may be, and cells without enough rounds.
    pub(crate) fn missed(&self, wanted: &[Disturbance], rounds: u32) -> Vec<String> {
        let mut missed = Vec::new();
        for (disturbance, failover) in wanted.iter().flat_map(|d| Failover::ALL.map(|f| (*d, f))) {
            let name = format!("{} in {}", disturbance.word(), failover.word());
            match self.cells.get(&(disturbance, failover)) {
                Some(cell) if cell.rounds >= rounds => {
                    let expected = disturbance.expected(failover);
                    if expected == Expected::NobodyDeposed && cell.deposed > 0
                        || expected == Expected::EverybodyDeposed && cell.deposed < cell.leaders
                    {
                        missed.push(format!("{name}: {} of {} leaders deposed", cell.deposed, cell.leaders));
                    }
                }
                cell if !self.lacks.contains_key(&disturbance) => {
                    missed.push(format!("{name}: {} rounds of {rounds}", cell.map_or(0, |cell| cell.rounds)));
                }
                _ => {}
            }
        }
        missed
    }

    /// For people.
    pub(crate) fn text(&self, wanted: &[Disturbance]) -> String {
        let mut text = format!("{:<14}", "deposed");
        Failover::ALL.iter().for_each(|failover| text.push_str(&format!(" {:<40}", failover.word())));
        for disturbance in wanted {
            text.push_str(&format!("\n{:<14}", disturbance.word()));
            if let Some(why) = self.lacks.get(disturbance) {
                text.push_str(&format!(" not measured: {why}"));
                continue;
            }
            for failover in Failover::ALL {
                let cell = self.cells.get(&(*disturbance, failover)).cloned().unwrap_or_default();
                let remark = match disturbance.expected(failover) {
                    Expected::NobodyDeposed => "",
                    Expected::EverybodyDeposed => " (as it must be)",
                    Expected::Anything => " (not judged)",
                };
                text.push_str(&format!(" {:<40}", format!("{}{remark}", cell.text())));
            }
        }
        text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn json(&self) -> Value {
        let mut all = Map::new();
        for ((disturbance, failover), cell) in &self.cells {
            let row = all.entry(disturbance.word()).or_insert_with(|| json!({}));
            row[failover.word()] = cell.json(disturbance.expected(*failover));
        }
        for (disturbance, why) in &self.lacks {
            all.insert(disturbance.word(), json!({"not_measured": why}));
        }
        Value::Object(all)
    }
}

// === impl Cell ===

impl Cell {
    /// One more leader in this round.
    pub(crate) fn count(&mut self, fate: Fate) {
        self.rounds = 1;
        self.leaders += 1;
        match fate {
            Fate::Deposed(evidence) => {
                self.deposed += 1;
                evidence.into_iter().for_each(|word| *self.evidence.entry(word).or_default() += 1);
            }
            Fate::Kept(lapses) => {
                self.silent += usize::from(!lapses.is_empty());
                self.longest = lapses.iter().map(Lapse::length).max().unwrap_or_default().max(self.longest);
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.leaders += other.leaders;
        self.deposed += other.deposed;
        self.silent += other.silent;
        self.longest = self.longest.max(other.longest);
        other.evidence.iter().for_each(|(word, count)| *self.evidence.entry(word.clone()).or_default() += count);
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!("{} of {}", self.deposed, self.leaders);
        if self.silent > 0 {
            text.push_str(&format!(", {} silent ≤ {} ms", self.silent, self.longest.as_millis()));
        }
        text
    }

    fn json(&self, expected: Expected) -> Value {
        let longest = u64::try_from(self.longest.as_millis()).unwrap_or(u64::MAX);
        json!({
            "rounds": self.rounds, "leaders": self.leaders, "deposed": self.deposed, "evidence": self.evidence,
            "silent": self.silent, "longest_silence_ms": longest, "judged": expected != Expected::Anything,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(fates: Vec<Fate>) -> BTreeMap<Failover, Cell> {
        let mut cell = Cell::default();
        fates.into_iter().for_each(|fate| cell.count(fate));
        Failover::ALL.map(|failover| (failover, cell.clone())).into()
    }

    fn lapse(ms: u64) -> Lapse {
        Lapse { epoch: 1, from: Duration::from_secs(1), to: Duration::from_secs(1) + Duration::from_millis(ms) }
    }

    #[test]
    fn a_leader_that_was_silent_and_came_back_is_no_false_alarm() {
        let mut table = Table::default();
        let kept = vec![Fate::Kept(vec![lapse(70), lapse(20)]), Fate::Kept(Vec::new())];
        table.add(Disturbance::Stall1s, &round(kept));
        assert!(table.missed(&[Disturbance::Stall1s], 1).is_empty());
        let cell = &table.json()["stall1s"]["fast"];
        assert_eq!((&cell["leaders"], &cell["silent"], &cell["deposed"]), (&2.into(), &1.into(), &0.into()));
        assert_eq!(cell["longest_silence_ms"], 70);
    }

    #[test]
    fn a_deposed_leader_is_a_missed_goal_only_where_nobody_may_be_deposed() {
        let mut table = Table::default();
        let deposed = round(vec![Fate::Deposed(vec!["session".into()]), Fate::Kept(Vec::new())]);
        table.add(Disturbance::Stall5s, &deposed);
        let missed = table.missed(&[Disturbance::Stall5s], 1);
        assert_eq!(missed, ["stall5s in ttl: 1 of 2 leaders deposed"]);
        table.add(Disturbance::Stall2s, &deposed);
        assert_eq!(table.missed(&[Disturbance::Stall2s], 1).len(), 2);
        assert_eq!(table.json()["stall2s"]["fast"]["evidence"]["session"], 1);
    }

    #[test]
    fn a_count_that_sees_nobody_deposed_where_leaders_stood_still_is_missed() {
        let mut table = Table::default();
        table.add(Disturbance::Frozen, &round(vec![Fate::Kept(vec![lapse(4_000)])]));
        let missed = table.missed(&[Disturbance::Frozen], 1);
        assert_eq!(missed, ["frozen in fast: 0 of 1 leaders deposed", "frozen in fast300: 0 of 1 leaders deposed"]);
    }

    #[test]
    fn a_disturbance_that_did_not_happen_often_enough_is_missed_unless_it_cannot() {
        let mut table = Table::default();
        table.add(Disturbance::Busy, &round(vec![Fate::Kept(Vec::new())]));
        assert_eq!(table.missed(&[Disturbance::Busy, Disturbance::Starved], 2).len(), 6);
        table.lacks(Disturbance::Starved, "no cgroups");
        assert_eq!(table.missed(&[Disturbance::Busy, Disturbance::Starved], 1), [""; 0]);
        assert_eq!(table.json()["starved"]["not_measured"], "no cgroups");
    }
}
