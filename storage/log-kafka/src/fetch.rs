//! A few consumers that read where they are told to: for all that lies behind the newest records.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use flywheel_log::{LogError, LogErrorKind, Offset, ReadLimit, StoredRecord};
use parking_lot::Mutex;
use rdkafka::{
    Message, Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::BorrowedMessage,
};
use tokio::sync::Semaphore;

use crate::{
    client::{Context, Errors, reader},
    lane::Lane,
};

/// Reads that go on at once.
const FETCHERS: usize = 4;
/// A fetcher that goes on where it was and hears nothing for this long asks anew.
const QUIET: Duration = Duration::from_millis(250);

pub(crate) struct Fetchers {
    idle: Mutex<Vec<Fetcher>>,
    permits: Arc<Semaphore>,
    errors: Errors,
}

impl fmt::Debug for Fetchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetchers").field("idle", &self.idle.lock().len()).finish_non_exhaustive()
    }
}

struct Fetcher {
    consumer: BaseConsumer<Context>,
    /// The partition it reads, and the offset it gives next.
    at: Option<(Arc<str>, i32, i64)>,
    /// Read, but too large for the last answer.
    carry: Option<StoredRecord>,
}

/// A message as the log knows it, and where it lay.
pub(crate) fn stored<'a>(message: &'a BorrowedMessage<'_>) -> ((&'a str, i32), StoredRecord) {
    let record = StoredRecord {
        offset: Offset::from_raw(u64::try_from(message.offset()).unwrap_or_default()),
        ingest_ms: message.timestamp().to_millis().unwrap_or_default(),
        key: Bytes::copy_from_slice(message.key().unwrap_or_default()),
        value: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
    };
    ((message.topic(), message.partition()), record)
}

impl Fetchers {
    pub fn new(errors: Errors) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), permits: Arc::new(Semaphore::new(FETCHERS)), errors })
    }

    /// Records from `next` up to `end`, within `limit`; none if there are only marks of transactions.
    pub async fn fetch(
        self: &Arc<Self>,
        lane: &Arc<Lane>,
        next: i64,
        end: i64,
        limit: ReadLimit,
    ) -> Result<Vec<StoredRecord>, LogError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.expect("the semaphore is never closed");
        let (this, lane, of) = (Arc::clone(self), Arc::clone(lane), lane.of.clone());
        // Goes on to its end when the caller has gone: bounded by the timeout.
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut fetcher = this.take(&lane, next)?;
            let found = fetcher.read(&this.errors, &lane, next, end, limit);
            if found.is_err() {
                fetcher.leave();
            }
            this.idle.lock().push(fetcher);
            found
        })
        .await
        .map_err(|error| LogError::new(LogErrorKind::Internal, "reading", of, error))?
    }

    /// The fetcher that is there already, or a free one, or the one that was used longest ago.
    fn take(&self, lane: &Lane, next: i64) -> Result<Fetcher, LogError> {
        let mut idle = self.idle.lock();
        let place = Some((Arc::clone(&lane.name), lane.partition(), next));
        let fits = idle.iter().position(|fetcher| fetcher.at == place);
        if let Some(index) = fits.or_else(|| idle.iter().position(|fetcher| fetcher.at.is_none())) {
            return Ok(idle.remove(index));
        }
        if !idle.is_empty() && idle.len() > self.permits.available_permits() {
            return Ok(idle.remove(0));
        }
        drop(idle);
        let mut client = reader(&self.errors.config);
        // Short: one that moves elsewhere waits for the answer to its last request.
        client.set("fetch.wait.max.ms", "10").set("enable.partition.eof", "true");
        let consumer = client
            .create_with_context(Context(Arc::clone(&self.errors.health)))
            .map_err(|error| self.errors.error("setting up", "a reader", &error))?;
        Ok(Fetcher { consumer, at: None, carry: None })
    }
}

impl Fetcher {
    fn go_to(&mut self, errors: &Errors, lane: &Lane, next: i64) -> Result<(), LogError> {
        let mut place = TopicPartitionList::new();
        self.carry = None;
        place
            .add_partition_offset(&lane.name, lane.partition(), KafkaOffset::Offset(next))
            .and_then(|()| self.consumer.assign(&place))
            .map_err(|error| errors.error("reading", &lane.of, &error))?;
        self.at = Some((Arc::clone(&lane.name), lane.partition(), next));
        Ok(())
    }

    /// Stops asking the broker.
    fn leave(&mut self) {
        self.at = None;
        self.carry = None;
        if let Err(error) = self.consumer.unassign() {
            tracing::debug!(%error, "leaving a partition");
        }
    }

    fn read(
        &mut self,
        errors: &Errors,
        lane: &Lane,
        mut next: i64,
        end: i64,
        limit: ReadLimit,
    ) -> Result<Vec<StoredRecord>, LogError> {
        let until = Instant::now() + errors.config.timeout;
        let place = Some((Arc::clone(&lane.name), lane.partition(), next));
        // Whether all that this consumer says was asked for now.
        let mut fresh = self.at != place;
        if fresh {
            self.go_to(errors, lane, next)?;
        }
        let (mut found, mut bytes) = (Vec::new(), 0);
        if let Some(record) = self.carry.take() {
            next = record.offset.as_i64() + 1;
            bytes = record.key.len() + record.value.len();
            found.push(record);
        }
        while next < end && found.len() < limit.max_records.max(1) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                if found.is_empty() {
                    return Err(errors.unavailable("reading", &lane.of, "the broker sent no records"));
                }
                break;
            }
            match self.consumer.poll(if fresh { left.min(Duration::from_secs(1)) } else { QUIET }) {
                Some(Ok(message)) => {
                    let ((name, partition), record) = stored(&message);
                    if (name, partition) != (&*lane.name, lane.partition()) || record.offset.as_i64() < next {
                        continue;
                    }
                    bytes += record.key.len() + record.value.len();
                    if bytes > limit.max_bytes && !found.is_empty() {
                        self.carry = Some(record);
                        break;
                    }
                    next = record.offset.as_i64() + 1;
                    found.push(record);
                }
                // The end of the partition, and it lies behind `end`: what was missing are marks of transactions.
                Some(Err(KafkaError::PartitionEOF(_))) if fresh => {
                    next = end;
                    break;
                }
                // An end that was reached some time ago, or silence: ask once more from here.
                Some(Err(KafkaError::PartitionEOF(_))) | None if !fresh => {
                    self.go_to(errors, lane, next)?;
                    fresh = true;
                }
                Some(Err(error)) if is_final(&error) => return Err(errors.error("reading", &lane.of, &error)),
                // librdkafka tries again by itself.
                Some(Err(_)) | None => {}
            }
        }
        if next >= end && self.carry.is_none() {
            // What comes from here on is the follower's.
            self.leave();
        } else {
            self.at = Some((Arc::clone(&lane.name), lane.partition(), next));
        }
        Ok(found)
    }
}

/// Errors that do not go away by waiting.
fn is_final(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::AutoOffsetReset
                | Code::OffsetOutOfRange
                | Code::UnknownTopicOrPartition
                | Code::UnknownTopic
                | Code::UnknownPartition
                | Code::TopicAuthorizationFailed
                | Code::InvalidMessage
                | Code::BadMessage
                | Code::BadCompression
        )
    )
}
