//! The files of a bot: what it uploaded, and what a test put there. 64 MiB are kept; then the oldest ones go.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::body::{MAX_DOWNLOAD, Upload};

const MAX_KEPT: usize = 64 << 20;

#[derive(Debug)]
struct File {
    name: String,
    size: u64,
    content: Option<Bytes>,
}

#[derive(Debug, Default)]
pub(crate) struct Files {
    files: BTreeMap<u64, File>,
    last: u64,
    kept: usize,
}

// === impl Files ===

impl Files {
    /// Keeps a file and returns its id.
    pub(crate) fn add(&mut self, upload: Upload) -> String {
        let Upload { name, size, content, .. } = upload;
        self.last += 1;
        self.kept += content.as_ref().map_or(0, Bytes::len);
        self.files.insert(self.last, File { name, size, content });
        let oldest: Vec<u64> = self.files.keys().copied().collect();
        for id in oldest {
            if self.kept <= MAX_KEPT {
                break;
            }
            self.kept -= self.files.get_mut(&id).and_then(|f| f.content.take()).map_or(0, |c| c.len());
        }
        file_id(self.last)
    }

    fn find(&self, file_id: &str) -> Option<(u64, &File)> {
        let number = file_id.strip_prefix("file-")?.parse().ok()?;
        Some((number, self.files.get(&number)?))
    }

    /// A `File` without its path: part of a message. An id that is not known (of another bot, or a URL) stands for itself.
    pub(crate) fn described(&self, file_id: &str) -> Value {
        match self.find(file_id) {
            Some((number, file)) => json!({
                "file_id": file_id, "file_unique_id": format!("u{number}"), "file_size": file.size, "file_name": file.name,
            }),
            None => json!({"file_id": file_id, "file_unique_id": "u0"}),
        }
    }

    /// The answer to getFile, or what is wrong.
    pub(crate) fn get_file(&self, file_id: &str) -> Result<Value, &'static str> {
        let gone = "Bad Request: wrong file_id or the file is temporarily unavailable";
        let (number, file) = self.find(file_id).ok_or(gone)?;
        if file.size > MAX_DOWNLOAD {
            return Err("Bad Request: file is too big");
        }
        file.content.as_ref().ok_or(gone)?;
        Ok(json!({
            "file_id": file_id, "file_unique_id": format!("u{number}"), "file_size": file.size,
            "file_path": path(number, &file.name),
        }))
    }

    /// What a path of getFile's leads to.
    pub(crate) fn content(&self, wanted: &str) -> Option<Bytes> {
        let number = wanted.strip_prefix("documents/file_")?.split('.').next()?.parse().ok()?;
        let file = self.files.get(&number).filter(|f| path(number, &f.name) == wanted)?;
        file.content.clone()
    }
}

fn file_id(number: u64) -> String {
    format!("file-{number}")
}

fn path(number: u64, name: &str) -> String {
    let plain = |e: &&str| !e.is_empty() && e.bytes().all(|b| b.is_ascii_alphanumeric());
    let extension = name.rsplit_once('.').map(|(_, e)| e).filter(plain);
    extension.map_or_else(|| format!("documents/file_{number}"), |e| format!("documents/file_{number}.{e}"))
}
