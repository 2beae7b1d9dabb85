//! A day comes back into the table.

use flywheel_archive::{Readiness, checked};
use flywheel_lake::{Advance, LakeErrorKind};
use futures::TryStreamExt;
use serde::Serialize;

use super::{Archive, ArchivingError, Day, app_ids, in_force, names::Names};

/// What came of a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Restored {
    /// Its rows are in the table again, by one commit.
    Done { rows: u64, files: usize, version: u64 },
    /// They were there already: restored before, by us or somebody else.
    There,
    /// So many of its files have to be thawed first; they were asked for. Come again later.
    Thawing { waiting: usize, files: usize },
}

impl Archive {
    /// Brings back what the archive alone holds of a day. Again is harmless.
    ///
    /// # Errors
    /// `NotArchived` if it was never archived; `Corrupt` of the archive if a file there is not the one that was put.
    pub async fn restore(&self, day: &Day) -> Result<Restored, ArchivingError> {
        loop {
            let [archived, restored] = self.positions(day).await?;
            if archived == 0 {
                return Err(ArchivingError::NotArchived(day.clone()));
            }
            if archived == restored {
                return Ok(Restored::There);
            }
            let numbers = Names::manifests(&*self.store, day).await?;
            let manifests = in_force(&*self.store, day, &numbers, restored, archived).await?;
            let files: Vec<_> = manifests.iter().flat_map(|manifest| &manifest.files).collect();
            let mut waiting = 0;
            for file in &files {
                let readiness = self.store.thaw(&file.object, self.config.thaw_days).await?;
                waiting += usize::from(readiness != Readiness::Ready);
            }
            if waiting > 0 {
                return Ok(Restored::Thawing { waiting, files: files.len() });
            }
            let mut stored = Vec::with_capacity(files.len());
            for file in &files {
                let pieces = checked(self.store.stream(&file.object).await?, &file.object, &file.sha256);
                stored.push(self.table.store_file(&file.file, pieces.map_err(ArchivingError::from)).await?);
            }
            let [_, app_id] = app_ids(day);
            let advance = [Advance::new(app_id, (restored > 0).then_some(restored as i64), archived as i64)];
            let note = format!("restored from {}", self.store.place());
            match self.table.put_back(stored, &advance, &note).await {
                Ok(commit) if commit.skipped => return Ok(Restored::There),
                Ok(commit) => {
                    tracing::info!(%day, version = commit.version, rows = commit.rows, "restored");
                    metrics::counter!(crate::metrics::RESTORED_ROWS).increment(commit.rows);
                    return Ok(Restored::Done { rows: commit.rows, files: commit.files, version: commit.version });
                }
                // Somebody else restored a part of it meanwhile.
                Err(error) if error.kind() == LakeErrorKind::Moved => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
