//! Many small files of a partition become one, without a reader or a writer noticing.

use std::collections::BTreeMap;

use deltalake::{kernel::Action, protocol::DeltaOperation};
use futures::TryStreamExt;
use object_store::{ObjectStoreExt, path::Path};
use serde::{Deserialize, Serialize};

use crate::{
    DataFile, LakeError, LakeErrorKind, Table,
    append::now_ms,
    commit::Condition,
    encode::{Encoded, FileEncoder, file_schema},
    table::in_order,
};

/// What to merge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompactOptions {
    /// Files of this size are left alone; merged ones do not grow much beyond it.
    pub target_bytes: u64,
    /// Fewer files of about the same size are not worth a merge. Sizes are "about the same" within a factor of
    /// eight, so a row is rewritten once for each such step up to `target_bytes`, not once for each merge.
    pub min_files: usize,
}

impl Default for CompactOptions {
    fn default() -> Self {
        Self { target_bytes: 64 << 20, min_files: 8 }
    }
}

/// What was merged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CompactReport {
    pub files_before: usize,
    pub files_after: usize,
    pub files_merged: usize,
    pub files_written: usize,
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// Merges given up because somebody else had taken one of the files.
    pub conflicts: usize,
}

impl Table {
    /// Merges small files into files of about `target_bytes`.
    ///
    /// # Errors
    /// As [`Table::compact_with`].
    pub async fn compact(&self, target_bytes: u64) -> Result<CompactReport, LakeError> {
        self.compact_with(&CompactOptions { target_bytes, ..CompactOptions::default() }).await
    }

    /// Merges small files. The rows stay the same and in the order of their commits, so nobody's positions change
    /// (`dataChange=false`). Appends go on meanwhile; a merge whose files somebody else took is given up.
    ///
    /// # Errors
    /// If the store fails or a file is damaged; merges done before that stand.
    pub async fn compact_with(&self, options: &CompactOptions) -> Result<CompactReport, LakeError> {
        let files = self.files().await?;
        let before = files.len();
        self.merge_all(groups(files, options), before).await
    }

    /// Merges all small files of one day into files of about `target_bytes`, and leaves at most one that is smaller: what
    /// [`Table::compact_with`] finds nothing to do in.
    ///
    /// # Errors
    /// As [`Table::compact_with`].
    pub async fn compact_day(&self, system: &str, dt: &str, target_bytes: u64) -> Result<CompactReport, LakeError> {
        let files = self.files().await?;
        let before = files.len();
        let of_day = files.into_iter().filter(|f| f.system == system && f.dt == dt && f.bytes < target_bytes);
        let mut groups = filled(of_day, target_bytes);
        groups.retain(|group| group.len() >= 2);
        self.merge_all(groups, before).await
    }

    async fn merge_all(&self, groups: Vec<Vec<DataFile>>, files_before: usize) -> Result<CompactReport, LakeError> {
        let mut report = CompactReport { files_before, ..CompactReport::default() };
        for group in groups {
            let bytes: u64 = group.iter().map(|file| file.bytes).sum();
            report.bytes_read += bytes;
            match self.merge(&group).await? {
                Some(written) => {
                    report.files_merged += group.len();
                    report.files_written += 1;
                    report.bytes_written += written;
                }
                None => report.conflicts += 1,
            }
        }
        report.files_after = self.files().await?.len();
        crate::metrics::compacted(self.name(), &report);
        Ok(report)
    }

    async fn merge(&self, group: &[DataFile]) -> Result<Option<u64>, LakeError> {
        let merged = self.encode_merged(group).await?;
        let rows: u64 = group.iter().map(|file| file.rows).sum();
        let merged_rows = DataFile::from_add(&merged.add).rows;
        if merged_rows != rows {
            let why = format!("{} files tell of {rows} rows and hold {merged_rows}", group.len());
            return Err(LakeError::new(LakeErrorKind::Corrupt, "merging files of", self.name(), why));
        }
        let path = Path::from(merged.add.path.as_str());
        let size = merged.bytes.content_length() as u64;
        let put = self.inner.store.put(&path, merged.bytes).await;
        put.map_err(|e| LakeError::store("storing a file of", self.name(), e))?;

        let removed = group.iter().map(|file| Action::Remove(file.remove(now_ms())));
        let actions = removed.chain([Action::Add(merged.add)]).collect();
        let operation = DeltaOperation::Optimize { predicate: None, target_size: size as i64 };
        match self.commit(actions, operation, Condition { files: group, ..Condition::default() }).await? {
            Ok(version) => {
                self.keep_log_short(version).await;
                Ok(Some(size))
            }
            Err(_) => {
                let _ = self.inner.store.delete(&path).await;
                Ok(None)
            }
        }
    }

