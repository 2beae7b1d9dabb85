//! Every number that this crate exports.

pub const ROUNDS: &str = "flywheel_maintain_rounds_total";
pub const FAILURES: &str = "flywheel_maintain_failures_total";
pub const ARCHIVED_ROWS: &str = "flywheel_maintain_archived_rows_total";
pub const ARCHIVED_BYTES: &str = "flywheel_maintain_archived_bytes_total";
pub const RESTORED_ROWS: &str = "flywheel_maintain_restored_rows_total";
pub const ARCHIVED_RECORDS: &str = "flywheel_maintain_archived_records_total";

/// Every metric with its description; a dashboard may query nothing else.
pub const ALL: [(&str, &str); 6] = [
    (ROUNDS, "rounds of compaction over all tables"),
    (FAILURES, "tables or partitions whose compaction, vacuum, archiving or trim failed in a round"),
    (ARCHIVED_ROWS, "rows of `events` that were moved to the archive"),
    (ARCHIVED_BYTES, "bytes of their files"),
    (RESTORED_ROWS, "rows that were brought back from the archive"),
    (ARCHIVED_RECORDS, "records of the log that were put into the archive before they were trimmed"),
];

/// Gives every metric its help text and its zero.
pub(crate) fn describe() {
    for (name, text) in ALL {
        metrics::describe_counter!(name, text);
        metrics::counter!(name).increment(0);
    }
}
