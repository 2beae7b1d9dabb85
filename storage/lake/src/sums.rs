//! Checksums of data files, kept in their Delta entries: a flipped bit is told of, not served.
//!
//! Parquet's own checksums cover pages alone and are optional for readers and writers, so a file's are kept where its size
//! is: in the tag `flywheel.crc32c` of its `add`, as `WHOLE/TAIL/PARTS`. `WHOLE` is the CRC-32C of the file. `PARTS` are those
//! of its stretches, which lie side by side and leave no byte out: what comes before the first column chunk, each column chunk
//! (row group after row group), and the tail with the footer, which begins at byte `TAIL`. All in hexadecimal but `TAIL`.
//!
//! So whoever reads two columns of a large file checks these and the footer, and nothing else is read for it.

use std::{collections::HashMap, fmt, io::Read, str::FromStr, sync::Arc};

use object_store::PutPayload;
use parquet::file::{metadata::ParquetMetaData, reader::ChunkReader};
use serde::{Deserialize, Serialize};

/// The tag of an `add`.
pub(crate) const TAG: &str = "flywheel.crc32c";
const BUFFER_BYTES: usize = 128 << 10;

/// The checksums of one data file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Sums {
    whole: u32,
    tail: u64,
    /// Before the chunks, the chunks, the tail; empty if the file is not laid out so.
    parts: Arc<[u32]>,
}

/// Which bytes of a file are not those that were written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Damage {
    #[error("bytes {from}..{to} ({part}) have the checksum {found:08x}; its commit says {known:08x}")]
    Sum { from: u64, to: u64, part: String, found: u32, known: u32 },
    #[error("it has {found} bytes; its commit says {known}")]
    Length { found: u64, known: u64 },
    #[error("its footer tells of other column chunks than its commit")]
    Layout,
    #[error("it was damaged when it was first read, and was not the second time")]
    Passing,
    #[error(transparent)]
    Parquet(#[from] parquet::errors::ParquetError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Sums {
    /// Of a file that was just written. `bytes` are gone through once.
    pub(crate) fn of(bytes: &PutPayload, footer: &ParquetMetaData) -> Self {
        let length = bytes.content_length() as u64;
        let ends = bounds(footer, length).unwrap_or_else(|| vec![0, length]);
        let parts = sums_between(bytes, &ends);
        let spans = ends.windows(2).map(|pair| (pair[1] - pair[0]) as usize);
        let whole = parts.iter().zip(spans).fold(0, |sum, (part, span)| crc32c::crc32c_combine(sum, *part, span));
        if parts.len() < 2 {
            return Self { whole, tail: 0, parts: Arc::default() };
        }
        Self { whole, tail: ends[ends.len() - 2], parts: parts.into() }
    }

    pub(crate) fn whole(&self) -> u32 {
        self.whole
    }

    /// What has to be looked at before the footer is believed.
    pub(crate) fn check_tail(&self, file: &impl ChunkReader, known: u64) -> Result<(), Damage> {
        let found = file.len();
        if found != known {
            return Err(Damage::Length { found, known });
        }
        match self.parts.last() {
            None => check(file, 0, found, self.whole, || "the whole file".to_owned()),
            Some(sum) => check(file, self.tail.min(found), found, *sum, || "the footer".to_owned()),
        }
    }

    /// The chunks of the wanted columns. The footer is one that was checked.
    pub(crate) fn check_columns(
        &self,
        file: &impl ChunkReader,
        footer: &ParquetMetaData,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<(), Damage> {
        if self.parts.is_empty() {
            return Ok(());
        }
        let ends =
            bounds(footer, file.len()).filter(|ends| ends.len() == self.parts.len() + 1).ok_or(Damage::Layout)?;
        check(file, 0, ends[1], self.parts[0], || "before the first column".to_owned())?;
        let chunks = footer.row_groups().iter().enumerate().flat_map(|(n, g)| g.columns().iter().map(move |c| (n, c)));
        for (((group, chunk), pair), sum) in chunks.zip(ends[1..].windows(2)).zip(&self.parts[1..]) {
            let name = chunk.column_descr().name();
            if is_wanted(name) {
                check(file, pair[0], pair[1], *sum, || format!("column `{name}` of row group {group}"))?;
            }
        }
        Ok(())
    }
}

/// As an `add` carries them.
pub(crate) fn tags(sums: &Sums) -> HashMap<String, Option<String>> {
    [(TAG.to_owned(), Some(sums.to_string()))].into()
}

/// Where the parts of a file begin and end. `None` if they do not lie side by side.
fn bounds(footer: &ParquetMetaData, length: u64) -> Option<Vec<u64>> {
    let mut ends = vec![0];
    let mut at = None;
    for chunk in footer.row_groups().iter().flat_map(|group| group.columns()) {
        let (start, bytes) = chunk.byte_range();
        if at.is_some_and(|at| at != start) {
            return None;
        }
        ends.push(start);
        at = Some(start + bytes);
    }
    ends.extend([at?, length]);
    ends.is_sorted().then_some(ends)
}

/// The checksum of each stretch between neighbours of `ends`.
fn sums_between(bytes: &PutPayload, ends: &[u64]) -> Vec<u32> {
    let (mut sums, mut sum, mut at) = (Vec::with_capacity(ends.len()), 0, 0);
    for block in bytes {
        let mut rest: &[u8] = block;
        while sums.len() + 1 < ends.len() && at + rest.len() as u64 >= ends[sums.len() + 1] {
            let (part, after) = rest.split_at((ends[sums.len() + 1] - at) as usize);
            sums.push(crc32c::crc32c_append(sum, part));
            (sum, at, rest) = (0, at + part.len() as u64, after);
        }
        sum = crc32c::crc32c_append(sum, rest);
        at += rest.len() as u64;
    }
    sums
}

fn check(file: &impl ChunkReader, from: u64, to: u64, known: u32, part: impl Fn() -> String) -> Result<(), Damage> {
    let mut rest = file.get_read(from)?.take(to - from);
    let (mut buffer, mut found) = (vec![0; BUFFER_BYTES.min((to - from) as usize)], 0);
    loop {
        match rest.read(&mut buffer)? {
            0 if found == known => return Ok(()),
            0 => return Err(Damage::Sum { from, to, part: part(), found, known }),
            n => found = crc32c::crc32c_append(found, &buffer[..n]),
        }
        if buffer.is_empty() {
            unreachable!("a read into nothing returns 0");
        }
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}/{}/", self.whole, self.tail)?;
        self.parts.iter().try_for_each(|part| write!(f, "{part:08x}"))
    }
}

