//! What servers count on the way to the log.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

pub(crate) const EVENTS: &str = "flywheel_emit_events_total";
pub(crate) const ACKNOWLEDGED: &str = "flywheel_emit_acknowledged_total";
pub(crate) const SPILLED: &str = "flywheel_emit_spilled_total";
pub(crate) const LOST: &str = "flywheel_emit_lost_total";
pub(crate) const RETRIES: &str = "flywheel_emit_retries_total";
pub(crate) const QUEUE_BYTES: &str = "flywheel_emit_queue_bytes";
pub(crate) const ACK_SECONDS: &str = "flywheel_emit_ack_seconds";

/// Gives every metric of this crate its help text and its zero.
pub fn describe() {
    describe_counter!(EVENTS, "events handed to the emitter");
    describe_counter!(ACKNOWLEDGED, "events that the log has acknowledged");
    describe_counter!(SPILLED, "events that went to the spill file because the log was away or slow");
    describe_counter!(LOST, "events that neither log nor spill file could take");
    describe_counter!(RETRIES, "appends that failed and were tried again");
    describe_gauge!(QUEUE_BYTES, "bytes of events in memory that wait for the log");
    describe_histogram!(ACK_SECONDS, "time from an event's emission to its acknowledgement by the log");
    for name in [EVENTS, ACKNOWLEDGED, SPILLED, LOST, RETRIES] {
        counter!(name).increment(0);
    }
    gauge!(QUEUE_BYTES).increment(0.0);
    drop(histogram!(ACK_SECONDS));
}
