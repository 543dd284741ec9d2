//! The oracle of this package's tests; what it looks for and how is in `pollux_lease_soak::oracle`.

use std::path::Path;
use std::time::Duration;

use pollux_lease::BootInstant;
use pollux_lease_soak::oracle::{Verdict, judge};

/// Judges until as much has been written down as must have happened: the epochs, and in how many pieces they were led.
pub async fn verdict(dir: &Path, epochs: &[i64], pieces: usize) -> Verdict {
    let deadline = BootInstant::now() + super::PATIENCE;
    loop {
        let verdict = judge(dir).unwrap_or_else(|violation| panic!("{violation}"));
        if verdict.epochs == epochs && verdict.beliefs.len() == pieces {
            return verdict;
        }
        assert!(BootInstant::now() < deadline, "not {epochs:?} in {pieces} pieces: {verdict:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
