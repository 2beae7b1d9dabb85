//! The stream's own archive: records of the log, byte for byte, put away before the log may lose them.
//!
//! One object is a *segment*: neighbouring records of one partition, as a zstd frame, named by its first and last offset and
//! by the SHA-256 of its bytes. A partition's *watermark* is the last offset of its newest segment. A segment begins where
//! the one before it ended, so everything up to the watermark that the log has ever lost since the archive was set up is
//! there.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use flywheel_archive::{ColdStore, Temper, keep, read, sha256, verify};
use flywheel_log::{EventLog, Offset, Position, ReadLimit, StoredRecord, Topic, TopicPartition};
use serde::Serialize;

use super::ArchivingError;

const ROOT: &str = "cold/stream/";
/// Begins the unpacked bytes of a segment.
const MAGIC: &[u8; 8] = b"FWSEG\x00\x00\x01";
/// A segment may not grow beyond this when it is unpacked.
const MAX_BYTES: usize = 512 << 20;

/// One object of the stream's archive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Segment {
    #[serde(skip)]
    pub of: TopicPartition,
    pub first: Offset,
    pub last: Offset,
    pub sha256: String,
}

/// How far the archive holds a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    pub watermark: Option<Offset>,
    pub records: u64,
    pub segments: u64,
}

impl Segment {
    fn folder(of: &TopicPartition) -> String {
        format!("{ROOT}{}/{}/", of.topic, of.partition)
    }

    pub fn object(&self) -> String {
        let (first, last) = (self.first.raw(), self.last.raw());
        format!("{}{first:020}-{last:020}-{}.zst", Self::folder(&self.of), self.sha256)
    }

    fn parse(of: &TopicPartition, object: &str) -> Option<Self> {
        let mut parts = object.strip_prefix(&Self::folder(of))?.strip_suffix(".zst")?.split('-');
        let mut offset = || Offset::try_from(parts.next()?.parse::<u64>().ok()?).ok();
        let (first, last) = (offset()?, offset()?);
        let sha256 = parts.next()?.to_owned();
        let whole = parts.next().is_none() && first <= last && sha256.len() == 64;
        whole.then_some(Self { of: of.clone(), first, last, sha256 })
    }
}

/// Keeps what leaves the log.
#[derive(Clone)]
pub struct StreamArchive {
    store: Arc<dyn ColdStore>,
    segment_bytes: usize,
    /// Of partitions that were looked at.
    watermarks: Arc<Mutex<HashMap<TopicPartition, Offset>>>,
}

impl fmt::Debug for StreamArchive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamArchive").field("place", &self.store.place()).finish_non_exhaustive()
    }
}

impl StreamArchive {
    /// A segment is closed once it holds about so many plain bytes.
    pub fn new(store: Arc<dyn ColdStore>, segment_bytes: usize) -> Self {
        crate::metrics::describe();
        Self { store, segment_bytes: segment_bytes.clamp(1, MAX_BYTES / 4), watermarks: Arc::default() }
    }

    /// Brings the archive at least to `up_to`, which the log must still hold. What is beyond the watermark in the answer must
    /// not be trimmed.
    ///
    /// # Errors
    /// If the log or the archive fails, and if the archive's segments are those of another log: nothing may be trimmed.
    pub async fn keep(
        &self,
        log: &Arc<dyn EventLog>,
        of: &TopicPartition,
        up_to: Offset,
    ) -> Result<Kept, ArchivingError> {
        let bounds = log.bounds(of).await?;
        let mut kept = Kept { watermark: self.watermark(of, bounds.trimmed).await?, records: 0, segments: 0 };
        if let (Some(watermark), Some(newest)) = (kept.watermark, bounds.last.max(bounds.trimmed))
            && watermark > newest
        {
            return Err(ArchivingError::Stream(format!(
                "the archive at {} holds {of} up to offset {watermark}, and the log has none beyond {newest}: it is the \
                 archive of another log; name another prefix with `archive.url`",
                self.store.place()
            )));
        }
        while kept.watermark.is_none_or(|watermark| watermark < up_to) {
            let from = kept.watermark.max(bounds.trimmed).map_or(Position::Start, Position::After);
            let records = self.read_log(log, of, from, up_to).await?;
            let (Some(first), Some(last)) = (records.first(), records.last()) else { break };
            let (first, last, n) = (first.offset, last.offset, records.len() as u64);
            let packed = tokio::task::spawn_blocking(move || pack(&records)).await;
            let packed = packed.map_err(|error| ArchivingError::Stream(format!("packing records of {of}: {error}")))?;
            let segment = Segment { of: of.clone(), first, last, sha256: sha256(&packed) };
            keep(&*self.store, &segment.object(), packed, Temper::Cold).await?;
            self.remember(of, last);
            kept = Kept { watermark: Some(last), records: kept.records + n, segments: kept.segments + 1 };
            metrics::counter!(crate::metrics::ARCHIVED_RECORDS).increment(n);
        }
        Ok(kept)
    }

