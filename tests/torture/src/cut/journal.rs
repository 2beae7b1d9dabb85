//! Reading journals.

use std::{collections::HashMap, ffi::OsStr, os::unix::ffi::OsStrExt, path::PathBuf};

use anyhow::bail;

use super::format::{HEADER_BYTES, Kind, MAGIC};

/// A change, and how to take it back; see [`Kind`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Data { at: u64, size: u64, old: Vec<u8>, length: u64 },
    Size { to: u64, size: u64, cut: Vec<u8> },
    Create(PathBuf),
    Link(PathBuf),
    Rename { from: PathBuf, to: PathBuf, stashed: Option<String> },
    Unlink { path: PathBuf, stashed: Option<String> },
    MakeDir(PathBuf),
}

impl Change {
    pub fn is_of_a_name(&self) -> bool {
        !matches!(self, Self::Data { .. } | Self::Size { .. })
    }
}

/// The changes of a process, over one or several lives.
#[derive(Debug, Default)]
pub struct Journal {
    /// Of which file or folder, and what; `None` where a record was cancelled or was none of a change.
    pub changes: Vec<Option<(u64, Change)>>,
    /// Changes of a file or folder below this place were synced with it.
    safe: HashMap<u64, usize>,
    /// All changes below this place are safe.
    pub all_safe: usize,
}

impl Journal {
    /// Adds what one life wrote. A last record that was cut short is of a change that was never made.
    pub fn append(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let base = self.changes.len();
        let mut rest = bytes;
        while rest.len() >= HEADER_BYTES {
            let (head, behind) = rest.split_at(HEADER_BYTES);
            let small = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
            let large = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
            if small(0) != MAGIC {
                bail!("no record begins at byte {}", bytes.len() - rest.len());
            }
            let (subject, a, b) = (large(8), large(16), large(24));
            let (first, second) = (small(32) as usize, small(36) as usize);
            let Some((first, behind)) = behind.split_at_checked(first) else { break };
            let Some((second, behind)) = behind.split_at_checked(second) else { break };
            rest = behind;
            let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
            let stashed = |name: &[u8]| (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned());
            let change = match small(4) {
                kind if kind == Kind::Data as u32 => {
                    let length = second.try_into().map(u64::from_le_bytes).unwrap_or_default();
                    Change::Data { at: a, size: b, old: first.to_vec(), length }
                }
                kind if kind == Kind::Size as u32 => Change::Size { to: a, size: b, cut: first.to_vec() },
                kind if kind == Kind::Create as u32 => Change::Create(path(first)),
                kind if kind == Kind::Link as u32 => Change::Link(path(first)),
                kind if kind == Kind::MakeDir as u32 => Change::MakeDir(path(first)),
                kind if kind == Kind::Unlink as u32 => Change::Unlink { path: path(first), stashed: stashed(second) },
                kind if kind == Kind::Rename as u32 => {
                    let (from, to) = first.split_at_checked(a as usize).unwrap_or((first, &[]));
                    Change::Rename { from: path(from), to: path(to), stashed: stashed(second) }
                }
                kind if kind == Kind::Sync as u32 => {
                    let safe = self.safe.entry(subject).or_default();
                    *safe = (*safe).max(base + a as usize);
                    self.changes.push(None);
                    continue;
                }
                kind if kind == Kind::SyncAll as u32 => {
                    self.all_safe = self.all_safe.max(base + a as usize);
                    self.changes.push(None);
                    continue;
                }
                kind if kind == Kind::Cancel as u32 => {
                    if let Some(last) = self.changes.last_mut() {
                        *last = None;
                    }
                    self.changes.push(None);
                    continue;
                }
                kind => bail!("there is no record of kind {kind}"),
            };
            self.changes.push(Some((subject, change)));
        }
        Ok(())
    }

    /// Changes of a file or folder below this place are safe.
    pub fn safe_of(&self, subject: u64) -> usize {
        self.safe.get(&subject).copied().unwrap_or(0).max(self.all_safe)
    }

    /// Below this place, some sync or other came later.
    pub fn safe_by_any(&self) -> usize {
        self.safe.values().copied().max().unwrap_or(0).max(self.all_safe)
    }
}
