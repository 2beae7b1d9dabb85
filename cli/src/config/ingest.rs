//! The doors for events of games that are not ours.

use std::time::Duration;

use flywheel_events::System;
use flywheel_ingest::{IngestConfig, KeyRule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// The doors for events (`POST /v1/events`, the WebSocket beside it): what they take and how long they wait.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IngestSettings {
    /// Longest body as sent, in bytes; beyond it, 413.
    #[schemars(range(min = 1024))]
    pub body_bytes: usize,
    /// Longest body after gzip or zstd was undone, in bytes; beyond it, 413.
    #[schemars(range(min = 1024))]
    pub inflated_bytes: usize,
    /// Most events of one request, or of one WebSocket frame.
    #[schemars(range(min = 1))]
    pub events_max: usize,
    /// Bytes of all requests and frames that are worked on at once; beyond it, 429.
    #[schemars(range(min = 1024))]
    pub in_flight_bytes: usize,
    /// A body must be complete within this time of its head; beyond it, 408.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "schema::span")]
    pub body_wait: Duration,
    /// Longest wait for the log; beyond it the events go to the spool, or, without one, 503 `log_slow`, and whether they
    /// are in the log is not known.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "schema::span")]
    pub append_wait: Duration,
    /// Largest spool, in bytes: events that come while the log is away are kept in the data folder, synced before they
    /// are acknowledged, and appended in their order once it is back; beyond it, 503. With 0, 503 at once.
    pub spool_bytes: u64,
    /// Producers on a WebSocket at once.
    pub sockets: usize,
    /// Longest WebSocket frame, in bytes.
    #[schemars(range(min = 1024))]
    pub frame_bytes: usize,
    /// `optional`: without a key events are taken of games that are under no key's prefix; `required`: none are. Keys are
    /// made by `flywheel key create`.
    #[schemars(regex(pattern = "^(optional|required)$"))]
    pub keys: String,
    /// An event whose `ts_ms` is further ahead of this machine's clock than this is refused (400 `bad_time`); the past is
    /// always taken.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "schema::span")]
    pub max_ahead: Duration,
    /// Check the payload of kinds whose fields are known; other kinds are always taken as they are.
    pub check_payloads: bool,
}

impl Default for IngestSettings {
    fn default() -> Self {
        let doors = IngestConfig::default();
        Self {
            body_bytes: doors.body_bytes,
            inflated_bytes: doors.inflated_bytes,
            events_max: doors.events_max,
            in_flight_bytes: doors.in_flight_bytes,
            body_wait: Duration::from_millis(doors.body_ms),
            append_wait: Duration::from_millis(doors.append_ms),
            spool_bytes: 1 << 30,
            sockets: doors.sockets,
            frame_bytes: doors.frame_bytes,
            keys: "optional".to_owned(),
            max_ahead: Duration::from_millis(doors.max_ahead_ms),
            check_payloads: doors.check_payloads,
        }
    }
}

impl IngestSettings {
    /// Whether a program must have a key.
    pub fn key_rule(&self) -> KeyRule {
        if self.keys == "required" { KeyRule::Required } else { KeyRule::Optional }
    }

    /// What does not fit, each with its name and value.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, value, least) in [
            ("body_bytes", self.body_bytes, 1024),
            ("inflated_bytes", self.inflated_bytes, 1024),
            ("events_max", self.events_max, 1),
            ("in_flight_bytes", self.in_flight_bytes, 1024),
            ("frame_bytes", self.frame_bytes, 1024),
        ] {
            if value < least {
                problems.push(format!("ingest.{name} is {value}; it must be {least} or more"));
            }
        }
        let waits = Duration::from_millis(100)..=Duration::from_secs(3600);
        for (name, value) in [("body_wait", self.body_wait), ("append_wait", self.append_wait)] {
            if !waits.contains(&value) {
                problems.push(format!("ingest.{name} is {value:?}; it must lie in 100ms..=1h"));
            }
        }
        if self.max_ahead < Duration::from_secs(1) {
            problems.push(format!("ingest.max_ahead is {:?}; it must be 1s or more", self.max_ahead));
        }
        if !matches!(self.keys.as_str(), "optional" | "required") {
            problems.push(format!("ingest.keys is `{}`; it is `optional` or `required`", self.keys));
        }
        // Else the largest request that is allowed could never be taken.
        let largest = self.body_bytes.max(self.frame_bytes).max(self.inflated_bytes);
        if self.in_flight_bytes < largest {
            problems.push(format!(
                "ingest.in_flight_bytes is {}; one request or frame may have {largest}, so it must be that or more",
                self.in_flight_bytes
            ));
        }
        problems
    }

    /// The doors of a loop that lands `systems` from topics of `partitions`.
    pub fn doors(&self, systems: Vec<System>, partitions: u32) -> IngestConfig {
        let ms = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        IngestConfig {
            systems,
            partitions,
            body_bytes: self.body_bytes,
            inflated_bytes: self.inflated_bytes,
            events_max: self.events_max,
            in_flight_bytes: self.in_flight_bytes,
            body_ms: ms(self.body_wait),
            append_ms: ms(self.append_wait),
            sockets: self.sockets,
            frame_bytes: self.frame_bytes,
            max_ahead_ms: ms(self.max_ahead),
            check_payloads: self.check_payloads,
            ..IngestConfig::default()
        }
    }
}
