//! One batch as kept: checksum, time, and the records one after the other, compressed where that is worth it.
//!
//! `crc32c: u32 · ingest_ms: i64 · count: u32 · plain_len: u32 · body`, little-endian; the checksum covers all that
//! follows it. The body is `(key_len: u32 · value_len: u32 · key · value)*`, as a zstd frame of `plain_len` bytes or,
//! where `plain_len` is 0, as it is. Offsets are not kept: the batch's last one is its key in the file.
//!
//! Files that began with format 1 may hold batches without `plain_len`, whose body is as it is. Where that number stands
//! now, they have the length of the first key, and nothing behind it is a zstd frame: a length of four gigabytes.

use bytes::{Buf, BufMut, Bytes};
use flywheel_log::{LogError, LogErrorKind, Offset, Record, StoredRecord, TopicPartition};

const HEADER: usize = 20;
/// Of a batch without `plain_len`.
const OLD_HEADER: usize = 16;
/// Shorter bodies are kept plain: a frame would save little.
const PLAIN_BELOW: usize = 256;
/// More than any batch has that an append takes; a longer one is damage, not a reason to ask for memory.
const MAX_BODY: usize = 1 << 30;
/// Events of games become eight times smaller at the fastest level (`docs/adr/0010`).
const LEVEL: i32 = 1;

/// Encodes batches one after the other, with one set of compression tables.
pub struct Encoder(zstd::bulk::Compressor<'static>);

impl Encoder {
    pub fn new() -> Self {
        Self(zstd::bulk::Compressor::new(LEVEL).expect("the level is one of zstd's"))
    }

    pub fn encode(&mut self, records: &[Record], ingest_ms: i64) -> Bytes {
        let size: usize = records.iter().map(|r| 8 + r.key.len() + r.value.len()).sum();
        let mut body = Vec::with_capacity(size);
        for Record { key, value } in records {
            body.put_u32_le(key.len() as u32);
            body.put_u32_le(value.len() as u32);
            body.put_slice(key);
            body.put_slice(value);
        }
        // What cannot be compressed is kept plain, also if zstd should ever fail.
        let frame = (PLAIN_BELOW..=MAX_BODY).contains(&body.len()).then(|| self.0.compress(&body).ok()).flatten();
        let (plain_len, body) = match frame.filter(|frame| frame.len() < body.len()) {
            Some(frame) => (body.len() as u32, frame),
            None => (0, body),
        };
        let mut out = Vec::with_capacity(HEADER + body.len());
        out.put_u32_le(0);
        out.put_i64_le(ingest_ms);
        out.put_u32_le(records.len() as u32);
        out.put_u32_le(plain_len);
        out.put_slice(&body);
        let checksum = crc32c::crc32c(&out[4..]);
        out[..4].copy_from_slice(&checksum.to_le_bytes());
        out.into()
    }
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
    if batch.len() < OLD_HEADER {
        return Err(damaged("it is too short"));
    }
    let checksum = batch.get_u32_le();
    if crc32c::crc32c(&batch) != checksum {
        return Err(damaged("its checksum does not fit"));
    }
    let (ingest_ms, count) = (batch.get_i64_le(), u64::from(batch.get_u32_le()));
    let first = (last + 1).checked_sub(count).ok_or_else(|| damaged("it has more records than offsets"))?;
    let records = plain_body(batch.clone())
        .and_then(|body| records(body, count))
        .or_else(|why| records(batch, count).map_err(|_| why))
        .map_err(damaged)?;
    let stored = (first..).zip(records).map(|(offset, Record { key, value })| StoredRecord {
        offset: Offset::from_raw(offset),
        ingest_ms,
        key,
        value,
    });
    Ok(stored.collect())
}

/// The body that follows the number of records.
fn plain_body(mut batch: Bytes) -> Result<Bytes, &'static str> {
    if batch.len() < HEADER - OLD_HEADER {
        return Err("it is too short");
    }
    let plain_len = batch.get_u32_le() as usize;
    if plain_len > MAX_BODY {
        return Err("its length cannot be");
    }
    if plain_len == 0 {
        return Ok(batch);
    }
    let plain = zstd::bulk::decompress(&batch, plain_len).map_err(|_| "its body does not decompress")?;
    if plain.len() == plain_len { Ok(plain.into()) } else { Err("its length does not fit") }
}

/// `count` records, and nothing else.
fn records(mut body: Bytes, count: u64) -> Result<Vec<Record>, &'static str> {
    let mut records = Vec::new();
    for _ in 0..count {
        if body.len() < 8 {
            return Err("a record is cut");
        }
        let (key, value) = (body.get_u32_le() as usize, body.get_u32_le() as usize);
        if body.len() < key + value {
            return Err("a record is cut");
        }
        records.push(Record { key: body.split_to(key), value: body.split_to(value) });
    }
    if body.is_empty() { Ok(records) } else { Err("it is longer than its records") }
}

