//! Typed access to the columns of a batch, whatever their order.

use std::mem::take;

use arrow::{
    array::{
        Array, ArrayRef, BinaryArray, BooleanArray, Float32Array, Int8Array, Int32Array, Int64Array, RecordBatch,
        StringArray, StringBuilder,
    },
    buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer},
    datatypes::SchemaRef,
};

use crate::TableError;

macro_rules! column {
    ($name:ident, $array:ty, $expected:literal) => {
        pub(crate) fn $name<'a>(
            batch: &'a RecordBatch,
            table: &'static str,
            column: &'static str,
        ) -> Result<&'a $array, TableError> {
            batch
                .column_by_name(column)
                .and_then(|array| array.as_any().downcast_ref())
                .ok_or(TableError::MissingColumn { table, column, expected: $expected })
        }
    };
}

column!(text, StringArray, "string");
column!(long, Int64Array, "long");
column!(int, Int32Array, "int");
column!(byte, Int8Array, "byte");
column!(float, Float32Array, "float");
column!(boolean, BooleanArray, "boolean");
column!(binary, BinaryArray, "binary");

pub(crate) fn optional(array: &StringArray, row: usize) -> Option<&str> {
    array.is_valid(row).then(|| array.value(row))
}

pub(crate) fn batch(schema: SchemaRef, columns: Vec<ArrayRef>) -> RecordBatch {
    RecordBatch::try_new(schema, columns).expect("builders follow the schema of their table")
}

pub(crate) fn bad(table: &'static str, column: &'static str, row: usize, reason: impl std::fmt::Display) -> TableError {
    TableError::BadValue { table, column, row, reason: reason.to_string() }
}

/// A text column whose rows mostly repeat the one before: repeats are counted, and written together.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    written: StringBuilder,
    text: String,
    again: usize,
}

impl Runs {
    #[inline]
    pub fn push(&mut self, text: &str) {
        if self.text != text {
            self.write();
            text.clone_into(&mut self.text);
        }
        self.again += 1;
    }

    /// The text before once more.
    #[inline(always)]
    pub fn push_again(&mut self) {
        self.again += 1;
    }

    pub fn finish(&mut self) -> StringArray {
        self.write();
        self.written.finish()
    }

    fn write(&mut self) {
        self.written.append_value_n(&self.text, self.again);
        self.again = 0;
    }
}

/// A text column as it grows: [`StringBuilder`] without what it asks of every row.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    letters: Vec<u8>,
    ends: Vec<i32>,
    /// Rows without a text; there are none in most columns.
    nulls: Vec<usize>,
}

impl Texts {
    pub fn with_capacity(rows: usize, letters: usize) -> Self {
        Self { letters: Vec::with_capacity(letters), ends: Vec::with_capacity(rows + 1), nulls: Vec::new() }
    }

    /// How long all texts are together.
    pub fn letters(&self) -> usize {
        self.letters.len()
    }

    #[inline(always)]
    pub fn push(&mut self, text: &str) {
        if self.ends.is_empty() {
            self.ends.push(0);
        }
        self.letters.extend_from_slice(text.as_bytes());
        self.ends.push(i32::try_from(self.letters.len()).expect("a batch has less than 2 GiB of a column"));
    }

    #[inline(always)]
    pub fn push_option(&mut self, text: Option<&str>) {
        if text.is_none() {
            self.nulls.push(self.ends.len().saturating_sub(1));
        }
        self.push(text.unwrap_or_default());
    }

    /// The rows so far; none are left.
    pub fn finish(&mut self) -> StringArray {
        let (letters, mut ends, nulls) = (take(&mut self.letters), take(&mut self.ends), take(&mut self.nulls));
        if ends.is_empty() {
            ends.push(0);
        }
        let rows = ends.len() - 1;
        let nulls = match nulls.len() {
            0 => None,
            all if all == rows => Some(NullBuffer::new_null(rows)),
            _ => {
                let mut there = vec![true; rows];
                nulls.iter().for_each(|&row| there[row] = false);
                Some(NullBuffer::from(there))
            }
        };
        // SAFETY: it begins with 0, and each end is as far as the letters went then.
        let ends = unsafe { OffsetBuffer::new_unchecked(ScalarBuffer::from(ends)) };
        // SAFETY: between two ends stands what was a `str`, and the nulls are as many as the rows.
        unsafe { StringArray::new_unchecked(ends, Buffer::from_vec(letters), nulls) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn texts_become_the_column_that_arrow_makes_of_them(
            batches in prop::collection::vec(prop::collection::vec(prop::option::of(".{0,9}"), 0..40), 1..4),
            is_never_null in any::<bool>(),
        ) {
            let mut texts = Texts::with_capacity(7, 20);
            for batch in &batches {
                let rows = batch.iter().map(|text| text.as_deref().or(is_never_null.then_some("")));
                rows.clone().for_each(|text| texts.push_option(text));
                let made = texts.finish();
                made.to_data().validate_full().unwrap();
                prop_assert_eq!(made, rows.collect::<StringArray>());
            }
        }
    }
}
