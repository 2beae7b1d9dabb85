//! T4 for tables: whatever bit of a data file flips, it is told of, with the file and the place.

mod common;

use std::{path::PathBuf, sync::Arc};

use common::*;
use flywheel_lake::{CompactOptions, DataFile, Lake, LakeConfig, LakeErrorKind, ScanOptions, Table};
use flywheel_tables::{DeadLetterRow, DeadLettersBuilder, TableName};
use futures::{TryStreamExt, stream};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// `FLYWHEEL_FLIPS=10000` is the long form.
fn flips() -> usize {
    std::env::var("FLYWHEEL_FLIPS").map_or(400, |flips| flips.parse().expect("FLYWHEEL_FLIPS is a number"))
}

/// A lake on local disk with files of one row group and of several, merged ones among them, and binary columns.
async fn filled(dir: &std::path::Path) -> Vec<Table> {
    let lake = Lake::local_with_config(dir, LakeConfig { row_group_rows: 40, ..LakeConfig::default() }).unwrap();
    let table = events(&lake);
    for n in 0..6u64 {
        table.append(vec![rows("g", n * 20, n * 20 + 20, NOON)], &[]).await.unwrap();
    }
    table.compact_with(&CompactOptions { target_bytes: 1 << 20, min_files: 4 }).await.unwrap();
    table.append(vec![rows("g", 120, 130, NOON + DAY)], &[]).await.unwrap();
    let mut letters = DeadLettersBuilder::new();
    for offset in 0..100 {
        letters.push(&DeadLetterRow {
            system: "tank".into(),
            flow: "land".into(),
            topic: "fw.tank.events".into(),
            partition: 0,
            offset,
            ingest_ms: NOON,
            reason: "malformed".into(),
            detail: format!("at byte {offset}"),
            raw: offset.to_le_bytes().repeat(3),
        });
    }
    let dead = lake.table(TableName::DeadLetters);
    dead.append(vec![letters.finish()], &[]).await.unwrap();
    vec![table, dead]
}

