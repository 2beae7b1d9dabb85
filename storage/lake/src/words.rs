//! A column of texts of which few are different, such as kinds and games: pages of numbers into a dictionary.
//!
//! The Parquet crate's own writer hashes the text of every row; this one knows nearly all of them by a look (docs/adr/0021).

use std::collections::HashMap;

use arrow::array::{Array, StringArray};
use parquet::{
    basic::{Encoding, Repetition},
    data_type::ByteArray,
    errors::ParquetError,
    file::statistics::Statistics,
    schema::types::ColumnDescPtr,
};

use crate::{
    chunk::{Chunk, Closed, Dictionary as DictionaryPage, PAGE_ROWS, Page},
    encode::is_constant,
    matches::equal,
    numbers::{push_bits, push_number},
    pack::Packer,
};

/// A dictionary gets no larger: from there on texts are written as they are.
const DICTIONARY_BYTES: usize = 1 << 20;
/// A page of texts as they are is closed when it has so many bytes.
const PAGE_BYTES: usize = 1 << 20;
/// Of longer texts the statistics say nothing; ids and kinds are not longer.
const STATISTICS_BYTES: usize = 128;

/// A column chunk of texts that come again, as it grows.
pub(crate) struct Words {
    chunk: Chunk,
    is_optional: bool,
    dictionary: Dictionary,
    /// Of the page that grows: 1 for each row that has a text, 0 for the others. Only where there may be others.
    there: Vec<u32>,
    /// Of each text of the page, which one of the dictionary it is.
    which: Vec<u32>,
    /// Once the dictionary is full: the texts of the page instead, each after its length.
    plain: Option<Vec<u8>>,
    rows: usize,
    nulls: usize,
    /// Least and largest of the texts that are written as they are.
    range: Option<(Vec<u8>, Vec<u8>)>,
}

impl Words {
    pub fn new(column: ColumnDescPtr) -> Self {
        let is_optional = column.self_type().get_basic_info().repetition() == Repetition::OPTIONAL;
        assert_eq!(column.max_def_level(), i16::from(is_optional), "a column of the table itself");
        Self {
            chunk: Chunk::new(column),
            is_optional,
            dictionary: Dictionary::new(),
            there: Vec::new(),
            which: Vec::new(),
            plain: None,
            rows: 0,
            nulls: 0,
            range: None,
        }
    }

    pub fn write(&mut self, texts: &StringArray) -> Result<(), ParquetError> {
        let mut from = 0;
        while from < texts.len() {
            let n = (texts.len() - from).min(PAGE_ROWS - self.rows);
            self.take(&texts.slice(from, n))?;
            if self.rows == PAGE_ROWS {
                self.close_page()?;
            }
            from += n;
        }
        Ok(())
    }

    /// No more than the page takes.
    fn take(&mut self, texts: &StringArray) -> Result<(), ParquetError> {
        let n = texts.len();
        if texts.null_count() == n {
            self.skip(n);
        } else if self.plain.is_none() && is_constant(texts) {
            self.push(texts.value_data(), texts.value_offsets()[0] as usize, texts.value(0).len(), n)?;
        } else {
            let (offsets, letters) = (texts.value_offsets(), texts.value_data());
            let may_be_null = texts.null_count() > 0;
            for (row, ends) in offsets.windows(2).enumerate() {
                if may_be_null && texts.is_null(row) {
                    self.skip(1);
                } else {
                    self.push(letters, ends[0] as usize, (ends[1] - ends[0]) as usize, 1)?;
                }
            }
        }
        Ok(())
    }

    /// Rows without a text.
    fn skip(&mut self, n: usize) {
        assert!(self.is_optional || n == 0, "a required column has no nulls");
        self.rows += n;
        self.nulls += n;
        self.there.resize(self.there.len() + n, 0);
    }

    /// `n` rows that have the text of `len` letters that begins at `at`.
    #[inline(always)]
    fn push(&mut self, letters: &[u8], at: usize, len: usize, n: usize) -> Result<(), ParquetError> {
        if self.plain.is_none() {
            if let Some(which) = self.dictionary.find(letters, at, len) {
                self.which.resize(self.which.len() + n, which);
                self.have(n);
                return Ok(());
            }
            if self.rows > 0 {
                self.close_page()?;
            }
            self.plain = Some(Vec::new());
            self.dictionary.forget();
        }
        (0..n).try_for_each(|_| self.push_plain(&letters[at..at + len]))
    }

