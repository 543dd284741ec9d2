//! A contender as the bench sees it: a process that says when it leads, and that can be told, frozen and killed.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pollux_clock::BootInstant;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

/// How long a contender may take to say what it must, on a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A contender's process; it dies with this value, and with the bench.
#[derive(Debug)]
pub(crate) struct Contender {
    name: String,
    child: Child,
    input: ChildStdin,
    said: UnboundedReceiver<Said>,
    log: PathBuf,
}

/// What a contender said; the words are those of [`crate::contend`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Follows,
    Leads(BootInstant),
    Stands(BootInstant),
    Gives(BootInstant),
    Frees(BootInstant),
}

// === impl Contender ===

impl Contender {
    /// Starts one; what it writes to its standard error goes to `log`.
    pub(crate) fn start(name: String, words: &[String], log: PathBuf) -> Result<Self> {
        let errors = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).args(words).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let input = child.stdin.take().context("it has an input")?;
        let output = child.stdout.take().context("it has an output")?;
        let (tx, said) = unbounded_channel();
        tokio::spawn(listen(output, tx));
        Ok(Self { name, child, input, said, log })
    }

    /// Tells it something.
    pub(crate) async fn tell(&mut self, word: &str) -> Result<()> {
        self.input.write_all(format!("{word}\n").as_bytes()).await.with_context(|| format!("{} is gone", self.name))
    }

    /// Waits for what is wanted; other things that are said are passed over. Nothing, if it was not said within `limit`.
    pub(crate) async fn hear<T>(&mut self, limit: Duration, wanted: impl Fn(Said) -> Option<T>) -> Result<Option<T>> {
        let hearing = async {
            while let Some(said) = self.said.recv().await {
                if let Some(found) = wanted(said) {
                    return Ok(found);
                }
            }
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            bail!("{} has ended:\n{}", self.name, lines[lines.len().saturating_sub(5)..].join("\n"))
        };
        timeout(limit, hearing).await.ok().transpose()
    }

    /// The same for what must happen.
    async fn must<T>(&mut self, what: &str, wanted: impl Fn(Said) -> Option<T>) -> Result<T> {
        let heard = self.hear(PATIENCE, wanted).await?;
        heard.with_context(|| format!("{} did not {what} within {PATIENCE:?}", self.name))
    }

    pub(crate) async fn leads(&mut self) -> Result<BootInstant> {
        self.must("lead", Said::leads).await
    }

    pub(crate) async fn follows(&mut self) -> Result<()> {
        self.must("follow", |said| (said == Said::Follows).then_some(())).await
    }

    /// Asks it to give leadership away; returns the moment at which it did, and whether a successor was named that there
    /// was to be.
    pub(crate) async fn give(&mut self) -> Result<(BootInstant, bool)> {
        self.tell("give").await?;
        let gives = |said| match said {
            Said::Gives(at) => Some((at, true)),
            Said::Frees(at) => Some((at, false)),
            _ => None,
        };
        self.must("give", gives).await
    }

    /// Everything that it has said and nobody has heard yet.
    pub(crate) fn unheard(&mut self) -> Vec<Said> {
        std::iter::from_fn(|| self.said.try_recv().ok()).collect()
    }

    /// kill -9. Returns the moment before it, when it is dead; that it was dead already is not an error.
    pub(crate) async fn kill(&mut self) -> BootInstant {
        let at = BootInstant::now();
        let _ = self.child.kill().await;
        at
    }

    /// It stands still, its connections stay open. Returns the moment before it.
    pub(crate) fn freeze(&self) -> Result<BootInstant> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).context("it has ended")?;
        let at = BootInstant::now();
        kill_process(pid, Signal::STOP)?;
        Ok(at)
    }
}

// === impl Said ===

impl Said {
    pub(crate) const fn leads(self) -> Option<BootInstant> {
        if let Self::Leads(at) = self { Some(at) } else { None }
    }

    pub(crate) const fn stands(self) -> Option<BootInstant> {
        if let Self::Stands(at) = self { Some(at) } else { None }
    }

    fn parse(line: &str) -> Option<Self> {
        let (word, at) = line.split_once(' ').unwrap_or((line, "0"));
        let at = BootInstant::from_boot(Duration::from_nanos(at.parse().ok()?));
        Some(match word {
            "follows" => Self::Follows,
            "leads" => Self::Leads(at),
            "stands" => Self::Stands(at),
            "gives" => Self::Gives(at),
            "frees" => Self::Frees(at),
            _ => return None,
        })
    }
}

async fn listen(output: ChildStdout, tx: UnboundedSender<Said>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(said) = Said::parse(&line)
            && tx.send(said).is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_contender_that_ends_is_told_from_one_that_is_silent() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let start = |script: &str| {
            let words = ["sh", "-c", script].map(str::to_owned);
            Contender::start("c".into(), &words, log.path().to_owned()).unwrap()
        };
        let mut silent = start("echo follows; sleep 60");
        silent.follows().await.unwrap();
        assert_eq!(silent.hear(Duration::from_millis(50), Said::leads).await.unwrap(), None);
        silent.kill().await;
        let mut gone = start("echo leads 7; echo why >&2");
        assert_eq!(gone.leads().await.unwrap().since_boot(), Duration::from_nanos(7));
        let error = gone.hear(PATIENCE, Said::leads).await.unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
    }

    #[test]
    fn what_is_not_of_the_language_is_no_reading_of_the_clock() {
        for line in ["", "leads x", "leads", "I0101 leaderelection.go: leads 5"] {
            let said = Said::parse(line).filter(|said| said.leads().is_some_and(|at| at > BootInstant::ZERO));
            assert_eq!(said, None, "{line}");
        }
    }
}
