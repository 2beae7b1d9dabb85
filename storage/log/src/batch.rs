//! Bounds of one append and one read, the same for every backend.

use crate::{LogError, LogErrorKind, ReadLimit, Record, StoredRecord, TopicPartition};

/// Largest batch of one append: bytes of keys and values, and [`RECORD_OVERHEAD`] for each record.
pub const MAX_BATCH_BYTES: usize = 64 << 20;
/// What a record costs beside its bytes, so that very many very small ones are bounded too.
pub const RECORD_OVERHEAD: usize = 8;

/// What a batch counts as, in memory and against [`MAX_BATCH_BYTES`].
pub fn batch_bytes(records: &[Record]) -> usize {
    records.iter().map(|record| RECORD_OVERHEAD + record.key.len() + record.value.len()).sum()
}

/// # Errors
/// `InvalidData` if the batch is empty or larger than [`MAX_BATCH_BYTES`].
pub fn check_batch(to: &TopicPartition, records: &[Record]) -> Result<(), LogError> {
    let bytes = batch_bytes(records);
    let refuse = |why: String| Err(LogError::new(LogErrorKind::InvalidData, "appending", to, why));
    if records.is_empty() {
        return refuse("the batch is empty".to_owned());
    }
    if bytes > MAX_BATCH_BYTES {
        return refuse(format!("the batch is {bytes} bytes large; at most {MAX_BATCH_BYTES} are allowed"));
    }
    Ok(())
}

/// The longest run of `records` within `limit`, and at least one record if there is any.
pub fn take_within(records: impl Iterator<Item = StoredRecord>, limit: ReadLimit) -> Vec<StoredRecord> {
    let (mut taken, mut bytes) = (Vec::new(), 0);
    for record in records.take(limit.max_records.max(1)) {
        bytes += record.key.len() + record.value.len();
        if bytes > limit.max_bytes && !taken.is_empty() {
            break;
        }
        taken.push(record);
    }
    taken
}