    #[inline(always)]
    fn have(&mut self, n: usize) {
        self.rows += n;
        if self.is_optional {
            self.there.resize(self.there.len() + n, 1);
        }
    }

    #[cold]
    fn push_plain(&mut self, text: &[u8]) -> Result<(), ParquetError> {
        let plain = self.plain.get_or_insert_default();
        plain.extend_from_slice(&(text.len() as u32).to_le_bytes());
        plain.extend_from_slice(text);
        let is_full = plain.len() >= PAGE_BYTES;
        match &mut self.range {
            Some((least, _)) if text < least.as_slice() => text.clone_into(least),
            Some((_, most)) if text > most.as_slice() => text.clone_into(most),
            Some(_) => {}
            None => self.range = Some((text.to_owned(), text.to_owned())),
        }
        self.have(1);
        if is_full { self.close_page() } else { Ok(()) }
    }

    fn close_page(&mut self) -> Result<(), ParquetError> {
        let mut page = Vec::with_capacity(64 + self.rows);
        if self.is_optional {
            // After their length.
            page.extend_from_slice(&[0; 4]);
            push_runs(&mut page, &self.there, 1);
            let n_bytes = (page.len() - 4) as u32;
            page[..4].copy_from_slice(&n_bytes.to_le_bytes());
        }
        let encoding = match &mut self.plain {
            Some(plain) => {
                page.append(plain);
                Encoding::PLAIN
            }
            None => {
                let width = u32::BITS - (self.dictionary.len().saturating_sub(1) as u32).leading_zeros();
                page.push(width as u8);
                push_runs(&mut page, &self.which, width);
                Encoding::RLE_DICTIONARY
            }
        };
        let chunk = &mut self.chunk;
        let rows = self.rows;
        Packer::idle(|packer| {
            let frame = packer.pack_as_it_is(&page);
            chunk.push(&Page { rows, encoding, frame, unpacked_bytes: page.len(), text_bytes: None })
        })?;
        self.there.clear();
        self.which.clear();
        self.rows = 0;
        Ok(())
    }

    pub fn close(mut self) -> Result<Closed, ParquetError> {
        if self.rows > 0 || self.chunk.rows() == 0 {
            self.close_page()?;
        }
        let Dictionary { plain, places, .. } = &self.dictionary;
        let texts = places.iter().map(|place| place.of(plain));
        let ends = self.range.iter().flat_map(|(least, most)| [least.as_slice(), most]);
        let (least, most) = (texts.clone().chain(ends.clone()).min(), texts.chain(ends).max());
        let told = |text: Option<&[u8]>| {
            text.filter(|text| text.len() <= STATISTICS_BYTES).map(|t| ByteArray::from(t.to_vec()))
        };
        let statistics = Statistics::byte_array(told(least), told(most), None, Some(self.nulls as u64), false);
        let plain = &plain[..plain.len() - PADDING];
        let chunk = self.chunk;
        if places.is_empty() && self.plain.is_some() {
            return chunk.close(Some(statistics), None);
        }
        Packer::idle(|packer| {
            let frame = packer.pack_as_it_is(plain);
            chunk.close(
                Some(statistics),
                Some(DictionaryPage { texts: places.len(), frame, unpacked_bytes: plain.len() }),
            )
        })
    }
}

/// Texts are compared in so many bytes at once.
const STEP: usize = 32;
/// Texts up to this length are known by a look, unless they are the last of a batch.
const NEAR_BYTES: usize = 2 * STEP;
const NEAR_BITS: u32 = 12;
/// What follows the last text of a dictionary, so that it can be read in whole steps.
const PADDING: usize = NEAR_BYTES;

/// The texts that there were.
struct Dictionary {
    /// Each text after its length, as Parquet has it, and [`PADDING`].
    plain: Vec<u8>,
    places: Vec<Place>,
    /// Which of the texts begins and ends in this way, plus one: the last that did.
    near: Box<[u32; 1 << NEAR_BITS]>,
    all: HashMap<Box<[u8]>, u32>,
}

