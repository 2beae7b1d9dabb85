//! Every number that this crate exports.

pub const ROUNDS: &str = "flywheel_maintain_rounds_total";
pub const FAILURES: &str = "flywheel_maintain_failures_total";

/// Every metric with its description; a dashboard may query nothing else.
pub const ALL: [(&str, &str); 2] = [
    (ROUNDS, "rounds of compaction over all tables"),
    (FAILURES, "tables or partitions whose compaction, vacuum or trim failed in a round"),
];

/// Gives every metric its help text and its zero.
pub(crate) fn describe() {
    for (name, text) in ALL {
        metrics::describe_counter!(name, text);
        metrics::counter!(name).increment(0);
    }
}
