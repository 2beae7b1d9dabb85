//! Every number that this crate exports.

use std::time::Duration;

use deltalake::kernel::Add;
use flywheel_tables::TableName;
use metrics::{counter, describe_counter, describe_histogram, histogram};

use crate::CompactReport;

pub const COMMIT_SECONDS: &str = "flywheel_lake_commit_seconds";
pub const ROWS: &str = "flywheel_lake_rows_total";
pub const BYTES: &str = "flywheel_lake_bytes_total";
pub const FILES: &str = "flywheel_lake_files_total";
pub const COMMIT_RACES: &str = "flywheel_lake_commit_races_total";
pub const COMMIT_RETRIES: &str = "flywheel_lake_commit_retries_total";
pub const COMMITS_FENCED: &str = "flywheel_lake_commits_fenced_total";
pub const CHECKPOINTS: &str = "flywheel_lake_checkpoints_total";
pub const COMPACTED_FILES: &str = "flywheel_lake_compacted_files_total";

/// Every metric with its description; a dashboard may query nothing else.
pub const ALL: [(&str, &str); 9] = [
    (COMMIT_SECONDS, "time from rows in memory to a committed version, by table"),
    (ROWS, "rows committed, by table"),
    (BYTES, "bytes of Parquet committed, by table"),
    (FILES, "files committed, by table"),
    (COMMIT_RACES, "commits whose number somebody else took first"),
    (COMMIT_RETRIES, "commits that were put again because the store did not answer"),
    (COMMITS_FENCED, "commits refused because somebody else has claimed what they wrote for"),
    (CHECKPOINTS, "checkpoints of a table's log"),
    (COMPACTED_FILES, "small files that compaction merged into larger ones, by table"),
];

/// Gives every metric its help text, and those without a table their zero.
pub(crate) fn describe() {
    for (name, text) in ALL {
        if name.ends_with("_total") { describe_counter!(name, text) } else { describe_histogram!(name, text) }
    }
    counter!(COMMIT_RACES).increment(0);
    counter!(COMMIT_RETRIES).increment(0);
    counter!(COMMITS_FENCED).increment(0);
}

pub(crate) fn committed(table: TableName, rows: u64, files: &[Add], took: Duration) {
    let table = table.as_str();
    histogram!(COMMIT_SECONDS, "table" => table).record(took.as_secs_f64());
    counter!(ROWS, "table" => table).increment(rows);
    counter!(BYTES, "table" => table).increment(files.iter().map(|file| file.size.max(0) as u64).sum());
    counter!(FILES, "table" => table).increment(files.len() as u64);
}

pub(crate) fn compacted(table: TableName, report: &CompactReport) {
    counter!(COMPACTED_FILES, "table" => table.as_str()).increment(report.files_merged as u64);
}
