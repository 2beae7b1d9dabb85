//! Compaction and vacuum change files, never rows.

mod common;

use std::time::Duration;

use common::*;
use flywheel_lake::{CompactOptions, Lake, Range, ScanOptions};
use futures::TryStreamExt;

#[tokio::test(flavor = "multi_thread")]
async fn compaction_keeps_rows_order_positions_and_old_versions() {
    let store = memory();
    let table = events(&lake_on(&store));
    for n in 0..20u64 {
        let day = if n < 15 { NOON } else { NOON + DAY };
        table.append(vec![rows("g", n * 5, n * 5 + 5, day)], &[("a".into(), n as i64)]).await.unwrap();
    }
    let before = contents(&table).await;
    let version = table.version().await.unwrap();
    let report = table.compact_with(&CompactOptions { target_bytes: 1 << 20, min_files: 4 }).await.unwrap();
    assert_eq!((report.files_before, report.files_after, report.files_merged, report.conflicts), (20, 2, 20, 0));
    // A process that had the table open, and a fresh one.
    for table in [table.clone(), events(&lake_on(&store))] {
        assert_eq!(contents(&table).await, before);
        assert_eq!(table.position("a").await.unwrap(), Some(19));
        assert_eq!(table.rows().await.unwrap(), 100);
        let as_of = ScanOptions { version, ..ScanOptions::default() };
        assert_eq!(contents_of(&table, as_of).await, before);
    }
    let again = table.compact_with(&CompactOptions { target_bytes: 1 << 20, min_files: 4 }).await.unwrap();
    assert_eq!(again.files_merged, 0, "what is merged is left alone");
    let history = table.history(1).await.unwrap();
    assert_eq!((history[0].operation.as_str(), history[0].files_removed), ("OPTIMIZE", 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_beside_writers_and_another_compaction_loses_and_doubles_nothing() {
    let store = memory();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..2 {
        let table = events(&lake_on(&store));
        tasks.spawn(async move {
            for n in 0..30u64 {
                let game = format!("g{writer}");
                table.append(vec![rows(&game, n, n + 1, NOON)], &[(game.clone(), n as i64)]).await.unwrap();
            }
            0
        });
    }
    for _ in 0..2 {
        let table = events(&lake_on(&store));
        tasks.spawn(async move {
            let mut conflicts = 0;
            for _ in 0..12 {
                let options = CompactOptions { target_bytes: 1 << 20, min_files: 2 };
                conflicts += table.compact_with(&options).await.unwrap().conflicts;
                tokio::task::yield_now().await;
            }
            conflicts
        });
    }
    tasks.join_all().await;
    let all: Vec<_> = (0..2).flat_map(|w| expected(&format!("g{w}"), 0, 30)).collect();
    let table = events(&lake_on(&store));
    assert_eq!(sorted(contents(&table).await), sorted(all));
    assert_eq!(table.rows().await.unwrap(), 60);
}

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
