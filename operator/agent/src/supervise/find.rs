//! Looks for a program as `execvp` does, without executing it.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// What is looked through when there is no `PATH`.
const USUAL_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Longest first line that the kernel reads.
const LONGEST_LINE: u64 = 256;

/// Where the program is.
///
/// # Errors
/// Why it cannot be executed, and what to do.
pub(super) fn find(program: &str) -> Result<String, String> {
    let path = std::env::var("PATH").unwrap_or_else(|_| USUAL_PATH.to_owned());
    find_in(program, &path)
}

fn find_in(program: &str, path: &str) -> Result<String, String> {
    if program.is_empty() {
        return Err("spec.command is empty: put the program there".to_owned());
    }
    if program.contains('/') {
        return executable(Path::new(program)).map(|()| program.to_owned());
    }
    let mut refused = None;
    for directory in std::env::split_paths(path) {
        let directory = if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory };
        let candidate = directory.join(program);
        match executable(&candidate) {
            Ok(()) => return Ok(candidate.display().to_string()),
            Err(why) if candidate.exists() => refused = refused.or(Some(why)),
            Err(_) => {}
        }
    }
    Err(refused.unwrap_or_else(|| {
        format!("{program} is in no directory of PATH ({path}): put the program's whole path into spec.command")
    }))
}

fn executable(file: &Path) -> Result<(), String> {
    let shown = file.display();
    let meta = std::fs::metadata(file).map_err(|e| format!("{shown}: {e}; spec.command names a file of the image"))?;
    if !meta.is_file() {
        return Err(format!("{shown} is not a file: spec.command names a program"));
    }
    access(file, Access::EXEC_OK).map_err(|e| format!("{shown}: {e}; it must be executable by the image's user"))?;
    interpreter(file).map_or(Ok(()), |interpreter| {
        access(&interpreter, Access::EXEC_OK)
            .map_err(|e| format!("{shown} is a script, and its interpreter cannot be executed: {interpreter}: {e}"))
    })
}

/// What the first line of a script names.
fn interpreter(file: &Path) -> Option<String> {
    let mut line = Vec::new();
    BufReader::new(std::fs::File::open(file).ok()?.take(LONGEST_LINE)).read_until(b'\n', &mut line).ok()?;
    let line = String::from_utf8_lossy(line.strip_prefix(b"#!")?).into_owned();
    line.split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn script(directory: &Path, name: &str, text: &str, mode: u32) -> String {
        let file = directory.join(name);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        file.display().to_string()
    }

    #[test]
    fn a_name_is_looked_for_in_path_and_what_cannot_be_executed_is_passed_over() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        script(one.path(), "bot", "#!/bin/sh\n", 0o644);
        let second = script(two.path(), "bot", "#!/bin/sh\n", 0o755);
        let path = format!("/nowhere:{}:{}", one.path().display(), two.path().display());
        assert_eq!(find_in("bot", &path), Ok(second));
    }

    #[test]
    fn what_cannot_be_executed_is_told_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display().to_string();
        let why = |program: &str| find_in(program, &path).unwrap_err();
        assert!(why("bot").contains("in no directory of PATH"), "{}", why("bot"));
        assert!(why("/nowhere/bot").contains("No such file"), "{}", why("/nowhere/bot"));
        assert!(why(&path).contains("is not a file"), "{}", why(&path));
        script(dir.path(), "bot", "#!/bin/sh\n", 0o644);
        assert!(why("bot").contains("Permission denied"), "{}", why("bot"));
        let lost = script(dir.path(), "lost", "#!/nowhere/python3 -u\n", 0o755);
        assert!(why(&lost).contains("/nowhere/python3"), "{}", why(&lost));
        assert!(find_in("", &path).is_err());
    }
}
