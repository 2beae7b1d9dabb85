use std::time::Duration;

use flywheel_events::System;
use serde::{Deserialize, Serialize};

/// Bounds of the doors.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngestConfig {
    /// Systems whose events are taken; those of others are refused by name, because nobody would land them.
    pub systems: Vec<System>,
    /// Partitions of a topic that is not there yet; of one that is, its own count holds.
    pub partitions: u32,
    /// Longest body as sent.
    pub body_bytes: usize,
    /// Longest body after gzip or zstd was undone.
    pub inflated_bytes: usize,
    /// Events of one request, or of one WebSocket frame.
    pub events_max: usize,
    /// Bytes of all requests and frames that are being read, checked or appended; beyond it, 429.
    pub in_flight_bytes: usize,
    /// A body must be complete within this time of its head, in milliseconds.
    pub body_ms: u64,
    /// Longest wait for the log, in milliseconds; beyond it, 503.
    pub append_ms: u64,
    /// What `Retry-After` says, in seconds.
    pub retry_after_s: u64,
    /// Games whose last `seq` is remembered; twice as many at times.
    pub games: usize,
    /// Producers on a WebSocket at once.
    pub sockets: usize,
    /// Longest WebSocket frame.
    pub frame_bytes: usize,
    /// A silent socket is asked for a sign of life after this time, and closed after twice as long, in milliseconds.
    pub ping_ms: u64,
    /// An event whose `ts_ms` is further ahead of this machine's clock is refused, in milliseconds.
    pub max_ahead_ms: u64,
    /// Check the payload of kinds whose fields are known; other kinds are always taken as they are.
    pub check_payloads: bool,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            systems: System::ALL.to_vec(),
            partitions: 2,
            body_bytes: 8 << 20,
            inflated_bytes: 32 << 20,
            events_max: 50_000,
            in_flight_bytes: 128 << 20,
            body_ms: 30_000,
            append_ms: 10_000,
            retry_after_s: 1,
            games: 100_000,
            sockets: 256,
            frame_bytes: 4 << 20,
            ping_ms: 20_000,
            max_ahead_ms: 86_400_000,
            check_payloads: true,
        }
    }
}

impl IngestConfig {
    pub(crate) fn body_wait(&self) -> Duration {
        Duration::from_millis(self.body_ms)
    }

    pub(crate) fn append_wait(&self) -> Duration {
        Duration::from_millis(self.append_ms)
    }

    pub(crate) fn ping(&self) -> Duration {
        Duration::from_millis(self.ping_ms.max(1))
    }
}
