//! One batch as kept: checksum, time, and the records one after the other.
//!
//! `crc32c: u32 · ingest_ms: i64 · count: u32 · (key_len: u32 · value_len: u32 · key · value)*`, little-endian; the
//! checksum covers all that follows it. Offsets are not kept: the batch's last one is its key in the file.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flywheel_log::{LogError, LogErrorKind, Offset, Record, StoredRecord, TopicPartition};

pub fn encode(records: &[Record], ingest_ms: i64) -> Bytes {
    let size: usize = records.iter().map(|r| 8 + r.key.len() + r.value.len()).sum();
    let mut out = BytesMut::with_capacity(16 + size);
    out.put_u32_le(0);
    out.put_i64_le(ingest_ms);
    out.put_u32_le(records.len() as u32);
    for Record { key, value } in records {
        out.put_u32_le(key.len() as u32);
        out.put_u32_le(value.len() as u32);
        out.put_slice(key);
        out.put_slice(value);
    }
    let checksum = crc32c::crc32c(&out[4..]);
    out[..4].copy_from_slice(&checksum.to_le_bytes());
    out.freeze()
}

/// The records of a batch whose last offset is `last`.
///
/// # Errors
/// `Corrupt`, with partition and offset, if the checksum or a length does not fit.
pub fn decode(of: &TopicPartition, last: u64, mut batch: Bytes) -> Result<Vec<StoredRecord>, LogError> {
    let damaged = |why: &str| {
        LogError::new(
            LogErrorKind::Corrupt,
            "reading",
            format!("{of}@{last}"),
            format!("the stored batch is damaged: {why}"),
        )
    };
    if batch.len() < 16 {
        return Err(damaged("it is too short"));
    }
    let checksum = batch.get_u32_le();
    if crc32c::crc32c(&batch) != checksum {
        return Err(damaged("its checksum does not fit"));
    }
    let (ingest_ms, count) = (batch.get_i64_le(), u64::from(batch.get_u32_le()));
    let first = (last + 1).checked_sub(count).ok_or_else(|| damaged("it has more records than offsets"))?;
    (first..=last)
        .map(|offset| {
            if batch.len() < 8 {
                return Err(damaged("a record is cut"));
            }
            let (key, value) = (batch.get_u32_le() as usize, batch.get_u32_le() as usize);
            if batch.len() < key + value {
                return Err(damaged("a record is cut"));
            }
            let (key, value) = (batch.split_to(key), batch.split_to(value));
            Ok(StoredRecord { offset: Offset::from_raw(offset), ingest_ms, key, value })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flywheel_log::Topic;

    #[test]
    fn every_flipped_bit_is_detected() {
        let lane = Topic::new("t").partition(0);
        let records = vec![Record::new("key", "value"), Record::new("", "x")];
        let good = encode(&records, 42);
        assert_eq!(decode(&lane, 11, good.clone()).unwrap()[0].offset, Offset::from_raw(10));
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            let error = decode(&lane, 11, bad.into()).unwrap_err();
            assert_eq!(error.kind(), LogErrorKind::Corrupt);
            assert!(error.to_string().contains("t/0@11"), "{error}");
        }
        for n in 0..good.len() {
            assert!(decode(&lane, 11, good.slice(..n)).is_err());
        }
    }
}
