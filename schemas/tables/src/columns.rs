//! Typed access to the columns of a batch, whatever their order.

use arrow::{
    array::{
        Array, ArrayRef, BinaryArray, BooleanArray, Float32Array, Int8Array, Int32Array, Int64Array, RecordBatch,
        StringArray, StringBuilder,
    },
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

    pub fn finish(&mut self) -> StringArray {
        self.write();
        self.written.finish()
    }

    fn write(&mut self) {
        self.written.append_value_n(&self.text, self.again);
        self.again = 0;
    }
}
