//! Compaction and vacuum change files, never rows.

mod common;

use std::time::Duration;

use common::*;
use flywheel_lake::{CompactOptions, Lake, Range, ScanOptions};
use futures::TryStreamExt;

#[tokio::test(flavor = "multi_thread")]
async fn a_vacuum_deletes_replaced_files_and_orphans_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let lake = Lake::local(dir.path()).unwrap();
    let table = events(&lake);
    for n in 0..10u64 {
        table.append(vec![rows("g", n, n + 1, NOON)], &[]).await.unwrap();
    }
    table.compact_with(&CompactOptions { target_bytes: 1 << 20, min_files: 4 }).await.unwrap();
    let orphan = dir.path().join("events/system=tank/dt=2023-11-15/part-orphan.parquet");
    std::fs::write(&orphan, b"left by a writer that died").unwrap();

    let kept = table.vacuum(Duration::from_secs(3600), false).await.unwrap();
    assert!(kept.files_deleted.is_empty(), "all of it is younger than an hour: {kept:?}");
    let version = table.version().await.unwrap();
    let told = table.vacuum(Duration::ZERO, true).await.unwrap();
    assert_eq!(table.version().await.unwrap(), version, "a dry run writes nothing");
    assert!(orphan.exists() && told.files_deleted.len() == 11, "{told:?}");
    let gone = table.vacuum(Duration::ZERO, false).await.unwrap();
    assert_eq!(gone.files_deleted.len(), 11);
    assert!(!orphan.exists());
    assert_eq!(contents(&table).await, expected("g", 0, 10));
    table.append(vec![rows("g", 10, 12, NOON)], &[]).await.unwrap();
    assert_eq!(contents(&events(&Lake::local(dir.path()).unwrap())).await, expected("g", 0, 12));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_leaves_out_what_it_need_not_read() {
    let store = memory();
    let table = events(&lake_on(&store));
    for n in 0..4u64 {
        let day = NOON + (n as i64 / 2) * DAY;
        table.append(vec![rows("g", n * 10, n * 10 + 10, day)], &[]).await.unwrap();
    }
    let files = table.files().await.unwrap();
    assert_eq!(files[1].ranges["offset"], (10, 19));
    assert_eq!(files[1].ranges["ingest_ms"], (NOON, NOON));
    let mut options = ScanOptions::columns(["seq", "dt"]);
    options.ranges.push(Range { column: "offset".into(), low: 15, high: 25 });
    let batches: Vec<_> = table.scan_stream(options).await.unwrap().try_collect().await.unwrap();
    assert_eq!(batches.iter().map(|b| b.num_rows()).sum::<usize>(), 20);
    let names: Vec<_> = batches[0].schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["dt", "seq"], "in the table's order");
    let late = ScanOptions { dt_from: Some("2023-11-16".into()), ..ScanOptions::default() };
    assert_eq!(contents_of(&table, late).await, expected("g", 20, 40));
    let newest = ScanOptions { newest_first: true, ..ScanOptions::default() };
    assert_eq!(contents_of(&table, newest).await[0], "g/30");
    assert!(table.scan(ScanOptions::columns(["nonsense"])).await.unwrap_err().to_string().contains("nonsense"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_partition_columns_give_the_right_number_of_rows() {
    let table = events(&lake_on(&memory()));
    table.append(vec![rows("g", 0, 7, NOON)], &[]).await.unwrap();
    let batches = table.scan(ScanOptions::columns(["system"])).await.unwrap();
    assert_eq!(batches.iter().map(|b| (b.num_rows(), b.num_columns())).collect::<Vec<_>>(), [(7, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_rows_are_read_a_few_at_a_time_and_small_ones_many() {
    use flywheel_tables::{DeadLetterRow, DeadLettersBuilder, TableName};
    let dir = tempfile::tempdir().unwrap();
    let lake = Lake::local(dir.path()).unwrap();
    let table = lake.table(TableName::DeadLetters);
    let mut letters = DeadLettersBuilder::new();
    for offset in 0..48_i64 {
        letters.push(&DeadLetterRow {
            system: "tank".into(),
            flow: "land".into(),
            topic: "fw.tank.events".into(),
            partition: 0,
            offset,
            ingest_ms: NOON,
            reason: "malformed".into(),
            detail: String::new(),
            // No two alike, so that no dictionary makes them small.
            raw: (0..1_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ offset as u8).collect(),
        });
    }
    table.append(vec![letters.finish()], &[]).await.unwrap();
    let sizes = async |options| {
        let batches: Vec<_> = table.scan_stream(options).await.unwrap().try_collect().await.unwrap();
        batches.iter().map(|batch| batch.num_rows()).collect::<Vec<_>>()
    };
    let whole = sizes(ScanOptions::default()).await;
    assert!(whole.iter().sum::<usize>() == 48 && whole.iter().all(|rows| *rows <= 16), "{whole:?}");
    assert_eq!(sizes(ScanOptions::columns(["offset"])).await, [48]);
}
