//! The oracle: at no instant do two processes believe that they may poll (I1), and epochs only rise (I2, I3).
//!
//! Each contender writes down what it believes, with readings of the one `CLOCK_BOOTTIME` of this machine: from when it led,
//! under which epoch, and until which fence. A process that is frozen or killed writes nothing any more, so what counts is
//! the fence that it last believed in, which is later than anything it could have done.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use pollux_lease::{BootInstant, Lease, Role, View};
use tokio::task::JoinHandle;

mod lapses;

pub use lapses::{Lapse, Lapses};

/// A line is shorter than this, and so are two.
const LINES: u64 = 256;

/// Writes down what one contender believes.
#[derive(Debug)]
pub struct Recorder {
    file: File,
    overstay: Duration,
}

/// One belief: `[from, until)` under `epoch`, both since the kernel's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Belief {
    /// The process.
    pub who: String,
    /// The epoch that it led under.
    pub epoch: i64,
    /// When it began.
    pub from: Duration,
    /// The fence, or when it knew better.
    pub until: Duration,
}

/// What was found, for floors: an oracle that saw nothing has shown nothing.
#[derive(Debug)]
pub struct Verdict {
    /// In the order of their beginnings.
    pub beliefs: Vec<Belief>,
    /// Each epoch that somebody led under, once.
    pub epochs: Vec<i64>,
}

/// What must not be.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    /// I1.
    #[error("two leaders at one instant:\n{pair:#?}\nof {beliefs:#?}")]
    Overlap {
        /// The two.
        pair: Box<[Belief; 2]>,
        /// All there were.
        beliefs: Vec<Belief>,
    },
    /// I2, I3.
    #[error("an epoch that did not rise:\n{pair:#?}\nof {beliefs:#?}")]
    Epoch {
        /// Two that are next to each other.
        pair: Box<[Belief; 2]>,
        /// All there were.
        beliefs: Vec<Belief>,
    },
    /// There is no judgement without evidence.
    #[error("what {who} wrote down cannot be read: {why}")]
    Unreadable {
        /// The process, or the folder.
        who: String,
        /// What is wrong.
        why: String,
    },
}

// === impl Recorder ===

impl Recorder {
    /// `dir` is shared by all contenders of a test.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn new(dir: &Path, who: &str) -> io::Result<Self> {
        let path = dir.join(format!("{who}.beliefs"));
        Ok(Self { file: OpenOptions::new().create(true).append(true).open(path)?, overstay: Duration::ZERO })
    }

    /// Writes down fences that are this much later than the true ones: a seeded defect, which the oracle must see.
    #[must_use]
    pub fn overstaying(self, by: Duration) -> Self {
        Self { overstay: by, ..self }
    }

    fn write(&mut self, view: &View) -> io::Result<()> {
        // The moment at which it came to be so, not that at which this task heard of it.
        let at = view.at.since_boot().as_nanos();
        let line = match view.role {
            Role::Standby => format!("S {at}\n"),
            Role::Leader { epoch, fence, since } => {
                let fence = fence + self.overstay;
                format!("L {at} {epoch} {} {}\n", since.since_boot().as_nanos(), fence.since_boot().as_nanos())
            }
        };
        // One write: a kill leaves a whole line or none.
        self.file.write_all(line.as_bytes())
    }

    /// Follows a lease until its task ends. The task that is returned ends then, or earlier with what kept it from writing.
    pub fn follow(mut self, lease: &Lease) -> JoinHandle<io::Result<()>> {
        let mut view = lease.view();
        tokio::spawn(async move {
            loop {
                let now = view.borrow_and_update().clone();
                self.write(&now)?;
                if view.changed().await.is_err() {
                    return Ok(());
                }
            }
        })
    }
}

/// A process that was killed at `at` believed nothing after it.
///
/// # Errors
/// If it never wrote anything.
pub fn died(dir: &Path, who: &str, at: BootInstant) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).open(dir.join(format!("{who}.beliefs")))?;
    file.write_all(format!("S {}\n", at.since_boot().as_nanos()).as_bytes())
}

/// What `who` last wrote down, if that is that it leads: the belief, and when it came to be so.
pub fn latest(dir: &Path, who: &str) -> Option<(Belief, BootInstant)> {
    let mut file = File::open(dir.join(format!("{who}.beliefs"))).ok()?;
    let length = file.seek(SeekFrom::End(0)).ok()?;
    file.seek(SeekFrom::Start(length.saturating_sub(LINES))).ok()?;
    let mut end = String::new();
    file.read_to_string(&mut end).ok()?;
    let Ok(Line::Leads { at, epoch, from, until }) = Line::parse(end.lines().last()?) else { return None };
    Some((Belief { who: who.to_owned(), epoch, from, until }, BootInstant::from_boot(at)))
}

/// Reads everything and judges it.
///
/// # Errors
/// What must not be and is.
pub fn judge(dir: &Path) -> Result<Verdict, Violation> {
    let mut beliefs = read_all(dir)?;
    beliefs.sort_by_key(|belief| belief.from);
    for pair in beliefs.windows(2) {
        let (one, next) = (&pair[0], &pair[1]);
        let pair = || Box::new([one.clone(), next.clone()]);
        if one.until > next.from {
            return Err(Violation::Overlap { pair: pair(), beliefs });
        }
        // One who goes on under his own epoch is the only one who may.
        if one.epoch > next.epoch || (one.epoch == next.epoch && one.who != next.who) {
            return Err(Violation::Epoch { pair: pair(), beliefs });
        }
    }
    let mut epochs: Vec<_> = beliefs.iter().map(|belief| belief.epoch).collect();
    epochs.dedup();
    Ok(Verdict { beliefs, epochs })
}