impl From<Sums> for String {
    fn from(sums: Sums) -> Self {
        sums.to_string()
    }
}

/// Not how checksums are written.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` are no checksums of a data file")]
pub struct NotSums(String);

impl FromStr for Sums {
    type Err = NotSums;

    fn from_str(text: &str) -> Result<Self, NotSums> {
        let sum = |digits: &[u8]| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        let read = || {
            let (whole, rest) = text.split_once('/')?;
            let (tail, parts) = rest.split_once('/')?;
            let parts = parts.as_bytes().chunks(8).map(|digits| sum(digits).filter(|_| digits.len() == 8));
            Some(Self {
                whole: sum(whole.as_bytes()).filter(|_| whole.len() == 8)?,
                tail: tail.parse().ok()?,
                parts: parts.collect::<Option<Vec<_>>>()?.into(),
            })
        };
        read().ok_or_else(|| NotSums(text.to_owned()))
    }
}

impl TryFrom<String> for Sums {
    type Error = NotSums;

    fn try_from(text: String) -> Result<Self, NotSums> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn parts_are_summed_across_blocks_and_add_up_to_the_whole() {
        let whole: Vec<u8> = (0..1000_u32).map(|n| (n * 7 % 251) as u8).collect();
        for block in [1, 7, 100, 999, 1000] {
            let payload: PutPayload = whole.chunks(block).map(|part| Bytes::from(part.to_vec())).collect();
            let ends = [0, 4, 4, 100, 333, 1000];
            let sums = sums_between(&payload, &ends);
            let alone: Vec<_> =
                ends.windows(2).map(|pair| crc32c::crc32c(&whole[pair[0] as usize..pair[1] as usize])).collect();
            assert_eq!(sums, alone, "in blocks of {block}");
        }
    }

    #[test]
    fn sums_are_read_as_they_are_written_and_nothing_else_is() {
        let sums = Sums { whole: 7, tail: 4711, parts: [1, 0xffff_ffff, 3].into() };
        assert_eq!(sums.to_string(), "00000007/4711/00000001ffffffff00000003");
        assert_eq!(sums.to_string().parse::<Sums>().unwrap(), sums);
        for text in ["", "7", "00000007/1", "7/1/", "00000007//", "00000007/1/0", "0000000g/1/", "00000007/1/00000é1"]
        {
            assert!(text.parse::<Sums>().is_err(), "{text}");
        }
    }
}
