//! What the producers were promised.

use flywheel_log::Durability;

/// One game, as its producer sent it.
#[derive(Debug, Clone, Default)]
pub struct Game {
    pub number: u64,
    /// Sequence numbers handed out; none from here on was ever sent.
    pub sent: u64,
    /// Acknowledged ones, in the order in which they were first sent. One was acknowledged before the next request that
    /// names the game was sent, so this is the order of their records, too.
    pub acknowledged: Vec<Promise>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    pub seq: u32,
    pub durability: Durability,
}

/// What one producer did.
#[derive(Debug, Clone, Default)]
pub struct Book {
    pub games: Vec<Game>,
    pub tally: Tally,
    /// Events that were sent and, at the end, not acknowledged.
    pub unanswered: u64,
    /// Answers that no producer of valid events may get.
    pub complaints: Vec<String>,
}

/// Counts of all that was done on purpose, and of what came back.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Tally {
    pub requests: u64,
    /// Sent again for want of an answer.
    pub retries: u64,
    /// Requests that their producer gave up in the middle, and sent again.
    pub dropped: u64,
    /// Events sent again after they had been acknowledged.
    pub duplicates: u64,
    /// Batches that were overtaken by the next one of the same games.
    pub swapped: u64,
    /// Batches whose events were shuffled.
    pub shuffled: u64,
    /// Answers with 429 or 503.
    pub refused: u64,
    /// Batches that were acknowledged from the spool of the doors.
    pub spooled: u64,
    /// Events that the door knew already.
    pub repeated: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.retries += other.retries;
        self.dropped += other.dropped;
        self.duplicates += other.duplicates;
        self.swapped += other.swapped;
        self.shuffled += other.shuffled;
        self.refused += other.refused;
        self.spooled += other.spooled;
        self.repeated += other.repeated;
    }
}
