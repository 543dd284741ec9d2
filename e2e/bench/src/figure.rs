//! What was measured, as numbers.

use std::time::Duration;

use serde_json::{Value, json};

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sample {
    /// It took this long.
    Took(Duration),
    /// It had not happened after this long, and nothing says that it ever would.
    Never(Duration),
}

/// Samples of one thing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figure(Vec<Sample>);

// === impl Figure ===

impl Figure {
    pub(crate) fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The smallest sample that at least this share of them does not exceed; nothing where that one never ended.
    pub(crate) fn percentile(&self, percent: usize) -> Option<Duration> {
        let mut sorted = self.0.clone();
        sorted.sort();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        match sorted.get(rank - 1)? {
            Sample::Took(took) => Some(*took),
            Sample::Never(_) => None,
        }
    }

    fn never(&self) -> Option<(usize, Duration)> {
        let waited = self.0.iter().filter_map(|sample| match sample {
            Sample::Never(waited) => Some(*waited),
            Sample::Took(_) => None,
        });
        let (count, least) = (waited.clone().count(), waited.min());
        least.map(|least| (count, least))
    }

    /// Milliseconds with one decimal; `never` counts those that did not end within `waited`.
    pub(crate) fn json(&self) -> Value {
        let mut value = json!({
            "p50": self.percentile(50).map(millis),
            "p99": self.percentile(99).map(millis),
            "max": self.percentile(100).map(millis),
            "n": self.0.len(),
        });
        if let Some((count, waited)) = self.never() {
            value["never"] = json!(count);
            value["waited"] = json!(millis(waited));
        }
        value
    }
}

/// Milliseconds with one decimal.
pub(crate) fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(millis: impl IntoIterator<Item = u64>) -> Figure {
        Figure(millis.into_iter().map(|ms| Sample::Took(Duration::from_millis(ms))).collect())
    }

    #[test]
    fn a_percentile_is_a_sample_and_not_an_average() {
        let hundred = figure((1..=100).rev());
        assert_eq!(hundred.percentile(50), Some(Duration::from_millis(50)));
        assert_eq!(hundred.percentile(99), Some(Duration::from_millis(99)));
        assert_eq!(hundred.percentile(100), Some(Duration::from_millis(100)));
        assert_eq!(figure([7]).percentile(50), Some(Duration::from_millis(7)));
        assert_eq!(figure([1, 2]).percentile(99), Some(Duration::from_millis(2)));
        assert_eq!(figure([]).percentile(50), None);
    }

    #[test]
    fn what_never_ended_is_longer_than_everything_that_did() {
        let mut some = figure([9_999, 1, 2]);
        some.push(Sample::Never(Duration::from_secs(3)));
        assert_eq!(some.percentile(50), Some(Duration::from_millis(2)));
        assert_eq!(some.percentile(99), None, "not the 9,999 ms of another one");
        let expected = json!({"p50": 2.0, "p99": null, "max": null, "n": 4, "never": 1, "waited": 3000.0});
        assert_eq!(some.json(), expected);
    }
}