#[cfg(test)]
mod tests {
    use flywheel_log::Topic;

    use super::*;

    fn lane() -> TopicPartition {
        Topic::new("t").partition(0)
    }

    #[test]
    fn every_flipped_bit_is_detected() {
        let long = format!(r#"{{"tick":1,"tanks":[{}]}}"#, r#"{"x":1,"y":2},"#.repeat(40));
        let compressed = Encoder::new().encode(&[Record::new("key", long.clone()), Record::new("", "x")], 42);
        assert!(compressed.len() < long.len() / 3, "{} of {}", compressed.len(), long.len());
        let plain = Encoder::new().encode(&[Record::new("key", "value"), Record::new("", "x")], 42);
        for good in [plain, compressed] {
            assert_eq!(decode(&lane(), 11, good.clone()).unwrap()[0].offset, Offset::from_raw(10));
            for bit in 0..good.len() * 8 {
                let mut bad = good.to_vec();
                bad[bit / 8] ^= 1 << (bit % 8);
                let error = decode(&lane(), 11, bad.into()).unwrap_err();
                assert_eq!(error.kind(), LogErrorKind::Corrupt);
                assert!(error.to_string().contains("t/0@11"), "{error}");
            }
            for n in 0..good.len() {
                assert!(decode(&lane(), 11, good.slice(..n)).is_err());
            }
        }
    }

    #[test]
    fn batches_of_any_size_come_back_as_they_were() {
        let mut encoder = Encoder::new();
        let noise: Vec<u8> = (0..9000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for (records, size) in [(0, 0), (1, 0), (1, 300), (3, 3000), (200, 40), (2, 9000)] {
            let records: Vec<_> =
                (0..records).map(|n| Record::new(format!("{n}"), noise[n..][..size.min(8000)].to_vec())).collect();
            let back = decode(&lane(), 999, encoder.encode(&records, 7)).unwrap();
            let back: Vec<_> = back.into_iter().map(|r| (r.ingest_ms, Record::new(r.key, r.value))).collect();
            assert_eq!(back, records.into_iter().map(|r| (7, r)).collect::<Vec<_>>());
        }
    }

    fn golden(hex: &str) -> Bytes {
        let hex = hex.trim().as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        hex.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect::<Vec<_>>().into()
    }

    #[test]
    fn every_batch_ever_written_still_decodes_to_the_same() {
        let small: [(&str, &str); 3] = [("g-17", r#"{"v":1,"seq":0}"#), ("", ""), ("g-17", r#"{"v":1,"seq":1}"#)];
        let small = small.map(|(key, value)| Record::new(key, value));
        let pad = "x".repeat(200);
        let large = [0, 1, 2].map(|n| Record::new("g-17", format!(r#"{{"v":1,"seq":{n},"pad":"{pad}"}}"#)));
        for (hex, records) in [
            (include_str!("golden/batch-1.hex"), &small),
            (include_str!("golden/batch-2-plain.hex"), &small),
            (include_str!("golden/batch-2-zstd.hex"), &large),
        ] {
            let found = decode(&lane(), 11, golden(hex)).unwrap();
            assert_eq!(found.iter().map(|record| record.offset.raw()).collect::<Vec<_>>(), [9, 10, 11]);
            assert!(found.iter().all(|record| record.ingest_ms == 1_763_712_000_123));
            let found: Vec<_> = found.into_iter().map(|r| Record::new(r.key, r.value)).collect();
            assert_eq!(found, records);
        }
        // What is written now is what is written down: plain batches to the byte, frames as any zstd makes them.
        let now = Encoder::new().encode(&small, 1_763_712_000_123);
        assert_eq!(now, golden(include_str!("golden/batch-2-plain.hex")));
        let now = Encoder::new().encode(&large, 1_763_712_000_123);
        assert_eq!(now[12..24], golden(include_str!("golden/batch-2-zstd.hex"))[12..24]);
    }

    #[test]
    fn a_length_that_lies_is_damage_and_not_an_allocation() {
        let mut batch = Encoder::new().encode(&[Record::new("k", "v".repeat(1000))], 1).to_vec();
        for length in [u32::MAX, 5, 1_000_000] {
            batch[16..20].copy_from_slice(&length.to_le_bytes());
            let checksum = crc32c::crc32c(&batch[4..]);
            batch[..4].copy_from_slice(&checksum.to_le_bytes());
            assert_eq!(decode(&lane(), 3, batch.clone().into()).unwrap_err().kind(), LogErrorKind::Corrupt);
        }
    }
}
