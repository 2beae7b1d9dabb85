//! What goes through a [`Metered`](crate::Metered) log.

use metrics::{describe_counter, describe_histogram};

pub(crate) const APPENDED_RECORDS: &str = "flywheel_log_appended_records_total";
pub(crate) const APPENDED_BYTES: &str = "flywheel_log_appended_bytes_total";
pub(crate) const APPEND_SECONDS: &str = "flywheel_log_append_seconds";
pub(crate) const READ_RECORDS: &str = "flywheel_log_read_records_total";
pub(crate) const READ_BYTES: &str = "flywheel_log_read_bytes_total";
pub(crate) const ERRORS: &str = "flywheel_log_errors_total";

/// Gives every metric of this crate its help text.
pub fn describe() {
    describe_counter!(APPENDED_RECORDS, "records that the log has acknowledged");
    describe_counter!(APPENDED_BYTES, "bytes of keys and values that the log has acknowledged");
    describe_histogram!(APPEND_SECONDS, "time from an append to its acknowledgement");
    describe_counter!(READ_RECORDS, "records that readers were given");
    describe_counter!(READ_BYTES, "bytes of keys and values that readers were given");
    describe_counter!(ERRORS, "calls of the log that failed, by operation and kind");
}
