//! The page's programs as processes.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use pollux_exactly_once::{block, libraries};

use crate::database::PATIENCE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Python,
    TypeScript,
}

/// A running bot. It is killed when this is dropped.
pub(crate) struct Bot {
    child: Child,
    output: PathBuf,
}

// === impl Language ===

impl Language {
    pub(crate) const ALL: [Self; 2] = [Self::Python, Self::TypeScript];

    fn command(self) -> Command {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("exactly-once");
        fs::create_dir_all(&folder).unwrap();
        match self {
            Self::Python => {
                static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
                let program = PROGRAM.get_or_init(|| written(&folder, "bot.py"));
                let mut command = Command::new("python3");
                command.arg(program).env("PYTHONPATH", libraries().join("python")).env("PYTHONUNBUFFERED", "1");
                command
            }
            Self::TypeScript => {
                static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
                let mut command = Command::new("node");
                command.arg(PROGRAM.get_or_init(|| compiled(&folder)));
                command
            }
        }
    }
}

fn written(folder: &Path, name: &str) -> PathBuf {
    let file = folder.join(name);
    fs::write(&file, block(name)).unwrap();
    file
}

/// The TypeScript program with its types checked, and without them.
fn compiled(folder: &Path) -> PathBuf {
    let modules = libraries().join("node_modules");
    let link = folder.join("node_modules");
    let _ = fs::remove_file(&link);
    symlink(&modules, &link).unwrap();
    fs::write(folder.join("package.json"), r#"{"type": "module"}"#).unwrap();
    let mut tsc = Command::new("node");
    tsc.arg(modules.join("typescript/bin/tsc")).args(["--strict", "--target", "es2022", "--module", "nodenext"]);
    tsc.args(["--types", "node", "--skipLibCheck"]).arg(written(folder, "bot.ts")).current_dir(folder);
    let output = tsc.output().expect("node starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    folder.join("bot.js")
}

// === impl Bot ===

impl Bot {
    /// Starts the page's program; `output` is where it writes to.
    pub(crate) fn start(language: Language, environment: &[(&str, String)], output: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&output).unwrap();
        let mut command = language.command();
        command.envs(environment.iter().cloned()).stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Self { child: command.spawn().expect("python3 and node are there"), output }
    }

    /// SIGKILL. Panics if it has ended by itself.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "{status}: {}", self.said());
    }

    /// Waits until it ends by itself; how, and what it wrote.
    pub(crate) async fn ended(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, self.said());
            }
            assert!(Instant::now() < deadline, "it does not end: {}", self.said());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }
}

impl Drop for Bot {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
