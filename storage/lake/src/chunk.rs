//! A column chunk that is encoded here and not by the Parquet crate, as it grows: pages one after another, and what its
//! metadata says of them. The crate writes both down.

use bytes::Bytes;
use parquet::{
    basic::{Compression, Encoding, ZstdLevel},
    column::{
        page::{CompressedPage, Page, PageWriter as _},
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

/// The pages of a column that is never null, each a zstd frame.
pub(crate) struct Chunk {
    column: ColumnDescPtr,
    encoding: Encoding,
    written: Vec<u8>,
    offsets: OffsetIndexBuilder,
    rows: usize,
    unpacked_bytes: usize,
    text_bytes: Option<i64>,
}

/// What goes into a row group: the bytes, and what is said of them.
pub(crate) type Closed = (Bytes, ColumnCloseResult);

impl Chunk {
    pub fn new(column: ColumnDescPtr, encoding: Encoding) -> Self {
        assert_eq!((column.max_def_level(), column.max_rep_level()), (0, 0), "one value a row, never null");
        let offsets = OffsetIndexBuilder::new();
        Self { column, encoding, written: Vec::new(), offsets, rows: 0, unpacked_bytes: 0, text_bytes: None }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// A page of so many rows: `frame` is what is left of `unpacked_bytes`. Of texts it is also told how long they are
    /// together.
    pub fn push(
        &mut self,
        rows: usize,
        frame: &[u8],
        unpacked_bytes: usize,
        text_bytes: Option<usize>,
    ) -> Result<(), ParquetError> {
        let page = Page::DataPage {
            buf: Bytes::copy_from_slice(frame),
            num_values: rows as u32,
            encoding: self.encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let at = self.written.len();
        let mut to = TrackedWrite::new(&mut self.written);
        let page = SerializedPageWriter::new(&mut to).write_page(CompressedPage::new(page, unpacked_bytes))?;
        to.into_inner()?;
        self.offsets.append_offset_and_size((at as u64 + page.offset) as i64, page.compressed_size as i32);
        self.offsets.append_row_count(rows as i64);
        if let Some(bytes) = text_bytes {
            self.offsets.append_unencoded_byte_array_data_bytes(Some(bytes as i64));
            *self.text_bytes.get_or_insert(0) += bytes as i64;
        }
        self.unpacked_bytes += page.uncompressed_size;
        self.rows += rows;
        Ok(())
    }

    pub fn close(self, statistics: Option<Statistics>) -> Result<Closed, ParquetError> {
        let n_bytes = self.written.len();
        let mut metadata = ColumnChunkMetaData::builder(self.column)
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_encodings(vec![Encoding::RLE, self.encoding])
            .set_total_compressed_size(n_bytes as i64)
            .set_total_uncompressed_size(self.unpacked_bytes as i64)
            .set_num_values(self.rows as i64)
            .set_data_page_offset(0)
            .set_unencoded_byte_array_data_bytes(self.text_bytes);
        if let Some(statistics) = statistics {
            metadata = metadata.set_statistics(statistics);
        }
        let close = ColumnCloseResult {
            bytes_written: n_bytes as u64,
            rows_written: self.rows as u64,
            metadata: metadata.build()?,
            bloom_filter: None,
            column_index: None,
            offset_index: Some(self.offsets.build()),
        };
        Ok((self.written.into(), close))
    }
}
