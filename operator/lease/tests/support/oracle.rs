//! The oracle: at no instant do two processes believe that they may poll (I1), and epochs only rise (I2, I3).
//!
//! Each contender writes down what it believes, with readings of the one `CLOCK_BOOTTIME` of this machine: from when it led,
//! under which epoch, and until which fence. A process that is frozen or killed writes nothing any more, so what counts is
//! the fence that it last believed in, which is later than anything it could have done.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pollux_lease::{BootInstant, Lease, Role, View};
use tokio::task::JoinHandle;

/// Writes down what one contender believes.
pub struct Recorder {
    file: File,
}

/// One belief: `[from, until)` under `epoch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Belief {
    pub who: String,
    pub epoch: i64,
    pub from: Duration,
    pub until: Duration,
}

/// What was found, for floors: an oracle that saw nothing has shown nothing.
#[derive(Debug)]
pub struct Verdict {
    pub beliefs: Vec<Belief>,
    pub epochs: Vec<i64>,
}

// === impl Recorder ===

impl Recorder {
    /// `dir` is shared by all contenders of a test.
    pub fn new(dir: &Path, who: &str) -> Self {
        let path = dir.join(format!("{who}.beliefs"));
        Self { file: OpenOptions::new().create(true).append(true).open(path).unwrap() }
    }

    fn write(&mut self, view: &View) {
        // The moment at which it came to be so, not that at which this task heard of it.
        let at = view.at.since_boot().as_nanos();
        let line = match view.role {
            Role::Standby => format!("S {at}\n"),
            Role::Leader { epoch, fence, since } => {
                format!("L {at} {epoch} {} {}\n", since.since_boot().as_nanos(), fence.since_boot().as_nanos())
            }
        };
        // One write: a kill leaves a whole line or none.
        self.file.write_all(line.as_bytes()).unwrap();
    }

    /// Follows a lease until its task ends.
    pub fn follow(mut self, lease: &Lease) -> JoinHandle<()> {
        let mut view = lease.view();
        tokio::spawn(async move {
            loop {
                let now = view.borrow_and_update().clone();
                self.write(&now);
                if view.changed().await.is_err() {
                    return;
                }
            }
        })
    }
}

/// A process that was killed at `at` believed nothing after it.
pub fn died(dir: &Path, who: &str, at: BootInstant) {
    let mut file = OpenOptions::new().append(true).open(dir.join(format!("{who}.beliefs"))).unwrap();
    file.write_all(format!("S {}\n", at.since_boot().as_nanos()).as_bytes()).unwrap();
}

/// Judges until as much has been written down as must have happened: the epochs, and in how many pieces they were led.
pub async fn verdict(dir: &Path, epochs: &[i64], pieces: usize) -> Verdict {
    let deadline = BootInstant::now() + super::PATIENCE;
    loop {
        let verdict = judge(dir);
        if verdict.epochs == epochs && verdict.beliefs.len() == pieces {
            return verdict;
        }
        assert!(BootInstant::now() < deadline, "not {epochs:?} in {pieces} pieces: {verdict:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads everything and judges it.
pub fn judge(dir: &Path) -> Verdict {
    let mut beliefs = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path: PathBuf = entry.path();
        if path.extension().is_some_and(|e| e == "beliefs") {
            let who = path.file_stem().unwrap().to_string_lossy().into_owned();
            beliefs.extend(read(&who, &std::fs::read_to_string(&path).unwrap()));
        }
    }
    beliefs.sort_by_key(|belief| belief.from);
    for pair in beliefs.windows(2) {
        assert!(pair[0].until <= pair[1].from, "two leaders at one instant:\n{pair:#?}\nof {beliefs:#?}");
        assert!(
            pair[0].epoch < pair[1].epoch || (pair[0].epoch == pair[1].epoch && pair[0].who == pair[1].who),
            "an epoch that did not rise:\n{pair:#?}"
        );
    }
    let mut owners: BTreeMap<i64, &str> = BTreeMap::new();
    for belief in &beliefs {
        let owner = owners.entry(belief.epoch).or_insert(&belief.who);
        assert_eq!(*owner, belief.who, "two holders of epoch {}", belief.epoch);
    }
    let epochs = owners.into_keys().collect();
    Verdict { beliefs, epochs }
}

fn read(who: &str, text: &str) -> Vec<Belief> {
    let mut found: Vec<Belief> = Vec::new();
    let mut open: Option<Belief> = None;
    for line in text.lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let nanos = |n: usize| Duration::from_nanos(fields[n].parse().unwrap());
        let now = nanos(1);
        match fields[0] {
            "S" => {
                if let Some(mut belief) = open.take() {
                    belief.until = belief.until.min(now);
                    found.push(belief);
                }
            }
            "L" => {
                let (epoch, from, until) = (fields[2].parse().unwrap(), nanos(3), nanos(4));
                match &mut open {
                    // Under one epoch there is one holder, so a belief that was interrupted is one all the same. Its fence may
                    // also come nearer: what is written last is what it goes by.
                    Some(belief) if belief.epoch == epoch => belief.until = until,
                    _ => {
                        found.extend(open.take());
                        let from = if found.iter().any(|old| old.epoch == epoch) { now } else { from };
                        open = Some(Belief { who: who.to_owned(), epoch, from, until });
                    }
                }
            }
            other => panic!("{who}: a line that begins with {other}"),
        }
    }
    found.extend(open);
    found
}

#[test]
#[should_panic(expected = "two leaders at one instant")]
fn the_oracle_sees_an_overlap() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.beliefs"), "L 10 1 10 30\n").unwrap();
    std::fs::write(dir.path().join("b.beliefs"), "L 29 2 29 50\nS 40\n").unwrap();
    judge(dir.path());
}

#[test]
#[should_panic(expected = "an epoch that did not rise")]
fn the_oracle_sees_a_granted_epoch_granted_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.beliefs"), "L 10 1 10 30\nS 20\n").unwrap();
    std::fs::write(dir.path().join("b.beliefs"), "L 29 1 29 50\n").unwrap();
    judge(dir.path());
}
