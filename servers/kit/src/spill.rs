//! The file that takes events while the log is away: frames of `len: u32 · crc32c: u32 · body`, in segments.
//!
//! Segments are drained by rising number and removed once all of theirs is in the log. A frame is handed to the
//! system in one write and is not synced: it survives the death of this process, not a loss of power. That is no
//! promise broken, since nothing in it was acknowledged.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use flywheel_log::Topic;
use serde::{Deserialize, Serialize};

/// A segment is closed when it is this large.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Segments written at the end of a process lie before those that it spilled: they hold what was older.
const FIRST: u64 = 1 << 40;
/// Largest frame that is believed.
const MAX_FRAME: u32 = 4 << 20;

/// One event on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Item {
    pub topic: Topic,
    /// The game id.
    pub key: Bytes,
    pub value: Bytes,
    pub seq: u64,
    pub emitted_ms: i64,
}

impl Item {
    pub fn size(&self) -> usize {
        self.key.len() + self.value.len() + size_of::<Self>()
    }
}

#[derive(Debug)]
pub(crate) struct Spill {
    dir: PathBuf,
    /// Closed and open segments with their sizes.
    segments: BTreeMap<u64, u64>,
    open: Option<(u64, File)>,
}

impl Spill {
    /// Opens the folder and finds what an earlier process left.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut segments = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(number) = name.strip_suffix(".spill").and_then(|n| n.parse().ok()) {
                segments.insert(number, entry.metadata()?.len());
            }
        }
        Ok(Self { dir: dir.to_owned(), segments, open: None })
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:020}.spill"))
    }

    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    pub fn bytes(&self) -> u64 {
        self.segments.values().sum()
    }

    /// Adds `items` behind everything spilled so far.
    pub fn push(&mut self, items: &[Item]) -> io::Result<()> {
        let number = match &self.open {
            Some((number, _)) if self.segments.get(number).is_some_and(|size| *size < SEGMENT_BYTES) => *number,
            _ => {
                let number = self.segments.last_key_value().map_or(FIRST, |(last, _)| last + 1).max(FIRST);
                let file = OpenOptions::new().create_new(true).append(true).open(self.path(number))?;
                self.open = Some((number, file));
                self.segments.insert(number, 0);
                number
            }
        };
        let frames = encode(items)?;
        let (_, file) = self.open.as_mut().expect("opened just above");
        if let Err(error) = file.write_all(&frames) {
            // What was half written ends the segment for its reader; the next push opens another.
            self.open = None;
            return Err(error);
        }
        *self.segments.get_mut(&number).expect("entered with its file") += frames.len() as u64;
        Ok(())
    }

    /// Adds `items` before everything spilled so far: what was still in memory when the process ended.
    pub fn push_front(&mut self, items: &[Item]) -> io::Result<()> {
        let number = self.segments.first_key_value().map_or(FIRST, |(first, _)| *first).min(FIRST) - 1;
        let frames = encode(items)?;
        fs::write(self.path(number), &frames)?;
        self.segments.insert(number, frames.len() as u64);
        Ok(())
    }

    /// The oldest segment's number and items; a torn or damaged tail is left out.
    pub fn oldest(&mut self) -> io::Result<Option<(u64, Vec<Item>)>> {
        let Some((&number, _)) = self.segments.first_key_value() else { return Ok(None) };
        if self.open.as_ref().is_some_and(|(open, _)| *open == number) {
            self.open = None;
        }
        let mut bytes = Vec::new();
        File::open(self.path(number))?.read_to_end(&mut bytes)?;
        Ok(Some((number, decode(&bytes))))
    }

    /// Forgets a segment whose items are all in the log.
    pub fn remove(&mut self, number: u64) -> io::Result<()> {
        self.segments.remove(&number);
        fs::remove_file(self.path(number))
    }
}

fn encode(items: &[Item]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    for item in items {
        let body = postcard::to_stdvec(item).map_err(io::Error::other)?;
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        out.extend_from_slice(&body);
    }
    Ok(out)
}

fn decode(mut bytes: &[u8]) -> Vec<Item> {
    let mut items = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<8>() {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let checksum = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if length > MAX_FRAME || rest.len() < length as usize {
            break;
        }
        let (body, rest) = rest.split_at(length as usize);
        let Some(item) = (crc32c::crc32c(body) == checksum).then(|| postcard::from_bytes(body).ok()).flatten() else {
            break;
        };
        items.push(item);
        bytes = rest;
    }
    if !bytes.is_empty() {
        tracing::warn!(
            bytes = bytes.len(),
            "the spill file has a torn tail; it was never acknowledged and is left out"
        );
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(range: std::ops::Range<u64>) -> Vec<Item> {
        range
            .map(|seq| Item { topic: Topic::new("t"), key: "g".into(), value: vec![7; 100].into(), seq, emitted_ms: 0 })
            .collect()
    }

    fn drain(spill: &mut Spill) -> Vec<u64> {
        let mut seqs = Vec::new();
        while let Some((number, items)) = spill.oldest().unwrap() {
            seqs.extend(items.iter().map(|item| item.seq));
            spill.remove(number).unwrap();
        }
        seqs
    }

    #[test]
    fn what_is_spilled_comes_back_in_order_over_segments_and_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::open(dir.path()).unwrap();
        spill.push(&items(10..20)).unwrap();
        spill.push(&items(20..30)).unwrap();
        spill.push_front(&items(5..10)).unwrap();
        drop(spill);
        let mut spill = Spill::open(dir.path()).unwrap();
        spill.push(&items(30..40)).unwrap();
        spill.push_front(&items(0..5)).unwrap();
        assert_eq!(drain(&mut spill), (0..40).collect::<Vec<_>>());
        assert!(spill.is_empty() && spill.bytes() == 0);
    }

    #[test]
    fn a_torn_tail_is_cut_and_the_rest_is_kept_wherever_it_tears() {
        let whole = encode(&items(0..3)).unwrap();
        let frame = whole.len() / 3;
        for cut in 0..whole.len() {
            assert_eq!(decode(&whole[..cut]).len(), cut / frame);
        }
        let mut flipped = whole.clone();
        flipped[frame + 20] ^= 1;
        assert_eq!(decode(&flipped).len(), 1);
    }
}
