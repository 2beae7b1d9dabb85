/// Why rows do not fit a table, or a batch is not of a table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("`{0}` is not a table; known tables are events, transitions, episodes, evaluations, dead_letters")]
    UnknownTable(String),
    #[error("the batch has no column `{column}` of type {expected}; it was not read from table `{table}`")]
    MissingColumn { table: &'static str, column: &'static str, expected: &'static str },
    #[error("row {row} of table `{table}` has a bad `{column}`: {reason}")]
    BadValue { table: &'static str, column: &'static str, row: usize, reason: String },
    #[error("`{column}` = {value} does not fit table `{table}`")]
    OutOfRange { table: &'static str, column: &'static str, value: i64 },
}