fn read_all(dir: &Path) -> Result<Vec<Belief>, Violation> {
    let unreadable = |who: &str, why: io::Error| Violation::Unreadable { who: who.to_owned(), why: why.to_string() };
    let folder = dir.display().to_string();
    let mut beliefs = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| unreadable(&folder, e))? {
        let path = entry.map_err(|e| unreadable(&folder, e))?.path();
        if path.extension().is_some_and(|e| e == "beliefs") {
            let who = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).map_err(|e| unreadable(&who, e))?;
            beliefs.extend(read(&who, &text).map_err(|why| Violation::Unreadable { who, why })?);
        }
    }
    Ok(beliefs)
}

fn read(who: &str, text: &str) -> Result<Vec<Belief>, String> {
    let mut found: Vec<Belief> = Vec::new();
    let mut open: Option<Belief> = None;
    for line in text.lines() {
        match Line::parse(line)? {
            Line::Stands { at } => {
                if let Some(mut belief) = open.take() {
                    belief.until = belief.until.min(at);
                    found.push(belief);
                }
            }
            Line::Leads { at, epoch, from, until } => match &mut open {
                // Under one epoch there is one holder, so a belief that was interrupted is one all the same. Its fence may also
                // come nearer: what is written last is what it goes by.
                Some(belief) if belief.epoch == epoch => belief.until = until,
                _ => {
                    found.extend(open.take());
                    let from = if found.iter().any(|old| old.epoch == epoch) { at } else { from };
                    open = Some(Belief { who: who.to_owned(), epoch, from, until });
                }
            },
        }
    }
    found.extend(open);
    Ok(found)
}

enum Line {
    Stands { at: Duration },
    Leads { at: Duration, epoch: i64, from: Duration, until: Duration },
}

// === impl Line ===

impl Line {
    fn parse(line: &str) -> Result<Self, String> {
        let wrong = || format!("the line {line:?}");
        let nanos = |text: &str| text.parse().map(Duration::from_nanos).map_err(|_| wrong());
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["S", at] => Ok(Self::Stands { at: nanos(at)? }),
            ["L", at, epoch, from, until] => {
                let epoch = epoch.parse().map_err(|_| wrong())?;
                Ok(Self::Leads { at: nanos(at)?, epoch, from: nanos(from)?, until: nanos(until)? })
            }
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(files: &[(&str, &str)]) -> Result<Verdict, Violation> {
        let dir = tempfile::tempdir().unwrap();
        for (who, text) in files {
            std::fs::write(dir.path().join(format!("{who}.beliefs")), text).unwrap();
        }
        judge(dir.path())
    }

    #[test]
    fn the_oracle_sees_an_overlap() {
        let judged = judged(&[("a", "L 10 1 10 30\n"), ("b", "L 29 2 29 50\nS 40\n")]);
        assert!(matches!(judged, Err(Violation::Overlap { .. })), "{judged:?}");
    }

    #[test]
    fn the_oracle_sees_a_granted_epoch_granted_again() {
        let judged = judged(&[("a", "L 10 1 10 30\nS 20\n"), ("b", "L 29 1 29 50\n")]);
        assert!(matches!(judged, Err(Violation::Epoch { .. })), "{judged:?}");
    }

    #[test]
    fn the_oracle_sees_an_epoch_that_goes_back_to_its_former_holder() {
        let judged = judged(&[("a", "L 10 1 10 30\nS 20\nL 50 1 10 60\n"), ("b", "L 29 2 29 50\nS 40\n")]);
        assert!(matches!(judged, Err(Violation::Epoch { .. })), "{judged:?}");
    }

    #[test]
    fn a_line_that_says_nothing_is_not_passed_over() {
        let judged = judged(&[("a", "L 10 1 10 30\nX 20\n")]);
        assert!(matches!(judged, Err(Violation::Unreadable { .. })), "{judged:?}");
    }

    #[test]
    fn an_interrupted_belief_is_two_under_one_epoch() {
        let verdict = judged(&[("a", "S 5\nL 10 1 10 30\nL 20 1 10 40\nS 40\nL 45 1 10 60\nS 50\n")]).unwrap();
        assert_eq!(verdict.epochs, [1]);
        let spans: Vec<_> = verdict.beliefs.iter().map(|b| (b.from.as_nanos(), b.until.as_nanos())).collect();
        assert_eq!(spans, [(10, 40), (45, 50)]);
    }

    #[test]
    fn the_latest_belief_is_that_of_the_last_line() {
        let dir = tempfile::tempdir().unwrap();
        let write = |text: &str| std::fs::write(dir.path().join("a.beliefs"), text).unwrap();
        assert!(latest(dir.path(), "a").is_none());
        write(&format!("{}L 20 7 10 40\n", "S 5\n".repeat(200)));
        let (belief, at) = latest(dir.path(), "a").unwrap();
        assert_eq!((belief.epoch, at.since_boot().as_nanos()), (7, 20));
        write("L 20 7 10 40\nS 30\n");
        assert!(latest(dir.path(), "a").is_none());
    }
}