/// Where a text is.
#[derive(Clone, Copy)]
struct Place {
    at: u32,
    len: u32,
}

impl Place {
    fn of(self, plain: &[u8]) -> &[u8] {
        &plain[self.at as usize..][..self.len as usize]
    }
}

impl Dictionary {
    fn new() -> Self {
        let near = vec![0; 1 << NEAR_BITS].try_into().expect("its size is the table's");
        Self { plain: vec![0; PADDING], places: Vec::new(), near, all: HashMap::new() }
    }

    fn len(&self) -> usize {
        self.places.len()
    }

    /// Nothing is looked up any more; the texts stay.
    fn forget(&mut self) {
        self.all = HashMap::new();
    }

    /// Which one the text of `len` letters is that begins at `at`; `None` if it is new and there is no more room.
    #[inline(always)]
    fn find(&mut self, letters: &[u8], at: usize, len: usize) -> Option<u32> {
        // What is read behind a text must be there.
        let Some(text) = letters[at..].first_chunk::<NEAR_BYTES>().filter(|_| len <= NEAR_BYTES) else {
            return self.find_slowly(&letters[at..at + len]);
        };
        let word = |at: usize| u64::from_le_bytes(text[at..at + 8].try_into().expect("eight bytes"));
        let ends = if len < 8 { word(0) & !(u64::MAX << (8 * len)) } else { word(0) ^ word(len - 8).rotate_left(29) };
        let hash = ((ends ^ len as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - NEAR_BITS)) as usize;
        if let Some(which) = self.near[hash].checked_sub(1) {
            let place = self.places[which as usize];
            let known: &[u8; NEAR_BYTES] = self.plain[place.at as usize..].first_chunk().expect("padding follows");
            let (known, text) = (known.as_chunks::<STEP>().0, text.as_chunks::<STEP>().0);
            let same = |nth: usize| equal(&known[nth], &text[nth]);
            if place.len as usize == len && same(0) >= len.min(STEP) && (len <= STEP || same(1) >= len - STEP) {
                return Some(which);
            }
        }
        let which = self.find_slowly(&letters[at..at + len])?;
        self.near[hash] = which + 1;
        Some(which)
    }

    #[inline(never)]
    fn find_slowly(&mut self, text: &[u8]) -> Option<u32> {
        if let Some(which) = self.all.get(text) {
            return Some(*which);
        }
        let at = self.plain.len() - PADDING + 4;
        if at + text.len() > DICTIONARY_BYTES {
            return None;
        }
        let which = self.places.len() as u32;
        self.plain.truncate(at - 4);
        self.plain.extend_from_slice(&(text.len() as u32).to_le_bytes());
        self.plain.extend_from_slice(text);
        self.plain.resize(self.plain.len() + PADDING, 0);
        self.places.push(Place { at: at as u32, len: text.len() as u32 });
        self.all.insert(text.into(), which);
        Some(which)
    }
}

/// Values of a group that is packed by bits, and of the shortest run that is not.
const GROUP: usize = 8;

