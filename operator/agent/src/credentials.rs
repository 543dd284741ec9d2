//! The two files of Secrets: the bot's token and the lease database's URI.
//!
//! The kubelet does not start a pod whose Secret is missing, but it mounts an empty or mistyped value without a word, and it
//! replaces the mounted file about a minute after somebody mends the Secret. So a file that is not right is waited for, in
//! this process, with its reason in the log and in `/health`: a restart would bring nothing but a back-off that makes the
//! mend take effect later.
//!
//! While the token is awaited the bot is held back (`wait-ready`), because there is no bot to serve. The URI holds back only
//! the first start of a pod: later, a bot that runs is better off as a standby that can send than without its API.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pollux_gate::Token;
use tokio::time::{Instant, interval};
use tracing::{info, warn};

/// How often an awaited file is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How often the log repeats what is awaited.
const REMIND: Duration = Duration::from_mins(1);

/// Something that the agent cannot go on without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The bot's token.
    Token,
    /// The lease database's URI.
    LeaseUri,
}

/// What is awaited at the moment, with the reason; clones are the same list.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    reasons: Arc<Mutex<BTreeMap<Need, String>>>,
}

// === impl Waiting ===

impl Waiting {
    /// Notes that `need` is awaited.
    pub fn begin(&self, need: Need, why: String) {
        self.reasons().insert(need, why);
    }

    /// Notes that `need` is there.
    pub fn end(&self, need: Need) {
        self.reasons().remove(&need);
    }

    /// Why `need` is awaited; nothing when it is there.
    pub fn why(&self, need: Need) -> Option<String> {
        self.reasons().get(&need).cloned()
    }

    /// All reasons.
    pub fn all(&self) -> Vec<String> {
        self.reasons().values().cloned().collect()
    }

    fn reasons(&self) -> std::sync::MutexGuard<'_, BTreeMap<Need, String>> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the token.
///
/// # Errors
/// Why it cannot be used, and how to mend it; never what the file holds.
pub fn read_token(file: &Path) -> Result<Token, String> {
    let text = read(file)?;
    if text.is_empty() {
        return Err(format!(
            "the token file {} is empty: put the token from @BotFather into the Secret",
            file.display()
        ));
    }
    Token::parse(&text).map_err(|e| format!("the token file {}: {e}", file.display()))
}

/// Reads the lease database's URI and says whether it is one.
///
/// # Errors
/// Why it cannot be used, and how to mend it; never what the file holds.
pub fn read_lease_uri(file: &Path) -> Result<(), String> {
    let text = read(file)?;
    if text.is_empty() {
        return Err(format!(
            "the file with the lease database's URI, {}, is empty: put postgresql://USER:PASSWORD@HOST/DATABASE into \
             the Secret, or let the chart make it (botNamespaces)",
            file.display()
        ));
    }
    pollux_lease::Database::parse(&text)
        .map(drop)
        .map_err(|e| format!("the file with the lease database's URI, {}: {e}", file.display()))
}

/// Waits until `read` succeeds.
pub async fn wait_for<T>(need: Need, waiting: &Waiting, read: impl Fn() -> Result<T, String>) -> T {
    let mut look = interval(LOOK);
    let mut said: Option<(String, Instant)> = None;
    loop {
        look.tick().await;
        let why = match read() {
            Ok(found) => {
                waiting.end(need);
                if let Some((why, since)) = said {
                    info!(seconds = since.elapsed().as_secs(), was = %why, "mended, the agent goes on");
                }
                return found;
            }
            Err(why) => why,
        };
        waiting.begin(need, why.clone());
        if said.as_ref().is_none_or(|(old, at)| *old != why || at.elapsed() >= REMIND) {
            warn!(reason = %why, "waiting; nothing needs to be restarted after it is mended");
            said = Some((why, Instant::now()));
        }
    }
}

fn read(file: &Path) -> Result<String, String> {
    match std::fs::read(file) {
        Ok(bytes) => String::from_utf8(bytes)
            .map(|text| text.trim().to_owned())
            .map_err(|_| format!("the file {} is not text: write the value into the Secret as it is", file.display())),
        Err(e) => {
            Err(format!("the file {} cannot be read ({e}): mount the Secret there, with that key", file.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANARY: &str = "cAnArY";

    #[test]
    fn a_reason_never_quotes_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        for content in [format!("12 34:{CANARY}"), format!("{CANARY}:12"), format!("bot12:{CANARY}"), CANARY.to_owned()]
        {
            std::fs::write(&file, &content).unwrap();
            let why = read_token(&file).unwrap_err();
            assert!(!why.contains(CANARY), "{why}");
        }
        let uris =
            [format!("postgres://u:{CANARY}@h/d?sslmode=never"), CANARY.to_owned(), format!("http://u:{CANARY}@h")];
        for content in uris {
            std::fs::write(&file, &content).unwrap();
            let why = read_lease_uri(&file).unwrap_err();
            assert!(!why.contains(CANARY), "{why}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        assert!(read_token(&file).unwrap_err().contains("cannot be read"));
        std::fs::write(&file, " \n").unwrap();
        assert!(read_token(&file).unwrap_err().contains("is empty"));
        std::fs::write(&file, [0xff, 0xfe]).unwrap();
        assert!(read_token(&file).unwrap_err().contains("not text"));
        std::fs::write(&file, "42:abc\n").unwrap();
        assert_eq!(read_token(&file).unwrap().bot_id(), 42);
    }

    #[tokio::test]
    async fn a_secret_that_is_mended_needs_no_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "").unwrap();
        let waiting = Waiting::default();
        let waiter = tokio::spawn({
            let (waiting, file) = (waiting.clone(), file.clone());
            async move { wait_for(Need::Token, &waiting, || read_token(&file)).await.bot_id() }
        });
        while waiting.why(Need::Token).is_none() {
            tokio::task::yield_now().await;
        }
        assert!(waiting.all()[0].contains("is empty"));
        std::fs::write(&file, "42:abc").unwrap();
        assert_eq!(waiter.await.unwrap(), 42);
        assert_eq!(waiting.why(Need::Token), None);
    }
}
