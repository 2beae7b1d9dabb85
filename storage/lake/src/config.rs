use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How tables are written. The defaults are what we run in production.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LakeConfig {
    /// A checkpoint of the log is written every so many commits; a fresh reader replays at most this many.
    pub checkpoint_interval: u64,
    /// Commits older than this are removed from the log once a checkpoint covers them. No process may stand
    /// still between reading the log and committing for longer than this.
    #[serde(with = "seconds")]
    pub log_retention: Duration,
    /// Files that no version needs any more stay this long, for readers of older versions.
    #[serde(with = "seconds")]
    pub deleted_file_retention: Duration,
    /// Rows of one Parquet row group.
    pub row_group_rows: usize,
    /// How often a commit whose outcome is unknown is looked up and tried again before the caller is told.
    pub commit_attempts: u32,
    /// A cached state older than this is read afresh instead of followed.
    #[serde(with = "seconds")]
    pub reload_after: Duration,
}

impl Default for LakeConfig {
    fn default() -> Self {
        Self {
            checkpoint_interval: 50,
            log_retention: Duration::from_secs(24 * 3600),
            deleted_file_retention: Duration::from_secs(24 * 3600),
            row_group_rows: 122_880,
            commit_attempts: 6,
            reload_after: Duration::from_secs(600),
        }
    }
}

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(value.as_secs())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        u64::deserialize(d).map(Duration::from_secs)
    }
}
