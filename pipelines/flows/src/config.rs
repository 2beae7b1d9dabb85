use std::time::Duration;

use flywheel_log::Topic;
use flywheel_tables::{DecodeView, EventView};

/// How [`crate::Land`] runs.
#[derive(Debug, Clone)]
pub struct LandConfig {
    pub topic: Topic,
    pub partitions: u32,
    /// A commit happens this long after its first record was read, or earlier when the batch is full.
    pub linger: Duration,
    pub max_batch_rows: usize,
    /// What is read and not committed takes about so much at most: half of it is gathered while the other half is
    /// committed.
    pub max_batch_bytes: usize,
    /// At most this much is read from a partition at once; two such chunks wait for each partition.
    pub read_bytes: usize,
    /// Repeats of events of a game are recognised while the game had an event within this time of the log.
    pub dedupe_window: Duration,
    /// At most this many recent games are remembered for each partition; the longest quiet are forgotten first.
    pub max_games: usize,
    /// First pause after a failure of the store; doubles up to `retry_max`.
    pub retry_min: Duration,
    pub retry_max: Duration,
    /// How records are read; what it refuses is a dead letter.
    pub decode: DecodeView,
}

impl LandConfig {
    /// The values that we run in production.
    pub fn new(topic: Topic, partitions: u32) -> Self {
        Self {
            topic,
            partitions,
            linger: Duration::from_millis(500),
            max_batch_rows: 50_000,
            max_batch_bytes: 32 << 20,
            read_bytes: 1 << 20,
            dedupe_window: Duration::from_secs(3600),
            max_games: 200_000,
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(5),
            decode: |bytes| EventView::decode(bytes),
        }
    }
}

/// How [`crate::Assemble`] runs. The times are times of the log (`ingest_ms`), so that the same log gives the same
/// rows however fast it is read.
#[derive(Debug, Clone)]
pub struct AssembleConfig {
    pub topic: Topic,
    pub partitions: u32,
    /// A commit happens this long after a game closed, or earlier when the batch is full.
    pub linger: Duration,
    pub max_batch_rows: usize,
    pub read_bytes: usize,
    /// Positions are committed at least this often while records are read, even when no game closes.
    pub position_interval: Duration,
    /// After the event that ends a game, its events are taken for this long: the last transitions come from
    /// another program than the end.
    pub end_grace: Duration,
    /// A gap in `seq` that stays open for so long makes the game incomplete.
    pub gap_timeout: Duration,
    /// A game without events for so long is abandoned.
    pub idle_timeout: Duration,
    /// Records of games that closed within this time are known to be late, and dropped.
    pub closed_window: Duration,
    /// Transitions of open games kept in memory for each partition. Beyond it, the largest game is closed as
    /// incomplete.
    pub max_open_rows: usize,
    /// Bytes of events held back behind a gap, for each game; beyond it the gap counts as lost.
    pub max_held_bytes: usize,
    pub retry_min: Duration,
    pub retry_max: Duration,
}

impl AssembleConfig {
    /// The values that we run in production.
    pub fn new(topic: Topic, partitions: u32) -> Self {
        Self {
            topic,
            partitions,
            linger: Duration::from_secs(1),
            max_batch_rows: 20_000,
            read_bytes: 1 << 20,
            position_interval: Duration::from_secs(10),
            end_grace: Duration::from_secs(2),
            gap_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(600),
            closed_window: Duration::from_secs(3600),
            max_open_rows: 100_000,
            max_held_bytes: 8 << 20,
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(5),
        }
    }
}
