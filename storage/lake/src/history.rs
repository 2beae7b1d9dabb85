use deltalake::kernel::{Action, Version};
use serde::Serialize;

use crate::{LakeError, LakeErrorKind, Table, commit::NOTE_KEY};

/// One commit of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HistoryEntry {
    pub version: Version,
    pub timestamp_ms: i64,
    /// Such as `WRITE`, `OPTIMIZE`, `VACUUM START`.
    pub operation: String,
    pub files_added: usize,
    pub files_removed: usize,
    pub rows_added: u64,
    /// The positions that it reached.
    pub positions: Vec<(String, i64)>,
    /// What the writer said of it, such as where the rows went that it took out.
    pub note: Option<String>,
}

impl Table {
    /// The newest `n` commits that the log still holds, newest first.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub async fn history(&self, n: usize) -> Result<Vec<HistoryEntry>, LakeError> {
        let Some(newest) = self.version().await? else { return Ok(Vec::new()) };
        let mut entries = Vec::new();
        for version in (0..=newest).rev().take(n) {
            let found = self.inner.log.read_commit_entry(version).await;
            let Some(bytes) = found.map_err(|e| self.failed("reading the log of", e))? else { break };
            let actions = deltalake::logstore::get_actions(version, &bytes)
                .map_err(|e| LakeError::new(LakeErrorKind::Corrupt, "reading commit", self.commit_name(version), e))?;
            entries.push(entry(version, &actions));
        }
        Ok(entries)
    }
}

fn entry(version: Version, actions: &[Action]) -> HistoryEntry {
    let mut entry = HistoryEntry {
        version,
        timestamp_ms: 0,
        operation: String::new(),
        files_added: 0,
        files_removed: 0,
        rows_added: 0,
        positions: Vec::new(),
        note: None,
    };
    for action in actions {
        match action {
            Action::CommitInfo(info) => {
                entry.timestamp_ms = info.timestamp.unwrap_or_default();
                entry.operation = info.operation.clone().unwrap_or_default();
                entry.note = info.info.get(NOTE_KEY).and_then(|note| note.as_str()).map(str::to_owned);
            }
            Action::Add(add) => {
                entry.files_added += 1;
                entry.rows_added += crate::DataFile::from_add(add).rows;
            }
            Action::Remove(_) => entry.files_removed += 1,
            Action::Txn(txn) => entry.positions.push((txn.app_id.clone(), txn.version)),
            _ => {}
        }
    }
    entry
}
