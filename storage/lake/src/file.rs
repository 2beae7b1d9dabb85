use std::collections::BTreeMap;

use deltalake::kernel::{Add, LogicalFileView, Remove};
use serde::{Deserialize, Serialize};

use crate::{Sums, sums::TAG};

/// One Parquet file of a table version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// Relative to the table's folder.
    pub path: String,
    pub system: String,
    /// UTC day.
    pub dt: String,
    pub bytes: u64,
    pub rows: u64,
    /// When its rows were committed; compaction keeps the newest of what it merged.
    pub modified_ms: i64,
    /// Smallest and largest value of the columns in [`flywheel_tables::stats_columns`].
    pub ranges: BTreeMap<String, (i64, i64)>,
    /// What its bytes add up to. Files of older versions of this program, and of other programs, have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sums: Option<Sums>,
}

/// Per-file statistics as Delta writes them.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Stats {
    pub num_records: u64,
    #[serde(default)]
    pub min_values: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    pub max_values: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    pub null_count: BTreeMap<String, serde_json::Value>,
}

impl Stats {
    fn ranges(&self) -> BTreeMap<String, (i64, i64)> {
        self.min_values
            .iter()
            .filter_map(|(name, min)| {
                let max = self.max_values.get(name)?.as_i64()?;
                Some((name.clone(), (min.as_i64()?, max)))
            })
            .collect()
    }
}

impl DataFile {
    pub(crate) fn from_add(add: &Add) -> Self {
        let partition = |column| add.partition_values.get(column).cloned().flatten().unwrap_or_default();
        let stats: Stats = add.stats.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let tag = add.tags.as_ref().and_then(|tags| tags.get(TAG)?.as_deref());
        Self {
            path: add.path.clone(),
            system: partition("system"),
            dt: partition("dt"),
            bytes: add.size.max(0) as u64,
            rows: stats.num_records,
            modified_ms: add.modification_time,
            ranges: stats.ranges(),
            sums: tag.and_then(|text| text.parse().ok()),
        }
    }

    pub(crate) fn from_view(view: &LogicalFileView) -> Self {
        // Nothing else gives the tags away.
        #[expect(deprecated)]
        Self::from_add(&view.add_action())
    }

    /// The action that takes this file out of the table without changing its rows.
    pub(crate) fn remove(&self, now_ms: i64) -> Remove {
        Remove {
            path: self.path.clone(),
            data_change: false,
            deletion_timestamp: Some(now_ms),
            extended_file_metadata: Some(true),
            partition_values: Some(
                [("system".to_owned(), Some(self.system.clone())), ("dt".to_owned(), Some(self.dt.clone()))].into(),
            ),
            size: Some(self.bytes as i64),
            ..Remove::default()
        }
    }
}
