//! The figures of a run: a table for people, one JSON object for everything else.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::figure::{Figure, millis};
use crate::rows::Row;

/// What was measured so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Vec<(Key, Figure)>,
    values: Map<String, Value>,
    other_values: Vec<(Key, Value)>,
    not_measured: Map<String, Value>,
    needless: usize,
}

/// Where a figure belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// Under `others`, or at the top.
    other: Option<&'static str>,
    name: &'static str,
}

/// A limit that the project has set itself.
struct Goal {
    key: &'static str,
    percentile: usize,
    limit: Limit,
}

enum Limit {
    Within(Duration),
    /// So many tenths of the floor's median.
    Floors(u32),
}

const GOALS: [Goal; 11] = [
    Goal::floors("handover_ms", 50, 15),
    Goal::floors("handover_ms", 99, 40),
    Goal::within("kill_ttl_ms", 50, 10_000),
    Goal::within("kill_ttl_ms", 100, 11_500),
    Goal::within("kill_ttl3_ms", 100, 4_500),
    Goal::within("kill_fast_ms", 99, 1_300),
    Goal::within("hole_fast_ms", 50, 4_200),
    Goal::within("hole_fast_ms", 99, 4_400),
    Goal::within("kill_fast300_ms", 99, 500),
    Goal::within("kill_pooler_ms", 100, 11_500),
    Goal::within("stop_ttl_ms", 100, 11_500),
];

// === impl Report ===

impl Report {
    /// Adds samples to what is known of a figure, and says so.
    pub(crate) fn add(&mut self, key: Key, figure: Figure) {
        if figure.is_empty() {
            return;
        }
        let index = self.figures.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
            self.figures.push((key, Figure::default()));
            self.figures.len() - 1
        });
        let (_, known) = &mut self.figures[index];
        known.extend(figure);
        eprintln!("{}", line(key, known));
    }

    /// A figure that is no duration.
    pub(crate) fn put(&mut self, key: Key, value: Value) {
        eprintln!("{:34} {value}", key.shown());
        match key.other {
            None => drop(self.values.insert(key.name.to_owned(), value)),
            Some(_) => self.other_values.push((key, value)),
        }
    }

    /// A row that could not be measured, and why.
    pub(crate) fn lacks(&mut self, row: &str, why: &str) {
        eprintln!("{row:34} not measured: {why}");
        self.not_measured.insert(row.to_owned(), json!(why));
    }

    /// Leaders that changed though nothing had happened to them.
    pub(crate) fn needless(&mut self, count: usize) {
        self.needless += count;
    }

    fn figure(&self, name: &str) -> Option<&Figure> {
        let found = self.figures.iter().find(|(key, _)| key.other.is_none() && key.name == name);
        found.map(|(_, figure)| figure)
    }

    /// The whole table, with the goals beside what was reached.
    pub(crate) fn table(&self) -> String {
        let mut table = String::new();
        for (key, figure) in &self.figures {
            table.push_str(&line(*key, figure));
            for goal in GOALS.iter().filter(|goal| key.other.is_none() && goal.key == key.name) {
                let Some(limit) = self.limit(goal) else { continue };
                let met = figure.percentile(goal.percentile).is_some_and(|reached| reached <= limit);
                let (name, word) = (goal.percentile_name(), if met { "met" } else { "MISSED" });
                table.push_str(&format!("  {name} <= {} ms {word}", millis(limit)));
            }
            table.push('\n');
        }
        table
    }

    fn limit(&self, goal: &Goal) -> Option<Duration> {
        match goal.limit {
            Limit::Within(limit) => Some(limit),
            Limit::Floors(tenths) => self.figure("floor_ms")?.percentile(50).map(|floor| floor * tenths / 10),
        }
    }

    /// Everything, with what else is to be known of the run.
    pub(crate) fn json(&self, run: Map<String, Value>) -> Value {
        let mut all = Map::new();
        let mut others: Map<String, Value> = Map::new();
        let values = self.other_values.iter().map(|(key, value)| (*key, value.clone()));
        for (key, value) in self.figures.iter().map(|(key, figure)| (*key, figure.json())).chain(values) {
            let place = match key.other {
                None => Some(&mut all),
                Some(other) => others.entry(other).or_insert_with(|| json!({})).as_object_mut(),
            };
            place.into_iter().for_each(|place| drop(place.insert(key.name.to_owned(), value.clone())));
        }
        all.extend(self.values.clone());
        all.insert("others".to_owned(), Value::Object(others));
        all.insert("needless_changes".to_owned(), json!(self.needless));
        all.insert("not_measured".to_owned(), Value::Object(self.not_measured.clone()));
        all.insert("run".to_owned(), Value::Object(run));
        Value::Object(all)
    }
}

