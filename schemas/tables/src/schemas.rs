//! The columns of every table.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{
    DataType::{self, Binary, Boolean, Float32, Int8, Int32, Int64, Utf8},
    Field, Schema, SchemaRef,
};

use crate::TableName;

/// Every table is partitioned by these, in this order.
pub const PARTITION_COLUMNS: [&str; 2] = ["system", "dt"];

type Column = (&'static str, DataType, bool);

const REQUIRED: bool = false;
const OPTIONAL: bool = true;

fn build(columns: &[Column]) -> SchemaRef {
    let head = [("system", Utf8, REQUIRED), ("dt", Utf8, REQUIRED)];
    let fields = head.iter().chain(columns).map(|(name, kind, nullable)| Field::new(*name, kind.clone(), *nullable));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

static EVENTS: LazyLock<SchemaRef> = LazyLock::new(|| {
    build(&[
        ("v", Int32, REQUIRED),
        ("kind", Utf8, REQUIRED),
        ("game_id", Utf8, REQUIRED),
        ("seq", Int64, REQUIRED),
        ("ts_ms", Int64, REQUIRED),
        ("actor", Utf8, OPTIONAL),
        ("model", Utf8, OPTIONAL),
        ("payload", Utf8, REQUIRED),
        ("partition", Int32, REQUIRED),
        ("offset", Int64, REQUIRED),
        ("ingest_ms", Int64, REQUIRED),
    ])
});

/// Tank spec, section 13.
static TRANSITIONS: LazyLock<SchemaRef> = LazyLock::new(|| {
    build(&[
        ("game_id", Utf8, REQUIRED),
        ("tick", Int64, REQUIRED),
        ("tank_id", Utf8, REQUIRED),
        ("tank_label", Utf8, REQUIRED),
        ("map_key", Utf8, REQUIRED),
        ("model", Utf8, OPTIONAL),
        ("s", Binary, REQUIRED),
        ("a", Int8, REQUIRED),
        ("r", Float32, REQUIRED),
        ("s2", Binary, REQUIRED),
        ("done", Boolean, REQUIRED),
        ("epsilon", Float32, REQUIRED),
        ("episode_return", Float32, OPTIONAL),
        ("priority", Float32, REQUIRED),
    ])
});

static EPISODES: LazyLock<SchemaRef> = LazyLock::new(|| {
    build(&[
        ("game_id", Utf8, REQUIRED),
        ("seat", Utf8, REQUIRED),
        ("label", Utf8, REQUIRED),
        ("map_key", Utf8, REQUIRED),
        ("opponent", Utf8, REQUIRED),
        ("source", Utf8, REQUIRED),
        ("reason", Utf8, REQUIRED),
        ("outcome", Int32, REQUIRED),
        ("length", Int64, REQUIRED),
        ("episode_return", Float32, OPTIONAL),
        ("model", Utf8, OPTIONAL),
        ("incomplete", Boolean, REQUIRED),
        ("partition", Int32, REQUIRED),
        ("closed_offset", Int64, REQUIRED),
        ("closed_ms", Int64, REQUIRED),
    ])
});

static EVALUATIONS: LazyLock<SchemaRef> = LazyLock::new(|| {
    build(&[
        ("run_id", Utf8, REQUIRED),
        ("base_key", Utf8, REQUIRED),
        ("candidate", Int64, REQUIRED),
        ("opponent", Utf8, REQUIRED),
        ("map_key", Utf8, REQUIRED),
        ("seed", Int64, REQUIRED),
        ("seat", Utf8, REQUIRED),
        ("result", Int32, REQUIRED),
        ("ticks", Int64, REQUIRED),
        ("created_at_ms", Int64, REQUIRED),
    ])
});

static DEAD_LETTERS: LazyLock<SchemaRef> = LazyLock::new(|| {
    build(&[
        ("flow", Utf8, REQUIRED),
        ("topic", Utf8, REQUIRED),
        ("partition", Int32, REQUIRED),
        ("offset", Int64, REQUIRED),
        ("ingest_ms", Int64, REQUIRED),
        ("reason", Utf8, REQUIRED),
        ("detail", Utf8, REQUIRED),
        ("raw", Binary, REQUIRED),
    ])
});

/// The columns of a table, partition columns first.
pub fn schema(table: TableName) -> SchemaRef {
    Arc::clone(match table {
        TableName::Events => &EVENTS,
        TableName::Transitions => &TRANSITIONS,
        TableName::Episodes => &EPISODES,
        TableName::Evaluations => &EVALUATIONS,
        TableName::DeadLetters => &DEAD_LETTERS,
    })
}

/// The columns whose smallest and largest value each file tells, so that readers can skip it. All are `long`
/// or `int`: text and observations would make the commits larger than they help.
pub fn stats_columns(table: TableName) -> &'static [&'static str] {
    match table {
        TableName::Events => &["partition", "offset", "ingest_ms", "ts_ms", "seq"],
        TableName::Transitions => &["tick"],
        TableName::Episodes => &["partition", "closed_offset", "closed_ms", "length"],
        TableName::Evaluations => &["candidate", "created_at_ms"],
        TableName::DeadLetters => &["partition", "offset", "ingest_ms"],
    }
}
