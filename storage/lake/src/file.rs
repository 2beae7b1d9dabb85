use std::collections::BTreeMap;

use deltalake::kernel::{Add, LogicalFileView, Remove};
use serde::{Deserialize, Serialize};

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
        Self::build(
            add.path.clone(),
            |column| add.partition_values.get(column).cloned().flatten().unwrap_or_default(),
            add.size,
            add.modification_time,
            add.stats.as_deref(),
        )
    }

    pub(crate) fn from_view(view: &LogicalFileView) -> Self {
        let partition = view.partition_values_map();
        let column = |name: &str| partition.get(name).cloned().flatten().unwrap_or_default();
        Self::build(view.path().into_owned(), column, view.size(), view.modification_time(), view.stats().as_deref())
    }

    fn build(
        path: String,
        partition: impl Fn(&str) -> String,
        size: i64,
        modified_ms: i64,
        stats: Option<&str>,
    ) -> Self {
        let stats: Stats = stats.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        Self {
            path,
            system: partition("system"),
            dt: partition("dt"),
            bytes: size.max(0) as u64,
            rows: stats.num_records,
            modified_ms,
            ranges: stats.ranges(),
        }
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
