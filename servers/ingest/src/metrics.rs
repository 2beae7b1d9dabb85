//! What the doors count.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

pub(crate) const EVENTS: &str = "flywheel_ingest_events_total";
pub(crate) const REFUSED: &str = "flywheel_ingest_refused_total";
pub(crate) const GAPS: &str = "flywheel_ingest_gaps_total";
pub(crate) const CLOCK_JUMPS: &str = "flywheel_ingest_clock_jumps_total";
pub(crate) const SPOOLED: &str = "flywheel_ingest_spooled_total";
pub(crate) const DRAINED: &str = "flywheel_ingest_drained_total";
pub(crate) const SPOOL_BYTES: &str = "flywheel_ingest_spool_bytes";
pub(crate) const ACK_SECONDS: &str = "flywheel_ingest_ack_seconds";
pub(crate) const IN_FLIGHT: &str = "flywheel_ingest_in_flight_bytes";
pub(crate) const SOCKETS: &str = "flywheel_ingest_sockets";

/// Gives every metric of this crate its help text, and those that can be zero their zero: a rate has a beginning then.
pub fn describe() {
    describe_counter!(EVENTS, "events acknowledged, by door and by whether they were new or repeats");
    describe_counter!(REFUSED, "requests and frames refused, by reason");
    describe_counter!(GAPS, "gaps in the seq of a game, seen when the event behind the gap was accepted");
    describe_counter!(
        CLOCK_JUMPS,
        "events accepted whose ts_ms is over an hour off the event before them in their game"
    );
    describe_counter!(SPOOLED, "events acknowledged from the spool of the doors, because the log was away");
    describe_counter!(DRAINED, "events that went from the spool of the doors into the log");
    describe_gauge!(SPOOL_BYTES, "bytes in the spool of the doors that wait for the log");
    describe_histogram!(ACK_SECONDS, "time from the last byte of a request or frame to its acknowledgement");
    describe_gauge!(IN_FLIGHT, "bytes of requests and frames that are not yet answered");
    describe_gauge!(SOCKETS, "producers on a WebSocket");
    for door in ["http", "ws"] {
        for result in ["accepted", "repeated"] {
            counter!(EVENTS, "door" => door, "result" => result).increment(0);
        }
    }
    for name in [GAPS, CLOCK_JUMPS, SPOOLED, DRAINED] {
        counter!(name).increment(0);
    }
    drop(histogram!(ACK_SECONDS));
    gauge!(IN_FLIGHT).increment(0.0);
    gauge!(SPOOL_BYTES).increment(0.0);
    gauge!(SOCKETS).increment(0.0);
}
