//! What goes over the socket: frames of `len: u32` and a postcard message, answered by id in any order.

use std::{io, time::Duration};

use bytes::Bytes;
use flywheel_log::{
    Bounds, Durability, LogError, LogErrorKind, MAX_BATCH_BYTES, Offset, Position, ReadLimit, Record, StoredRecord,
    Topic, TopicPartition,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Both sides must say the same number first.
pub const PROTOCOL: u32 = 1;
/// Largest frame: a full batch with room for its framing.
const MAX_FRAME: usize = MAX_BATCH_BYTES + (8 << 20);

#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    Hello { protocol: u32 },
    CreateTopic { topic: Topic, partitions: u32 },
    Topics,
    Append { to: TopicPartition, records: Vec<(Bytes, Bytes)> },
    Read { from: TopicPartition, position: Position, limit: Limit },
    Bounds { of: TopicPartition },
    Trim { of: TopicPartition, up_to: Offset },
    Join { topic: Topic, group: String, member: String },
    Assigned { member: u64 },
    Poll { member: u64, limit: Limit },
    Commit { member: u64, of: TopicPartition, offset: Offset },
    Leave { member: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Hello { protocol: u32, durability: Durability },
    Done,
    Topics(Vec<(Topic, u32)>),
    Offset(Offset),
    Records(Vec<Stored>),
    Bounds { first: Option<Offset>, last: Option<Offset>, trimmed: Option<Offset> },
    Member(u64),
    Lanes(Vec<TopicPartition>),
    Polled(Vec<(TopicPartition, Stored)>),
    Failed { kind: Kind, message: String },
}

/// One message either way.
#[derive(Debug, Serialize, Deserialize)]
pub struct Frame<T> {
    pub id: u64,
    pub body: T,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Limit {
    max_records: u64,
    max_bytes: u64,
    max_wait: Duration,
}

impl Limit {
    pub fn waits(self) -> bool {
        !self.max_wait.is_zero()
    }

    pub fn max_wait(self) -> Duration {
        self.max_wait
    }

    pub fn waiting(self, max_wait: Duration) -> Self {
        Self { max_wait: max_wait.min(self.max_wait), ..self }
    }

    /// Enough to see whether there is anything.
    pub fn one(self) -> Self {
        Self { max_records: 1, ..self }
    }
}

impl From<ReadLimit> for Limit {
    fn from(limit: ReadLimit) -> Self {
        // An answer must fit a frame; a reader simply asks again.
        let max_bytes = limit.max_bytes.min(16 << 20) as u64;
        Self { max_records: limit.max_records.min(1 << 20) as u64, max_bytes, max_wait: limit.max_wait }
    }
}

impl From<Limit> for ReadLimit {
    fn from(limit: Limit) -> Self {
        Self {
            max_records: limit.max_records.min(1 << 20) as usize,
            max_bytes: limit.max_bytes.min(16 << 20) as usize,
            max_wait: limit.max_wait.min(Duration::from_secs(60)),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Stored {
    offset: Offset,
    ingest_ms: i64,
    key: Bytes,
    value: Bytes,
}

impl From<StoredRecord> for Stored {
    fn from(StoredRecord { offset, ingest_ms, key, value }: StoredRecord) -> Self {
        Self { offset, ingest_ms, key, value }
    }
}

impl From<Stored> for StoredRecord {
    fn from(Stored { offset, ingest_ms, key, value }: Stored) -> Self {
        Self { offset, ingest_ms, key, value }
    }
}

pub fn to_records(pairs: Vec<(Bytes, Bytes)>) -> Vec<Record> {
    pairs.into_iter().map(|(key, value)| Record { key, value }).collect()
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Kind {
    NotFound,
    Trimmed,
    Unavailable,
    Fenced,
    Conflict,
    InvalidData,
    Corrupt,
    Internal,
    Full,
}

impl From<LogErrorKind> for Kind {
    fn from(kind: LogErrorKind) -> Self {
        match kind {
            LogErrorKind::NotFound => Self::NotFound,
            LogErrorKind::Trimmed => Self::Trimmed,
            LogErrorKind::Unavailable => Self::Unavailable,
            LogErrorKind::Fenced => Self::Fenced,
            LogErrorKind::Conflict => Self::Conflict,
            LogErrorKind::InvalidData => Self::InvalidData,
            LogErrorKind::Corrupt => Self::Corrupt,
            LogErrorKind::Internal => Self::Internal,
            LogErrorKind::Full => Self::Full,
        }
    }
}

impl From<Kind> for LogErrorKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::NotFound => Self::NotFound,
            Kind::Trimmed => Self::Trimmed,
            Kind::Unavailable => Self::Unavailable,
            Kind::Fenced => Self::Fenced,
            Kind::Conflict => Self::Conflict,
            Kind::InvalidData => Self::InvalidData,
            Kind::Corrupt => Self::Corrupt,
            Kind::Internal => Self::Internal,
            Kind::Full => Self::Full,
        }
    }
}

impl From<LogError> for Answer {
    fn from(error: LogError) -> Self {
        Self::Failed { kind: error.kind().into(), message: error.to_string() }
    }
}

impl From<Bounds> for Answer {
    fn from(Bounds { first, last, trimmed }: Bounds) -> Self {
        Self::Bounds { first, last, trimmed }
    }
}

/// The frame as it goes over the socket.
///
/// # Errors
/// If the message does not encode or is larger than a frame may be.
pub fn encode<T: Serialize>(frame: &Frame<T>) -> io::Result<Vec<u8>> {
    let mut bytes = postcard::to_extend(frame, vec![0; 4]).map_err(io::Error::other)?;
    let length = bytes.len() - 4;
    if length > MAX_FRAME {
        return Err(too_large(length));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(bytes)
}

fn too_large(length: usize) -> io::Error {
    let why = format!("a frame of {length} bytes; at most {MAX_FRAME} are allowed");
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// # Errors
/// If the message does not encode or the socket is gone.
pub async fn write<T: Serialize>(socket: &mut (impl AsyncWrite + Unpin), frame: &Frame<T>) -> io::Result<()> {
    socket.write_all(&encode(frame)?).await
}

/// The next message; `None` at the end of the stream.
///
/// # Errors
/// If a frame is larger than allowed or does not decode.
pub async fn read<T: DeserializeOwned>(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame<T>>> {
    let mut length = [0; 4];
    match socket.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(too_large(length));
    }
    let mut body = Vec::with_capacity(length.min(1 << 20));
    let read = (&mut *socket).take(length as u64).read_to_end(&mut body).await?;
    if read != length {
        return Ok(None);
    }
    postcard::from_bytes(&body).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
