//! The files that take events while the log is away: frames of `len: u32 · crc32c: u32 · body`, in segments.
//!
//! Segments are drained by rising number and removed once all of theirs is in the log. A frame is handed to the
//! system in one write. A spill that [`Spill::open`] gives is not synced: it survives the death of this process, not a
//! loss of power, which is no promise broken since nothing in it was acknowledged. One of [`Spill::open_synced`] has
//! synced what [`Spill::push`] took before that returns, so that it may be acknowledged.

mod folder;

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use bytes::Bytes;
use flywheel_log::Topic;
use serde::{Deserialize, Serialize};

pub use folder::{Folder, Growing, OsFolder};

/// A segment is closed when it is this large.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Segments written at the end of a process lie before those that it spilled: they hold what was older.
const FIRST: u64 = 1 << 40;
/// Largest frame that is believed.
const MAX_FRAME: u32 = 4 << 20;

/// One event on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
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

/// What a segment holds.
#[derive(Debug)]
pub struct Spilled {
    /// Its number; for [`Spill::remove`].
    pub segment: u64,
    pub items: Vec<Item>,
}

/// Events in files, in their order.
#[derive(Debug)]
pub struct Spill {
    folder: Arc<dyn Folder>,
    synced: bool,
    /// Closed and open segments with their sizes.
    segments: BTreeMap<u64, u64>,
    /// Segments in which something is damaged that later frames follow: kept for a look once they are drained.
    damaged: Vec<u64>,
    /// The smallest number that a later segment may have.
    next: u64,
    open: Option<(u64, Box<dyn Growing>)>,
}

impl Spill {
    /// Opens the folder and finds what an earlier process left.
    ///
    /// # Errors
    /// If the folder cannot be made or read.
    pub fn open(dir: &Path) -> io::Result<Self> {
        Self::of(Arc::new(OsFolder::open(dir)?), false)
    }

    /// As [`Spill::open`]; what it takes survives a loss of power.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn open_synced(folder: Arc<dyn Folder>) -> io::Result<Self> {
        Self::of(folder, true)
    }

    fn of(folder: Arc<dyn Folder>, synced: bool) -> io::Result<Self> {
        let named = |(name, size): (String, u64)| Some((name.strip_suffix(".spill")?.parse().ok()?, size));
        let segments: BTreeMap<u64, u64> = folder.list()?.into_iter().filter_map(named).collect();
        let next = segments.last_key_value().map_or(FIRST, |(last, _)| last + 1).max(FIRST);
        Ok(Self { folder, synced, segments, damaged: Vec::new(), next, open: None })
    }

    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    pub fn bytes(&self) -> u64 {
        self.segments.values().sum()
    }

    /// Segments that this process makes behind all others have this number or a larger one.
    pub fn next_segment(&self) -> u64 {
        self.next
    }

    /// Adds `items` behind everything spilled so far.
    ///
    /// # Errors
    /// If the disk does not take them; some of them may come out again then.
    pub fn push(&mut self, items: &[Item]) -> io::Result<()> {
        self.push_frames(&encode(items)?)
    }

    /// As [`Spill::push`], of items that [`encode`] has written down.
    ///
    /// # Errors
    /// As [`Spill::push`].
    pub fn push_frames(&mut self, frames: &[u8]) -> io::Result<()> {
        let number = match &self.open {
            Some((number, _)) if self.segments.get(number).is_some_and(|size| *size < SEGMENT_BYTES) => *number,
            _ => {
                let number = self.next;
                self.next += 1;
                let file = self.folder.create(&name(number))?;
                self.open = Some((number, file));
                self.segments.insert(number, 0);
                number
            }
        };
        let (_, file) = self.open.as_mut().expect("opened just above");
        let first = self.segments.get(&number) == Some(&0);
        let written = file.write_all(frames).and_then(|()| match (self.synced, first) {
            (false, _) => Ok(()),
            (true, false) => file.sync(),
            (true, true) => file.sync().and_then(|()| self.folder.sync()),
        });
        if let Err(error) = written {
            // What was half written, or is perhaps not on the disk, ends the segment for its reader; the next push
            // opens another.
            self.open = None;
            return Err(error);
        }
        *self.segments.get_mut(&number).expect("entered with its file") += frames.len() as u64;
        Ok(())
    }

    /// Adds `items` before everything spilled so far: what was still in memory when the process ended.
    ///
    /// # Errors
    /// If the disk does not take them.
    pub fn push_front(&mut self, items: &[Item]) -> io::Result<()> {
        let number = self.segments.first_key_value().map_or(FIRST, |(first, _)| *first).min(FIRST) - 1;
        let frames = encode(items)?;
        let mut file = self.folder.create(&name(number))?;
        self.segments.insert(number, frames.len() as u64);
        file.write_all(&frames)?;
        if self.synced {
            file.sync()?;
            self.folder.sync()?;
        }
        Ok(())
    }

    /// The oldest segment; a torn tail is left out, and so is what is damaged.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn oldest(&mut self) -> io::Result<Option<Spilled>> {
        let Some((&segment, _)) = self.segments.first_key_value() else { return Ok(None) };
        if self.open.as_ref().is_some_and(|(open, _)| *open == segment) {
            self.open = None;
        }
        let Decoded { items, damaged, torn } = decode(&self.folder.read(&name(segment))?);
        if torn > 0 {
            tracing::warn!(
                segment,
                bytes = torn,
                "the spill has a torn tail; it was never acknowledged and is left out"
            );
        }
        if damaged > 0 && !self.damaged.contains(&segment) {
            tracing::error!(
                segment,
                n_events = damaged,
                "the spill is damaged; what can be read goes on, the file is kept"
            );
            self.damaged.push(segment);
        }
        Ok(Some(Spilled { segment, items }))
    }

    /// Forgets a segment whose items are all in the log.
    ///
    /// # Errors
    /// If the file cannot be removed: its items come again at the next start.
    pub fn remove(&mut self, segment: u64) -> io::Result<()> {
        self.segments.remove(&segment);
        if self.damaged.contains(&segment) {
            self.damaged.retain(|known| *known != segment);
            self.folder.rename(&name(segment), &format!("{segment:020}.damaged"))?;
        } else {
            self.folder.remove(&name(segment))?;
        }
        if self.synced { self.folder.sync() } else { Ok(()) }
    }
}

