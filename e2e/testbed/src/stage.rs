//! What a person sees while something takes its time.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Runs a stage: says what it is and how long it should take before, and how long it took after.
pub(crate) fn stage<T>(
    quiet: bool,
    name: &str,
    expected: Duration,
    log: Option<&Path>,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let begin = Instant::now();
    if !quiet && expected > Duration::from_secs(8) {
        let log = log.map(|log| format!("; log: {}", log.display())).unwrap_or_default();
        eprintln!("   {name} … (about {}{log})", human(expected));
    }
    let result = work();
    if !quiet {
        let how = if result.is_ok() { "" } else { "FAILED after " };
        eprintln!("   {name}: {how}{} (expected {})", human(begin.elapsed()), human(expected));
    }
    result
}

/// `4.2 s`, `3 min 20 s`.
pub(crate) fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {} s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(human(Duration::from_millis(4230)), "4.2 s");
        assert_eq!(human(Duration::from_secs(200)), "3 min 20 s");
    }
}