    /// The segments of a partition, in order.
    ///
    /// # Errors
    /// If the archive cannot be listed.
    pub async fn segments(&self, of: &TopicPartition) -> Result<Vec<Segment>, ArchivingError> {
        let names = self.store.list(&Segment::folder(of)).await?;
        let mut segments: Vec<_> = names.iter().filter_map(|name| Segment::parse(of, name)).collect();
        segments.sort_unstable();
        Ok(segments)
    }

    /// The segments of every partition.
    ///
    /// # Errors
    /// As [`StreamArchive::segments`].
    pub async fn partitions(&self) -> Result<Vec<(TopicPartition, Vec<Segment>)>, ArchivingError> {
        let names = self.store.list(ROOT).await?;
        let mut found: BTreeMap<TopicPartition, Vec<Segment>> = BTreeMap::new();
        for name in names {
            let mut parts = name.strip_prefix(ROOT).unwrap_or_default().split('/');
            let of = parts.next().and_then(|topic| Topic::try_from(topic.to_owned()).ok());
            let number = parts.next().and_then(|number| number.parse().ok());
            if let (Some(topic), Some(number)) = (of, number)
                && let Some(segment) = Segment::parse(&topic.partition(number), &name)
            {
                found.entry(segment.of.clone()).or_default().push(segment);
            }
        }
        found.values_mut().for_each(|segments| segments.sort_unstable());
        Ok(found.into_iter().collect())
    }

    /// The records of a segment, as the log had them.
    ///
    /// # Errors
    /// `Frozen` of the archive if it has to be thawed first; `Unreadable` if it is damaged.
    pub async fn read(&self, segment: &Segment) -> Result<Vec<StoredRecord>, ArchivingError> {
        let object = segment.object();
        let packed = read(&*self.store, &object, &segment.sha256).await?;
        let unreadable = |why: String| ArchivingError::Unreadable { object: object.clone(), why };
        let plain = tokio::task::spawn_blocking(move || zstd::bulk::decompress(&packed, MAX_BYTES)).await;
        let plain = plain.map_err(|e| unreadable(e.to_string()))?.map_err(|e| unreadable(e.to_string()))?;
        unpack(plain.into()).ok_or_else(|| unreadable("it ends within a record, or is no segment".to_owned()))
    }

    /// The last offset that the archive holds. Segments beyond `trimmed` are looked at: what they hold is about to be
    /// trimmed on their word.
    async fn watermark(&self, of: &TopicPartition, trimmed: Option<Offset>) -> Result<Option<Offset>, ArchivingError> {
        if let Some(known) = self.watermarks.lock().expect("no panic while holding it").get(of) {
            return Ok(Some(*known));
        }
        let segments = self.segments(of).await?;
        for segment in segments.iter().filter(|segment| trimmed.is_none_or(|trimmed| segment.last > trimmed)) {
            verify(&*self.store, &segment.object(), None, &segment.sha256).await?;
        }
        let watermark = segments.iter().map(|segment| segment.last).max();
        if let Some(watermark) = watermark {
            self.remember(of, watermark);
        }
        Ok(watermark)
    }

    fn remember(&self, of: &TopicPartition, watermark: Offset) {
        self.watermarks.lock().expect("no panic while holding it").insert(of.clone(), watermark);
    }