/// Parquet's hybrid of runs and groups of eight, for numbers of `width` bits.
///
/// Source: Encodings.md of the Parquet format, "Run Length Encoding / Bit-Packing Hybrid".
fn push_runs(to: &mut Vec<u8>, numbers: &[u32], width: u32) {
    let run = |at: usize, most: usize| {
        let same = numbers[at..].iter().take(most).take_while(|number| **number == numbers[at]);
        same.count()
    };
    let begins_run = |at: usize| run(at, GROUP) >= GROUP.min(numbers.len() - at);
    let mut at = 0;
    while at < numbers.len() {
        let start = at;
        if begins_run(at) {
            at += run(at, usize::MAX);
            push_number(to, ((at - start) as u64) << 1);
            to.extend_from_slice(&numbers[start].to_le_bytes()[..width.div_ceil(8) as usize]);
            continue;
        }
        while at < numbers.len() && !begins_run(at) {
            at = numbers.len().min(at + GROUP);
        }
        let groups = (at - start).div_ceil(GROUP);
        push_number(to, (groups as u64) << 1 | 1);
        push_bits(to, numbers[start..at].iter().map(|number| u64::from(*number)), width, groups * GROUP);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn runs_and_groups_are_those_of_the_format() {
        let packed = |numbers: &[u32], width: u32| {
            let mut packed = Vec::new();
            push_runs(&mut packed, numbers, width);
            packed
        };
        // The format's own example of a group: 0 to 7 in three bits each.
        assert_eq!(packed(&[0, 1, 2, 3, 4, 5, 6, 7], 3), [0b11, 0b1000_1000, 0b1100_0110, 0b1111_1010]);
        assert_eq!(packed(&[5; 100], 3), [0xc8, 0x01, 5]);
        assert_eq!(packed(&[0; 100], 0), [0xc8, 0x01]);
        assert_eq!(packed(&[300; 3], 9), [6, 0x2c, 0x01]);
        let mut both = vec![1, 0, 1];
        both.extend([1; 20]);
        assert_eq!(packed(&both, 1), [0b11, 0b1111_1101, 30, 1], "a group is filled from the run that follows it");
        assert!(packed(&[], 7).is_empty());
    }

    /// A slow and obvious reader.
    fn unpacked(mut packed: &[u8], width: u32, n: usize) -> Vec<u32> {
        let mut numbers = Vec::new();
        while let Some((header, mut rest)) = packed.split_first() {
            let (mut head, mut bits, mut byte) = (u64::from(header & 0x7f), 7, *header);
            while byte & 0x80 != 0 {
                byte = rest[0];
                rest = &rest[1..];
                head |= u64::from(byte & 0x7f) << bits;
                bits += 7;
            }
            let count = (head >> 1) as usize;
            let n_bytes = if head & 1 == 1 { count * width as usize } else { width.div_ceil(8) as usize };
            let (own, after) = rest.split_at(n_bytes);
            let bit = |at: usize| u32::from(own[at / 8] >> (at % 8) & 1);
            let number = |at: usize| (0..width as usize).map(|nth| bit(at * width as usize + nth) << nth).sum::<u32>();
            if head & 1 == 1 {
                numbers.extend((0..count * GROUP).map(number));
            } else {
                numbers.extend(std::iter::repeat_n(number(0), count));
            }
            packed = after;
        }
        assert!(numbers[n..].iter().all(|number| *number == 0) && numbers.len() < n + GROUP);
        numbers.truncate(n);
        numbers
    }

    #[test]
    fn a_text_is_found_again_wherever_it_stands_and_no_other_is() {
        let mut dictionary = Dictionary::new();
        let texts: Vec<String> = (0..300)
            .flat_map(|n| [0, 1, 7, 8, 9, 31, 32, 33, 63, 64, 65, 200].map(|len| format!("{n}-{}", "x".repeat(len))))
            .collect();
        let mut letters = texts.concat().into_bytes();
        letters.extend([b'x'; 2]);
        for round in 0..2 {
            let mut at = 0;
            for (nth, text) in texts.iter().enumerate() {
                assert_eq!(dictionary.find(&letters, at, text.len()), Some(nth as u32), "{text} in round {round}");
                at += text.len();
            }
        }
        // Another text in the place of one that is remembered.
        assert_eq!(dictionary.len(), texts.len());
        assert_eq!(dictionary.find(b"new", 0, 3), Some(texts.len() as u32));
        let large = vec![b'y'; DICTIONARY_BYTES];
        assert_eq!(dictionary.find(&large, 0, large.len()), None);
        assert_eq!(dictionary.find(b"new", 0, 3), Some(texts.len() as u32));
    }

    proptest! {
        #[test]
        fn numbers_come_back_as_they_were(
            runs in prop::collection::vec((any::<u32>(), prop_oneof![1..4usize, 1..40usize]), 0..60),
            width in 0..=20u32,
        ) {
            let fits = |number: u32| number & ((1 << width) - 1);
            let numbers: Vec<_> = runs.into_iter().flat_map(|(number, n)| vec![fits(number); n]).collect();
            let mut packed = Vec::new();
            push_runs(&mut packed, &numbers, width);
            prop_assert_eq!(unpacked(&packed, width, numbers.len()), numbers);
        }
    }
}
