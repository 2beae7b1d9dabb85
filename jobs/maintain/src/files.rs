//! The data files of all tables, byte by byte: what the books cannot tell of columns that nobody compares.

use flywheel_lake::{Lake, LakeError, LakeErrorKind, TableName};
use serde::Serialize;

/// What came of reading every file of the newest versions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FilesChecked {
    pub files: u64,
    pub bytes: u64,
    /// Those of `files` whose commit has no checksum: written by other programs, or by older versions of this one. Only
    /// their length was compared.
    pub without_checksum: u64,
    /// Each names a file, and what of it is not as it was written.
    pub damaged: Vec<String>,
}

/// Reads every file of every table from end to end and compares it with the checksums in its commit, one piece of one file in
/// memory at a time. `progress` is told after each file, with the bytes that there are in all.
///
/// # Errors
/// If a table or the store cannot be read. Damage is no error: it is in the result.
pub async fn check_files(
    lake: &Lake,
    mut progress: impl FnMut(&FilesChecked, u64) + Send,
) -> Result<FilesChecked, LakeError> {
    let mut all = Vec::new();
    for name in TableName::ALL {
        let table = lake.table(name);
        all.extend(table.files().await?.into_iter().map(|file| (table.clone(), file)));
    }
    let total = all.iter().map(|(_, file)| file.bytes).sum();
    let mut checked = FilesChecked::default();
    for (table, file) in all {
        match table.verify_file(&file).await {
            Ok(has_checksum) => checked.without_checksum += u64::from(!has_checksum),
            Err(error) if error.kind() == LakeErrorKind::Corrupt => checked.damaged.push(error.to_string()),
            Err(error) if error.kind() == LakeErrorKind::NotFound => {
                // Merged and vacuumed since, or lost.
                if !table.files().await?.iter().any(|still| still.path == file.path) {
                    continue;
                }
                checked.damaged.push(error.to_string());
            }
            Err(error) => return Err(error),
        }
        checked.files += 1;
        checked.bytes += file.bytes;
        progress(&checked, total);
    }
    Ok(checked)
}
