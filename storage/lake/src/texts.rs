//! A column of payloads: pages of `DELTA_LENGTH_BYTE_ARRAY`, packed by [`Packer`].
//!
//! The Parquet crate's own writer lets zstd look for what repeats itself; see [`crate::matches`] for what that costs.

use arrow::array::{Array, StringArray};
use parquet::{basic::Encoding, errors::ParquetError, schema::types::ColumnDescPtr};

use crate::{
    chunk::{Chunk, Closed, PAGE_ROWS, Page},
    numbers::pack_differences,
    pack::{By, Packer},
    places::PADDING,
};

/// A page is closed when its texts take so many bytes. What is made of them then still lies in a core's cache.
const PAGE_BYTES: usize = 256 << 10;
/// Both ways of packing are tried with one of so many pages, and the better one is gone on with.
const PAGES_BY_ONE: usize = 32;
/// More than the lengths of a page take: four bytes each, and what every 128 of them have beside.
const LENGTHS_BYTES: usize = 32 + PAGE_ROWS.div_ceil(128) * (10 + 4 + 4 * 128);

/// A column chunk of texts that are never null, as it grows.
pub(crate) struct Texts {
    chunk: Chunk,
    /// The page that grows: room for the lengths, then the texts.
    page: Vec<u8>,
    lengths: Vec<i64>,
    /// Whose matches the newest pages have.
    by: Option<By>,
    pages: usize,
}

impl Texts {
    pub fn new(column: ColumnDescPtr) -> Self {
        assert_eq!(column.max_def_level(), 0, "never null");
        let mut page = Vec::with_capacity(LENGTHS_BYTES + PAGE_BYTES + PAGE_BYTES / 8);
        page.resize(LENGTHS_BYTES, 0);
        Self { chunk: Chunk::new(column), page, lengths: Vec::new(), by: None, pages: 0 }
    }

    pub fn write(&mut self, texts: &StringArray) -> Result<(), ParquetError> {
        let (offsets, letters) = (texts.value_offsets(), texts.value_data());
        let mut from = 0;
        while from < texts.len() {
            let Self { page, lengths, .. } = self;
            let start = offsets[from];
            let room = PAGE_BYTES.saturating_sub(page.len() - LENGTHS_BYTES);
            // As many as the page takes, the one that fills it included.
            let most = (texts.len() - from).min(PAGE_ROWS - lengths.len());
            let fit = offsets[from + 1..][..most].partition_point(|end| ((end - start) as usize) < room);
            let to = from + (fit + 1).min(most);
            page.extend_from_slice(&letters[start as usize..offsets[to] as usize]);
            lengths.extend(offsets[from..=to].windows(2).map(|pair| i64::from(pair[1] - pair[0])));
            if lengths.len() == PAGE_ROWS || page.len() - LENGTHS_BYTES >= PAGE_BYTES {
                self.close_page()?;
            }
            from = to;
        }
        Ok(())
    }

    fn close_page(&mut self) -> Result<(), ParquetError> {
        let Self { chunk, page, lengths, by, pages } = self;
        if *pages % PAGES_BY_ONE == 0 {
            *by = None;
        }
        *pages += 1;
        let packed = pack_differences(lengths, 32);
        let start = LENGTHS_BYTES - packed.len();
        page[start..LENGTHS_BYTES].copy_from_slice(&packed);
        let end = page.len();
        page.resize(end + PADDING, 0);
        Packer::idle(|packer| {
            let (frame, found_by) = packer.pack(&page[start..], end - start, *by);
            // One odd page says nothing of the next ones.
            by.get_or_insert(found_by);
            chunk.push(&Page {
                rows: lengths.len(),
                encoding: Encoding::DELTA_LENGTH_BYTE_ARRAY,
                frame,
                unpacked_bytes: end - start,
                text_bytes: Some(end - LENGTHS_BYTES),
            })
        })?;
        page.truncate(LENGTHS_BYTES);
        lengths.clear();
        Ok(())
    }

    pub fn close(mut self) -> Result<Closed, ParquetError> {
        if !self.lengths.is_empty() || self.chunk.rows() == 0 {
            self.close_page()?;
        }
        self.chunk.close(None, None)
    }
}
