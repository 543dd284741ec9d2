//! Waiting for conditions. Nothing here sleeps for a fixed time: every wait asks again until the answer is yes or its
//! deadline is over, and then says what it last saw.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// How long between two looks.
const PACE: Duration = Duration::from_millis(200);

/// What one look found.
pub(crate) enum Look<T> {
    /// The condition holds.
    Yes(T),
    /// It does not yet, because of this.
    NotYet(String),
}

/// Looks until the condition holds, for at most `limit`.
///
/// # Errors
///
/// When it does not hold in time: `what` was waited for and what was seen last. An error of the look itself counts as "not yet":
/// an API server that restarts, or a pod that is being replaced, must not end a scenario.
pub(crate) async fn until<T, F, Fut>(what: &str, limit: Duration, mut look: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Look<T>>>,
{
    let end = Instant::now() + limit;
    loop {
        let seen = match look().await {
            Ok(Look::Yes(found)) => return Ok(found),
            Ok(Look::NotYet(seen)) => seen,
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= end {
            bail!("waited {} s for {what}; last seen: {seen}", limit.as_secs());
        }
        sleep(PACE).await;
    }
}
