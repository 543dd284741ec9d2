//! Lapses: a leader could not act for a while, and then went on under the same epoch. Nobody else led, but the bot was silent.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use super::Line;

/// Reads on in what one contender writes down.
#[derive(Debug)]
pub struct Lapses {
    lines: BufReader<File>,
    last: Option<(i64, Duration)>,
}

/// From the fence of an epoch until it was extended, both since the kernel's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lapse {
    /// The epoch.
    pub epoch: i64,
    /// When the leader could not act any more.
    pub from: Duration,
    /// When it could again.
    pub to: Duration,
}

// === impl Lapses ===

impl Lapses {
    /// Of `who`, from the beginning.
    ///
    /// # Errors
    /// If it has not written anything yet.
    pub fn of(dir: &Path, who: &str) -> io::Result<Self> {
        let file = File::open(dir.join(format!("{who}.beliefs")))?;
        Ok(Self { lines: BufReader::new(file), last: None })
    }

    /// Those that have ended since this was asked last.
    ///
    /// # Errors
    /// If a line says nothing.
    pub fn ended(&mut self) -> io::Result<Vec<Lapse>> {
        let mut found = Vec::new();
        let mut line = String::new();
        while self.lines.read_line(&mut line)? > 0 {
            let parsed = Line::parse(line.trim_end()).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?;
            found.extend(self.follow(&parsed));
            line.clear();
        }
        Ok(found)
    }

    fn follow(&mut self, line: &Line) -> Option<Lapse> {
        match (self.last, line) {
            (None, Line::Stands { .. }) => None,
            (Some((epoch, until)), Line::Stands { at }) => {
                self.last = Some((epoch, until.min(*at)));
                None
            }
            (last, Line::Leads { at, epoch, until, .. }) => {
                self.last = Some((*epoch, *until));
                let (_, from) = last.filter(|(before, fence)| before == epoch && fence < at)?;
                Some(Lapse { epoch: *epoch, from, to: *at })
            }
        }
    }
}

impl Lapse {
    /// How long it was.
    pub fn length(&self) -> Duration {
        self.to.saturating_sub(self.from)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_lapse_is_found_whether_or_not_the_leader_noticed_it_and_another_epoch_is_none() {
        let mut file = tempfile::Builder::new().suffix(".beliefs").tempfile().unwrap();
        let (dir, who) = (file.path().parent().unwrap().to_owned(), file.path().file_stem().unwrap().to_owned());
        let mut lapses = Lapses::of(&dir, who.to_str().unwrap()).unwrap();
        let mut written = |text: &str| {
            file.write_all(text.as_bytes()).unwrap();
            let ended = lapses.ended().unwrap();
            ended.iter().map(|l| (l.epoch, l.from.as_nanos(), l.to.as_nanos())).collect::<Vec<_>>()
        };
        assert_eq!(written("S 5\nL 10 1 10 30\nL 20 1 10 40\nS 40\n"), []);
        // It knew; then it did not, because it was frozen.
        assert_eq!(written("L 45 1 10 60\n"), [(1, 40, 45)]);
        assert_eq!(written("L 70 1 10 90\n"), [(1, 60, 70)]);
        // Its fence was brought forward.
        assert_eq!(written("S 80\nL 85 1 10 99\n"), [(1, 80, 85)]);
        assert_eq!(written("S 99\nL 120 3 120 150\n"), []);
        assert_eq!(written("L 130 3 120 160\n"), []);
    }
}
