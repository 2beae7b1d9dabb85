//! A column chunk that is encoded here and not by the Parquet crate, as it grows: pages one after another, and what its
//! metadata says of them. The crate writes both down.

use std::collections::BTreeSet;

use bytes::Bytes;
use parquet::{
    basic::{Compression, Encoding, ZstdLevel},
    column::{
        page::{CompressedPage, Page as DataPage, PageWriteSpec, PageWriter as _},
        writer::ColumnCloseResult,
    },
    errors::ParquetError,
    file::{
        metadata::{ColumnChunkMetaData, OffsetIndexBuilder},
        statistics::Statistics,
        writer::{SerializedPageWriter, TrackedWrite},
    },
    schema::types::ColumnDescPtr,
};

/// A page has so many rows at most, as the crate's have.
pub(crate) const PAGE_ROWS: usize = 20_000;

/// The pages of a column, each a zstd frame.
pub(crate) struct Chunk {
    column: ColumnDescPtr,
    written: Vec<u8>,
    /// Where each page is, what it takes, and its rows.
    pages: Vec<(i64, i32, i64)>,
    encodings: BTreeSet<Encoding>,
    rows: usize,
    unpacked_bytes: usize,
    /// Of the texts of each page, where it was told.
    text_bytes: Vec<Option<i64>>,
}

/// A page of so many rows: `frame` is what is left of `unpacked_bytes`. Of texts it may also be told how long they are together.
pub(crate) struct Page<'a> {
    pub rows: usize,
    pub encoding: Encoding,
    pub frame: &'a [u8],
    pub unpacked_bytes: usize,
    pub text_bytes: Option<usize>,
}

/// The texts that the pages speak of by their numbers.
pub(crate) struct Dictionary<'a> {
    pub texts: usize,
    pub frame: &'a [u8],
    pub unpacked_bytes: usize,
}

/// What goes into a row group: the bytes, and what is said of them.
pub(crate) type Closed = (Bytes, ColumnCloseResult);

impl Chunk {
    pub fn new(column: ColumnDescPtr) -> Self {
        assert_eq!(column.max_rep_level(), 0, "one value a row at most");
        Self {
            column,
            written: Vec::new(),
            pages: Vec::new(),
            encodings: [Encoding::RLE].into(),
            rows: 0,
            unpacked_bytes: 0,
            text_bytes: Vec::new(),
        }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn push(&mut self, page: &Page<'_>) -> Result<(), ParquetError> {
        let &Page { rows, encoding, frame, unpacked_bytes, text_bytes } = page;
        let data = DataPage::DataPage {
            buf: Bytes::copy_from_slice(frame),
            num_values: rows as u32,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let at = self.written.len();
        let written = write_page(&mut self.written, data, unpacked_bytes)?;
        self.pages.push((at as i64, written.compressed_size as i32, rows as i64));
        self.text_bytes.push(text_bytes.map(|bytes| bytes as i64));
        self.unpacked_bytes += written.uncompressed_size;
        self.rows += rows;
        self.encodings.insert(encoding);
        Ok(())
    }

    pub fn close(
        mut self,
        statistics: Option<Statistics>,
        dictionary: Option<Dictionary<'_>>,
    ) -> Result<Closed, ParquetError> {
        let (mut bytes, mut dictionary_at) = (Vec::new(), None);
        if let Some(Dictionary { texts, frame, unpacked_bytes }) = dictionary {
            let buf = Bytes::copy_from_slice(frame);
            let encoding = Encoding::PLAIN;
            let page = DataPage::DictionaryPage { buf, num_values: texts as u32, encoding, is_sorted: false };
            self.unpacked_bytes += write_page(&mut bytes, page, unpacked_bytes)?.uncompressed_size;
            dictionary_at = Some(0);
            self.encodings.insert(encoding);
        }
        // The pages lie behind their dictionary.
        let data_at = bytes.len() as i64;
        if data_at == 0 {
            bytes = self.written;
        } else {
            bytes.append(&mut self.written);
        }
        let mut offsets = OffsetIndexBuilder::new();
        for (at, n_bytes, rows) in &self.pages {
            offsets.append_offset_and_size(data_at + at, *n_bytes);
            offsets.append_row_count(*rows);
        }
        for text_bytes in &self.text_bytes {
            offsets.append_unencoded_byte_array_data_bytes(*text_bytes);
        }
        let mut metadata = ColumnChunkMetaData::builder(self.column)
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_encodings(self.encodings.into_iter().collect())
            .set_total_compressed_size(bytes.len() as i64)
            .set_total_uncompressed_size(self.unpacked_bytes as i64)
            .set_num_values(self.rows as i64)
            .set_dictionary_page_offset(dictionary_at)
            .set_data_page_offset(data_at)
            .set_unencoded_byte_array_data_bytes(self.text_bytes.iter().copied().sum());
        if let Some(statistics) = statistics {
            metadata = metadata.set_statistics(statistics);
        }
        let close = ColumnCloseResult {
            bytes_written: bytes.len() as u64,
            rows_written: self.rows as u64,
            metadata: metadata.build()?,
            bloom_filter: None,
            column_index: None,
            offset_index: Some(offsets.build()),
        };
        Ok((bytes.into(), close))
    }
}

fn write_page(to: &mut Vec<u8>, page: DataPage, unpacked_bytes: usize) -> Result<PageWriteSpec, ParquetError> {
    let mut to = TrackedWrite::new(to);
    let written = SerializedPageWriter::new(&mut to).write_page(CompressedPage::new(page, unpacked_bytes))?;
    to.into_inner()?;
    Ok(written)
}
