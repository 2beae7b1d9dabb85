//! A column of numbers that rise or stay: pages of `DELTA_BINARY_PACKED`.
//!
//! The Parquet crate's own writer takes them one by one; this one a block at a time, in a third of the time (docs/adr/0021).

use arrow::array::{
    Array, AsArray,
    types::{Int32Type, Int64Type},
};
use parquet::{
    basic::{Encoding, Type},
    errors::ParquetError,
    file::statistics::Statistics,
    schema::types::ColumnDescPtr,
};

use crate::{
    chunk::{Chunk, Closed, PAGE_ROWS, Page},
    pack::Packer,
};

/// Values of a block of `DELTA_BINARY_PACKED`, and of each of its parts.
const BLOCK: usize = 128;
const PART: usize = 32;

/// A column chunk of whole numbers that are never null, as it grows.
pub(crate) struct Numbers {
    chunk: Chunk,
    kind: Type,
    page: Vec<i64>,
    least: i64,
    most: i64,
}

impl Numbers {
    pub fn new(column: ColumnDescPtr) -> Self {
        assert_eq!(column.max_def_level(), 0, "never null");
        let kind = column.physical_type();
        assert!(matches!(kind, Type::INT32 | Type::INT64), "whole numbers");
        Self { chunk: Chunk::new(column), kind, page: Vec::new(), least: i64::MAX, most: i64::MIN }
    }

    pub fn write(&mut self, numbers: &dyn Array) -> Result<(), ParquetError> {
        match self.kind {
            Type::INT32 => {
                let numbers = numbers.as_primitive::<Int32Type>().values();
                self.extend(numbers.len(), |from, to| numbers[from..to].iter().map(|n| i64::from(*n)))
            }
            _ => {
                let numbers = numbers.as_primitive::<Int64Type>().values();
                self.extend(numbers.len(), |from, to| numbers[from..to].iter().copied())
            }
        }
    }

    fn extend<I: Iterator<Item = i64>>(
        &mut self,
        n: usize,
        numbers: impl Fn(usize, usize) -> I,
    ) -> Result<(), ParquetError> {
        let mut from = 0;
        while from < n {
            let to = n.min(from + PAGE_ROWS - self.page.len());
            self.page.extend(numbers(from, to));
            if self.page.len() == PAGE_ROWS {
                self.close_page()?;
            }
            from = to;
        }
        Ok(())
    }

    fn close_page(&mut self) -> Result<(), ParquetError> {
        self.least = self.page.iter().fold(self.least, |least, n| least.min(*n));
        self.most = self.page.iter().fold(self.most, |most, n| most.max(*n));
        let bits = if self.kind == Type::INT32 { 32 } else { 64 };
        let packed = pack_differences(&self.page, bits);
        let (chunk, rows) = (&mut self.chunk, self.page.len());
        let encoding = Encoding::DELTA_BINARY_PACKED;
        Packer::idle(|packer| {
            let frame = packer.pack_as_it_is(&packed);
            chunk.push(&Page { rows, encoding, frame, unpacked_bytes: packed.len(), text_bytes: None })
        })?;
        self.page.clear();
        Ok(())
    }

    pub fn close(mut self) -> Result<Closed, ParquetError> {
        if !self.page.is_empty() || self.chunk.rows() == 0 {
            self.close_page()?;
        }
        let known = self.least <= self.most;
        let (least, most) = (known.then_some(self.least), known.then_some(self.most));
        let statistics = match self.kind {
            Type::INT32 => Statistics::int32(least.map(|n| n as i32), most.map(|n| n as i32), None, Some(0), false),
            _ => Statistics::int64(least, most, None, Some(0), false),
        };
        self.chunk.close(Some(statistics), None)
    }
}

/// Parquet's `DELTA_BINARY_PACKED` of numbers of `bits` bits, 32 or 64.
///
/// Source: Encodings.md of the Parquet format, "Delta Encoding".
pub(crate) fn pack_differences(numbers: &[i64], bits: u32) -> Vec<u8> {
    let unused = 64 - bits;
    let mut packed = Vec::with_capacity(32 + numbers.len());
    for number in [BLOCK, BLOCK / PART, numbers.len()] {
        push_number(&mut packed, number as u64);
    }
    push_signed(&mut packed, numbers.first().copied().unwrap_or(0));
    let mut differences = [0; BLOCK];
    for start in (1..numbers.len()).step_by(BLOCK) {
        let here = &numbers[start..numbers.len().min(start + BLOCK)];
        let before = &numbers[start - 1..];
        // What is too large for its bits wraps, as it does when it is read.
        for (difference, (number, before)) in differences.iter_mut().zip(here.iter().zip(before)) {
            *difference = number.wrapping_sub(*before) << unused >> unused;
        }
        let block = &mut differences[..here.len()];
        let least = block.iter().fold(i64::MAX, |least, one| least.min(*one));
        push_signed(&mut packed, least);
        let widths_at = packed.len();
        packed.resize(widths_at + BLOCK / PART, 0);
        for (nth, part) in block.chunks(PART).enumerate() {
            let above = |difference: &i64| (difference.wrapping_sub(least) as u64) << unused >> unused;
            let width = 64 - part.iter().fold(0, |all, one| all | above(one)).leading_zeros();
            packed[widths_at + nth] = width as u8;
            push_bits(&mut packed, part.iter().map(above), width, PART);
        }
    }
    packed
}

/// So many numbers, a multiple of eight, `width` bits each, the lowest first; zeros where there are fewer.
pub(crate) fn push_bits(to: &mut Vec<u8>, numbers: impl Iterator<Item = u64>, width: u32, n: usize) {
    let end = to.len() + width as usize * n / 8;
    if width > 0 {
        let (mut bits, mut n_bits) = (0u128, 0);
        for number in numbers {
            bits |= u128::from(number) << n_bits;
            n_bits += width;
            if n_bits >= 64 {
                to.extend_from_slice(&(bits as u64).to_le_bytes());
                bits >>= 64;
                n_bits -= 64;
            }
        }
        to.extend_from_slice(&(bits as u64).to_le_bytes());
    }
    to.resize(end, 0);
}

fn push_signed(to: &mut Vec<u8>, number: i64) {
    push_number(to, ((number << 1) ^ (number >> 63)) as u64);
}

/// Seven bits a byte, the lowest first.
pub(crate) fn push_number(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}
