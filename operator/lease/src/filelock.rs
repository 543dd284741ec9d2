//! The file lock of a pod: whoever has it knows that every earlier process of the pod that had it is dead, because the kernel
//! frees it at death and at no other time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

/// The lock, held until this is dropped.
#[derive(Debug)]
pub(crate) struct FileLock {
    _file: File,
}

// === impl FileLock ===

impl FileLock {
    /// Takes the lock; `None` while another process has it.
    pub(crate) fn try_take(path: &Path) -> io::Result<Option<Self>> {
        // Opened anew each time: the directory may have been mounted, or the file replaced, meanwhile.
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_waits_for_the_death_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alive");
        let first = FileLock::try_take(&path).unwrap().expect("nobody else has it");
        assert!(FileLock::try_take(&path).unwrap().is_none());
        drop(first);
        assert!(FileLock::try_take(&path).unwrap().is_some());
    }
}