    /// Reads the files one after the other into one, a batch at a time.
    async fn encode_merged(&self, group: &[DataFile]) -> Result<Encoded, LakeError> {
        let name = self.name();
        let mut encoder = FileEncoder::new(name, self.inner.config.row_group_rows)?;
        for file in group {
            let mut batches = self.read_file(file.clone(), file_schema(name)).await?;
            while let Some(batch) = batches.try_next().await? {
                encoder = tokio::task::spawn_blocking(move || encoder.write(&batch).map(|()| encoder))
                    .await
                    .map_err(|e| LakeError::new(LakeErrorKind::Internal, "encoding rows of", name, e))??;
            }
        }
        let newest = group.iter().map(|file| file.modified_ms).max().unwrap_or_default();
        let (system, dt) = (group[0].system.clone(), group[0].dt.clone());
        tokio::task::spawn_blocking(move || encoder.finish(&system, &dt, newest, false))
            .await
            .map_err(|e| LakeError::new(LakeErrorKind::Internal, "encoding rows of", name, e))?
    }
}

/// Neighbours of one partition and about one size, in the order of their commits.
fn groups(files: Vec<DataFile>, options: &CompactOptions) -> Vec<Vec<DataFile>> {
    let mut tiers: BTreeMap<(String, String, u32), Vec<DataFile>> = BTreeMap::new();
    for file in in_order(files) {
        if file.bytes < options.target_bytes {
            let tier = file.bytes.max(1 << 15).ilog2() / 3;
            tiers.entry((file.system.clone(), file.dt.clone(), tier)).or_default().push(file);
        }
    }
    let mut groups = Vec::new();
    for tier in tiers.into_values() {
        groups.extend(filled(tier, options.target_bytes));
    }
    groups.retain(|group| {
        let full = group.iter().map(|file| file.bytes).sum::<u64>() >= options.target_bytes;
        group.len() >= 2 && (full || group.len() >= options.min_files)
    });
    groups
}

/// Neighbours until they are enough for one file; the last group may be less, or empty.
fn filled(files: impl IntoIterator<Item = DataFile>, target_bytes: u64) -> Vec<Vec<DataFile>> {
    let (mut groups, mut group, mut bytes) = (Vec::new(), Vec::new(), 0);
    for file in files {
        bytes += file.bytes;
        group.push(file);
        if bytes >= target_bytes {
            groups.push(std::mem::take(&mut group));
            bytes = 0;
        }
    }
    groups.push(group);
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(n: usize, dt: &str, bytes: u64) -> DataFile {
        DataFile {
            path: format!("{n:03}"),
            system: "tank".into(),
            dt: dt.into(),
            bytes,
            rows: 1,
            modified_ms: n as i64,
            ranges: BTreeMap::new(),
            sums: None,
        }
    }

    #[test]
    fn only_enough_files_of_one_day_and_size_are_merged() {
        let options = CompactOptions { target_bytes: 1 << 20, min_files: 4 };
        let mut files: Vec<_> = (0..5).map(|n| file(n, "2026-11-21", 1000)).collect();
        files.extend((5..8).map(|n| file(n, "2026-11-22", 1000)));
        files.extend((8..11).map(|n| file(n, "2026-11-21", 500_000)));
        files.push(file(11, "2026-11-21", 2 << 20));
        let names: Vec<Vec<_>> =
            groups(files, &options).iter().map(|g| g.iter().map(|f| f.path.clone()).collect()).collect();
        // Three files of half a target are enough to fill one; the day after has too few; the large one is done.
        assert_eq!(names, [vec!["000", "001", "002", "003", "004"], vec!["008", "009", "010"]]);
    }
}