// === impl Key ===

impl Key {
    /// A figure of ours, or of somebody else's by the same row.
    pub(crate) const fn of(row: Row, name: &'static str) -> Self {
        Self { other: row.other(), name }
    }

    pub(crate) const fn own(name: &'static str) -> Self {
        Self { other: None, name }
    }

    fn shown(self) -> String {
        self.other.map_or_else(|| self.name.to_owned(), |other| format!("{other}.{}", self.name))
    }
}

// === impl Goal ===

impl Goal {
    const fn within(key: &'static str, percentile: usize, millis: u64) -> Self {
        Self { key, percentile, limit: Limit::Within(Duration::from_millis(millis)) }
    }

    const fn floors(key: &'static str, percentile: usize, tenths: u32) -> Self {
        Self { key, percentile, limit: Limit::Floors(tenths) }
    }

    fn percentile_name(&self) -> String {
        if self.percentile == 100 { "max".to_owned() } else { format!("p{}", self.percentile) }
    }
}

fn line(key: Key, figure: &Figure) -> String {
    let value = figure.json();
    let shown = |name: &str| value[name].as_f64().map_or_else(|| "never".to_owned(), |ms| format!("{ms:.1}"));
    format!(
        "{:34} p50 {:>9}  p99 {:>9}  max {:>9} ms  n {:<4}",
        key.shown(),
        shown("p50"),
        shown("p99"),
        shown("max"),
        value["n"].as_u64().unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Sample;

    fn took(millis: u64) -> Figure {
        let mut figure = Figure::default();
        figure.push(Sample::Took(Duration::from_millis(millis)));
        figure
    }

    #[test]
    fn samples_of_two_lanes_are_one_figure_and_others_are_apart_from_ours() {
        let mut report = Report::default();
        report.add(Key::of(Row::KillTtl, "kill_ttl_ms"), took(9_000));
        report.add(Key::of(Row::River, "kill_ms"), took(15_000));
        report.add(Key::of(Row::KillTtl, "kill_ttl_ms"), took(11_000));
        report.put(Key::own("changes_on_restart"), json!(0));
        report.put(Key::of(Row::River, "changes_on_restart"), json!(1));
        let json = report.json(Map::new());
        assert_eq!(json["kill_ttl_ms"], json!({"p50": 9000.0, "p99": 11000.0, "max": 11000.0, "n": 2}));
        assert_eq!(json["others"]["river"]["kill_ms"]["n"], 1);
        assert_eq!(json["others"]["river"]["changes_on_restart"], 1);
        assert_eq!(json["changes_on_restart"], 0);
        assert_eq!(json.get("kill_ms"), None);
    }

    #[test]
    fn a_goal_that_was_missed_is_said_to_be() {
        let mut report = Report::default();
        report.add(Key::own("floor_ms"), took(4));
        report.add(Key::own("handover_ms"), took(7));
        report.add(Key::own("kill_ttl_ms"), took(11_400));
        let table = report.table();
        assert!(table.contains("p50 <= 6 ms MISSED") && table.contains("p99 <= 16 ms met"), "{table}");
        assert!(table.contains("p50 <= 10000 ms MISSED") && table.contains("max <= 11500 ms met"), "{table}");
    }

    #[test]
    fn a_goal_without_a_figure_to_compare_with_is_not_claimed() {
        let mut report = Report::default();
        report.add(Key::own("handover_ms"), took(7));
        assert!(!report.table().contains("met"), "there is no floor");
    }
}
