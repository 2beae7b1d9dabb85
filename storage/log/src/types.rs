use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A named stream of records, such as `fw.tank.events`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Topic(Arc<str>);

impl TryFrom<String> for Topic {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        if Self::is_name(&name) { Ok(Self(name.into())) } else { Err(format!("`{name}` is not a topic name")) }
    }
}

impl From<Topic> for String {
    fn from(topic: Topic) -> Self {
        topic.0.as_ref().to_owned()
    }
}

impl Topic {
    /// # Panics
    /// If the name is empty, longer than 128 bytes, or has a character other than ASCII letters, digits, `-_.`.
    pub fn new(name: impl AsRef<str>) -> Self {
        let name = name.as_ref();
        assert!(Self::is_name(name), "`{name}` is not a topic name");
        Self(name.into())
    }

    fn is_name(name: &str) -> bool {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        !name.is_empty() && name.len() <= 128 && name.bytes().all(fits)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn partition(&self, partition: u32) -> TopicPartition {
        TopicPartition { topic: self.clone(), partition }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    pub topic: Topic,
    pub partition: u32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Where a record lies in its partition. Ordered, opaque, may have gaps; at most `i64::MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Offset(u64);

impl TryFrom<u64> for Offset {
    type Error = String;

    fn try_from(raw: u64) -> Result<Self, String> {
        if i64::try_from(raw).is_ok() { Ok(Self(raw)) } else { Err(format!("offset {raw} does not fit an i64")) }
    }
}

impl From<Offset> for u64 {
    fn from(offset: Offset) -> Self {
        offset.0
    }
}

impl Offset {
    /// For backends and for positions read back from a table.
    ///
    /// # Panics
    /// If `raw` does not fit a non-negative `i64`.
    pub fn from_raw(raw: u64) -> Self {
        Self::try_from(raw).expect("an offset fits an i64")
    }

    pub fn raw(self) -> u64 {
        self.0
    }

    pub fn as_i64(self) -> i64 {
        self.0 as i64
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Before everything that is kept, or after an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Position {
    Start,
    After(Offset),
}

/// What a producer hands over. `key` is the game id; it decides the partition and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub key: Bytes,
    pub value: Bytes,
}

impl Record {
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { key: key.into(), value: value.into() }
    }
}

/// A record as kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    pub offset: Offset,
    /// When it was appended, by the log's clock, milliseconds since 1970-01-01 UTC. Never falls within a partition.
    pub ingest_ms: i64,
    pub key: Bytes,
    pub value: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimit {
    pub max_records: usize,
    pub max_bytes: usize,
    pub max_wait: Duration,
}

impl Default for ReadLimit {
    fn default() -> Self {
        Self { max_records: 10_000, max_bytes: 8 << 20, max_wait: Duration::ZERO }
    }
}

impl ReadLimit {
    pub fn waiting(max_wait: Duration) -> Self {
        Self { max_wait, ..Self::default() }
    }
}

/// What a partition still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    pub first: Option<Offset>,
    pub last: Option<Offset>,
    /// Records up to here were trimmed.
    pub trimmed: Option<Offset>,
}

/// What an acknowledged append survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// A crash of the producer, nothing more.
    Memory,
    /// Loss of power on this machine.
    Fsynced,
    /// Loss of a machine.
    Replicated,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Fsynced => "fsynced",
            Self::Replicated => "replicated",
        })
    }
}

/// The partition of a key: 64-bit FNV-1a of its bytes modulo `partitions`. Part of the stored format.
///
/// # Panics
/// If `partitions` is zero.
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    let hash = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    (hash % u64::from(partitions)) as u32
}