/// The bytes that a message speaks of.
fn told(message: &str) -> Option<std::ops::Range<u64>> {
    let (_, rest) = message.split_once("bytes ")?;
    let (from, rest) = rest.split_once("..")?;
    Some(from.parse().ok()?..rest.split(' ').next()?.parse().ok()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flipped_bit_of_a_data_file_is_found_and_its_file_and_place_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut places = Vec::new();
    for table in filled(dir.path()).await {
        for file in table.files().await.unwrap() {
            places.push((table.clone(), file));
        }
    }
    assert_eq!(places.len(), 3);
    let mut random = ChaCha8Rng::seed_from_u64(4);
    for round in 0..flips() {
        let (table, file) = &places[random.random_range(0..places.len())];
        let path: PathBuf = dir.path().join(table.name().as_str()).join(&file.path);
        let good = std::fs::read(&path).unwrap();
        let (at, bit) = (random.random_range(0..good.len()), random.random_range(0..8));
        let mut bad = good.clone();
        bad[at] ^= 1 << bit;
        std::fs::write(&path, bad).unwrap();
        let audited = table.verify_file(file).await;
        let scanned = table.scan(ScanOptions::default()).await.map(|batches| batches.len());
        std::fs::write(&path, good).unwrap();
        for (how, error) in [("audit", audited.unwrap_err()), ("scan", scanned.unwrap_err())] {
            let why = format!("round {round}, {how}, bit {bit} of byte {at}: {error}");
            assert_eq!(error.kind(), LakeErrorKind::Corrupt, "{why}");
            assert!(error.to_string().contains(&file.path), "{why}");
            assert!(told(&error.to_string()).is_some_and(|bytes| bytes.contains(&(at as u64))), "{why}");
        }
    }
    for (table, file) in &places {
        assert!(table.verify_file(file).await.unwrap(), "{file:?}");
    }
    println!("{} flips: each found by a scan and by an audit, its file and place named", flips());
}

/// A table in an object store that does not hand out files, but bytes.
async fn on_memory() -> (Arc<dyn ObjectStore>, Table, DataFile, Path) {
    let store = memory();
    let table = events(&lake_on(&store));
    table.append(vec![rows("g", 0, 300, NOON)], &[]).await.unwrap();
    let file = table.files().await.unwrap().remove(0);
    let path = Path::from(format!("warehouse/lake/events/{}", file.path));
    (store, table, file, path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_of_an_object_is_found_by_whoever_reads_that_column_and_by_an_audit() {
    let (store, table, file, path) = on_memory().await;
    let good = store.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
    // In the largest chunk, which is that of the payloads.
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let (mut found, mut elsewhere) = (0, 0);
    for _ in 0..100 {
        let mut bad = good.clone();
        let at = random.random_range(0..bad.len());
        bad[at] ^= 1 << random.random_range(0..8);
        store.put(&path, bad.into()).await.unwrap();
        let error = table.verify_file(&file).await.unwrap_err();
        assert_eq!(error.kind(), LakeErrorKind::Corrupt, "{error}");
        assert!(told(&error.to_string()).is_some_and(|bytes| bytes.contains(&(at as u64))), "{at}: {error}");
        let in_payload = error.to_string().contains("column `payload`");
        match table.scan(ScanOptions::columns(["payload"])).await {
            Err(error) => {
                assert_eq!(error.kind(), LakeErrorKind::Corrupt, "{error}");
                found += usize::from(in_payload);
            }
            Ok(batches) => {
                assert!(!in_payload, "{error}");
                assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 300);
                elsewhere += 1;
            }
        }
    }
    assert!(found > 0 && elsewhere > 0, "{found} in the payloads, {elsewhere} in columns that were not read");
}

#[tokio::test(flavor = "multi_thread")]
async fn checksums_outlive_checkpoints_merges_and_files_that_leave_and_come_back() {
    let store = memory();
    let table = events(&lake_on(&store));
    for n in 0..23u64 {
        table.append(vec![rows("g", n * 10, n * 10 + 10, NOON)], &[]).await.unwrap();
    }
    // Read from the checkpoint, by somebody who has followed no commit.
    let whole = async |table: &Table, files: usize| {
        let found = table.files().await.unwrap();
        assert_eq!(found.len(), files);
        for file in &found {
            assert!(file.sums.is_some() && table.verify_file(file).await.unwrap(), "{file:?}");
        }
        found
    };
    whole(&table, 23).await;
    assert!(store.get(&Path::from("warehouse/lake/events/_delta_log/_last_checkpoint")).await.is_ok());
    assert_eq!(whole(&events(&lake_on(&store)), 23).await, table.files().await.unwrap());
    table.compact_with(&CompactOptions { target_bytes: 1 << 20, min_files: 4 }).await.unwrap();
    let merged = whole(&table, 1).await.remove(0);

    let bytes = table.file_bytes(&merged).await.unwrap();
    table.take_out(std::slice::from_ref(&merged), &[], "gone").await.unwrap();
    let stored = table.store_file(&merged, stream::iter([Ok::<_, flywheel_lake::LakeError>(bytes)])).await.unwrap();
    table.put_back(vec![stored], &[], "back").await.unwrap();
    let back = whole(&table, 1).await.remove(0);
    assert!(back.path != merged.path && back.sums == merged.sums);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_without_checksums_are_read_as_before_and_an_audit_says_so() {
    let (store, _, file, path) = on_memory().await;
    let commit = Path::from(format!("warehouse/lake/events/_delta_log/{:020}.json", 1));
    let entry = store.get(&commit).await.unwrap().bytes().await.unwrap();
    let mut lines: Vec<serde_json::Value> =
        std::str::from_utf8(&entry).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &mut lines {
        if let Some(add) = line.get_mut("add") {
            assert!(add.as_object_mut().unwrap().remove("tags").is_some(), "they lie in the tags");
        }
    }
    let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
    store.put(&commit, (text.join("\n") + "\n").into()).await.unwrap();
    let old = events(&lake_on(&store));
    let found = old.files().await.unwrap();
    assert_eq!(found, [DataFile { sums: None, ..file.clone() }]);
    assert!(!old.verify_file(&found[0]).await.unwrap());
    assert_eq!(contents(&old).await, expected("g", 0, 300));

    // Its length and rows are known all the same, and a decoder that panics is no end of the rows.
    let good = store.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
    for at in 0..good.len().min(400) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        store.put(&path, bad.into()).await.unwrap();
        let batches = old.scan_stream(ScanOptions::columns(["seq"])).await.unwrap();
        if let Ok(batches) = batches.try_collect::<Vec<_>>().await {
            assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 300, "byte {at}");
        }
    }
    store.put(&path, good[1..].to_vec().into()).await.unwrap();
    assert_eq!(old.verify_file(&found[0]).await.unwrap_err().kind(), LakeErrorKind::Corrupt);
}