fn name(segment: u64) -> String {
    format!("{segment:020}.spill")
}

/// The frames of `items`.
///
/// # Errors
/// None that items of ours give.
pub fn encode(items: &[Item]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    for item in items {
        let body = postcard::to_stdvec(item).map_err(io::Error::other)?;
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        out.extend_from_slice(&body);
    }
    Ok(out)
}

#[derive(Debug, Default)]
struct Decoded {
    items: Vec<Item>,
    /// Frames that are none, and whole ones follow.
    damaged: usize,
    /// Bytes behind the last whole frame.
    torn: usize,
}

fn decode(mut bytes: &[u8]) -> Decoded {
    let (mut decoded, mut skipped) = (Decoded { torn: bytes.len(), ..Decoded::default() }, 0);
    while let Some((head, rest)) = bytes.split_first_chunk::<8>() {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let checksum = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if length > MAX_FRAME || rest.len() < length as usize {
            break;
        }
        let (body, rest) = rest.split_at(length as usize);
        match (crc32c::crc32c(body) == checksum).then(|| postcard::from_bytes(body).ok()).flatten() {
            Some(item) => {
                decoded.items.push(item);
                decoded.damaged += std::mem::take(&mut skipped);
                decoded.torn = rest.len();
            }
            // Torn, or damaged: that shows in whether a whole one follows.
            None => skipped += 1,
        }
        bytes = rest;
    }
    decoded
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
        while let Some(Spilled { segment, items }) = spill.oldest().unwrap() {
            seqs.extend(items.iter().map(|item| item.seq));
            spill.remove(segment).unwrap();
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
            let decoded = decode(&whole[..cut]);
            assert_eq!((decoded.items.len(), decoded.damaged, decoded.torn), (cut / frame, 0, cut % frame));
        }
    }

    #[test]
    fn a_damaged_event_is_left_out_and_the_file_kept_for_a_look() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::open(dir.path()).unwrap();
        spill.push(&items(0..3)).unwrap();
        let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        let mut bytes = std::fs::read(&file).unwrap();
        let frame = bytes.len() / 3;
        bytes[frame + 20] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        assert_eq!(drain(&mut spill), [0, 2]);
        let kept: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(kept, [file.with_extension("damaged")]);
        assert!(Spill::open(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn a_number_is_not_given_twice_while_a_process_lives() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::open(dir.path()).unwrap();
        let first = spill.next_segment();
        spill.push(&items(0..1)).unwrap();
        assert_eq!(drain(&mut spill), [0]);
        spill.push(&items(1..2)).unwrap();
        assert!(spill.next_segment() == first + 2 && drain(&mut spill) == [1]);
    }
}
