//! What an archive holds of a day: its files and its games.

use std::collections::BTreeMap;

use bytes::Bytes;
use flywheel_archive::{ColdStore, read};
use flywheel_lake::DataFile;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{ArchivingError, Day, names::Names};

/// The layout that this program writes; a higher one is refused.
pub(crate) const FORMAT: u32 = 1;
/// A book may not grow beyond this when it is unpacked.
const MAX_BOOK_BYTES: usize = 1 << 30;

/// The seal of a day, or of what came late to one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub format: u32,
    pub table: String,
    pub system: String,
    pub dt: String,
    /// Of this day, from 1; the table's position says up to which they were carried out.
    pub number: u64,
    /// Attempts before it that can never be carried out: a merge took their files.
    pub replaces: Vec<u64>,
    pub made_ms: i64,
    /// A version of the table that names exactly these files for this day, or more.
    pub table_version: u64,
    pub rows: u64,
    pub bytes: u64,
    /// Where its rows came from, by partition of the log.
    pub partitions: BTreeMap<u32, Extent>,
    pub files: Vec<ArchivedFile>,
    pub book: BookName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Extent {
    pub first_offset: i64,
    pub last_offset: i64,
    pub rows: u64,
}

impl Extent {
    pub fn grow(extents: &mut BTreeMap<u32, Self>, partition: u32, offset: i64) {
        let extent = extents.entry(partition).or_insert(Self { first_offset: offset, last_offset: offset, rows: 0 });
        extent.first_offset = extent.first_offset.min(offset);
        extent.last_offset = extent.last_offset.max(offset);
        extent.rows += 1;
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ArchivedFile {
    pub object: String,
    pub sha256: String,
    /// As the table named it.
    pub file: DataFile,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BookName {
    pub object: String,
    pub sha256: String,
    pub games: u64,
}

/// The games of a manifest: enough to balance the books without thawing a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Book {
    pub games: BTreeMap<String, BookGame>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BookGame {
    pub rows: u64,
    /// Stretches `from..to` of `seq`.
    pub seqs: Vec<(u64, u64)>,
    /// Sum over its distinct events of a hash of their content.
    pub content: u64,
}

impl Manifest {
    pub fn day(&self) -> Day {
        Day { system: self.system.clone(), dt: self.dt.clone() }
    }

    /// # Errors
    /// If there is none, or it is damaged or of a newer program.
    pub async fn read(store: &dyn ColdStore, day: &Day, number: u64) -> Result<Self, ArchivingError> {
        let object = Names::manifest(day, number);
        let bytes = store.get(&object).await?;
        let manifest: Self = parse(&object, &bytes)?;
        if (manifest.day(), manifest.number, manifest.table.as_str()) != (day.clone(), number, "events") {
            let why = format!("it is the manifest {} of {} of `{}`", manifest.number, manifest.day(), manifest.table);
            return Err(ArchivingError::Unreadable { object, why });
        }
        Ok(manifest)
    }

    pub async fn book(&self, store: &dyn ColdStore) -> Result<Book, ArchivingError> {
        let BookName { object, sha256, .. } = &self.book;
        let packed = read(store, object, sha256).await?;
        let unreadable = |why: String| ArchivingError::Unreadable { object: object.clone(), why };
        let text = zstd::bulk::decompress(&packed, MAX_BOOK_BYTES).map_err(|error| unreadable(error.to_string()))?;
        serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))
    }
}

/// The format is looked at first: of a newer one, nothing else is believed.
fn parse<T: DeserializeOwned>(object: &str, bytes: &Bytes) -> Result<T, ArchivingError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let unreadable = |why: String| ArchivingError::Unreadable { object: object.to_owned(), why };
    let Format { format } = serde_json::from_slice(bytes).map_err(|error| unreadable(error.to_string()))?;
    if format > FORMAT {
        return Err(unreadable(format!(
            "its format is {format}, this program knows up to {FORMAT}; nothing was changed: use the newer program that \
             made it"
        )));
    }
    serde_json::from_slice(bytes).map_err(|error| unreadable(error.to_string()))
}