    /// The next records up to `up_to`, about a segment of them.
    async fn read_log(
        &self,
        log: &Arc<dyn EventLog>,
        of: &TopicPartition,
        mut from: Position,
        up_to: Offset,
    ) -> Result<Vec<StoredRecord>, ArchivingError> {
        let (mut records, mut bytes): (Vec<StoredRecord>, usize) = (Vec::new(), 0);
        while bytes < self.segment_bytes {
            let limit = ReadLimit { max_bytes: self.segment_bytes.min(8 << 20), ..ReadLimit::default() };
            let next = log.read(of, from, limit).await?;
            let n_read = next.len();
            let wanted: Vec<_> = next.into_iter().take_while(|record| record.offset <= up_to).collect();
            let (Some(last), n_wanted) = (wanted.last(), wanted.len()) else { break };
            from = Position::After(last.offset);
            bytes += wanted.iter().map(|record| record.key.len() + record.value.len() + 24).sum::<usize>();
            records.extend(wanted);
            if n_wanted < n_read {
                break;
            }
        }
        Ok(records)
    }
}

/// `MAGIC`, then for each record: offset, time, lengths of key and value, key, value; little-endian, packed.
fn pack(records: &[StoredRecord]) -> Bytes {
    let len = records.iter().map(|record| record.key.len() + record.value.len() + 24).sum::<usize>();
    let mut plain = Vec::with_capacity(MAGIC.len() + len);
    plain.extend_from_slice(MAGIC);
    for StoredRecord { offset, ingest_ms, key, value } in records {
        plain.extend_from_slice(&offset.raw().to_le_bytes());
        plain.extend_from_slice(&ingest_ms.to_le_bytes());
        plain.extend_from_slice(&(key.len() as u32).to_le_bytes());
        plain.extend_from_slice(&(value.len() as u32).to_le_bytes());
        plain.extend_from_slice(key);
        plain.extend_from_slice(value);
    }
    zstd::bulk::compress(&plain, 3).expect("memory takes what it holds already, packed").into()
}

fn unpack(plain: Bytes) -> Option<Vec<StoredRecord>> {
    let mut rest = plain.strip_prefix(MAGIC).map(|rest| plain.slice_ref(rest))?;
    let mut records = Vec::new();
    while !rest.is_empty() {
        if rest.len() < 24 {
            return None;
        }
        let head = rest.split_to(24);
        let long = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let len = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes")) as usize;
        let (key_len, value_len) = (len(16), len(20));
        if rest.len() < key_len.checked_add(value_len)? {
            return None;
        }
        let (key, value) = (rest.split_to(key_len), rest.split_to(value_len));
        let offset = Offset::try_from(long(0)).ok()?;
        records.push(StoredRecord { offset, ingest_ms: long(8) as i64, key, value });
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use flywheel_log::Topic;

    use super::*;

    fn record(offset: u64, value: &'static [u8]) -> StoredRecord {
        StoredRecord { offset: Offset::from_raw(offset), ingest_ms: -7, key: "g".into(), value: value.into() }
    }

    #[test]
    fn a_segment_gives_back_its_records_and_no_cut_or_longer_one_does() {
        let records = [record(3, b"{}"), record(900, b""), record(901, &[0, 255, 10])];
        let plain = Bytes::from(zstd::bulk::decompress(&pack(&records), MAX_BYTES).unwrap());
        assert_eq!(unpack(plain.clone()).unwrap(), records);
        let ends: Vec<_> = (0..plain.len()).filter(|end| unpack(plain.slice(..*end)).is_some()).collect();
        // What ends with a record looks whole; the checksum in its name tells that it is not.
        assert_eq!(ends, [8, 8 + 24 + 3, 8 + 24 + 3 + 24 + 1]);
        assert_eq!(unpack(Bytes::from_static(b"something else")), None);
    }

    #[test]
    fn a_name_says_all_that_there_is_to_know() {
        let of = Topic::new("fw.tank.events").partition(3);
        let segment = Segment {
            of: of.clone(),
            first: Offset::from_raw(0),
            last: Offset::from_raw(i64::MAX as u64),
            sha256: "a".repeat(64),
        };
        assert_eq!(Segment::parse(&of, &segment.object()), Some(segment.clone()));
        assert_eq!(Segment::parse(&Topic::new("fw.tank.events").partition(30), &segment.object()), None);
        assert_eq!(Segment::parse(&of, "cold/stream/fw.tank.events/3/1-2.zst"), None);
    }
}
