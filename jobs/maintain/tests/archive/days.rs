//! What archiving and restoring do when nothing goes wrong, and what they refuse.

use std::{fs, path::Path, time::Duration};

use flywheel_archive::ArchiveErrorKind;
use flywheel_maintain::{ArchiveOptions, ArchivingError, Restored};

use super::world::{DAYS, ROWS, World, before_of, day};

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_was_archived_and_restored_has_the_rows_that_it_had() {
    let world = World::new().await;
    let (before, version) = (world.rows().await, world.table().version().await.unwrap().unwrap());
    assert!(before.values().all(|rows| rows.len() as u64 == ROWS));

    let report = world.archive_before(DAYS[2]).await;
    assert_eq!((report.archived.len(), report.waiting.len()), (2, 0));
    assert_eq!(
        report.archived.iter().map(|day| (day.rows, day.files)).collect::<Vec<_>>(),
        [(ROWS, 1); 2],
        "compacted"
    );
    assert_eq!(world.rows().await.keys().collect::<Vec<_>>(), [DAYS[2]]);
    // One commit for each day, which says where its rows are; the version before it still has them.
    let history = world.table().history(1).await.unwrap();
    let note = history[0].note.as_deref().unwrap();
    assert!(note.contains(report.archived[1].manifest.as_deref().unwrap()), "{note}");
    assert!(history[0].files_removed == 1 && history[0].files_added == 0);
    assert!(history[0].positions.contains(&("archive/tank/2026-11-02".to_owned(), 1)), "{history:?}");
    assert_eq!(world.rows_as_of(version).await, before);

    for dt in &DAYS[..2] {
        let restored = world.archive().restore(&day(dt)).await.unwrap();
        assert!(matches!(restored, Restored::Done { rows: ROWS, files: 1, .. }), "{restored:?}");
        assert_eq!(world.archive().restore(&day(dt)).await.unwrap(), Restored::There, "again is harmless");
    }
    assert_eq!(world.rows().await, before);
    assert_eq!(world.table().rows().await.unwrap(), 3 * ROWS);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_statistics_of_a_restored_file_are_those_that_it_had() {
    let world = World::new().await;
    world.table().compact_day("tank", DAYS[0], 1 << 20).await.unwrap();
    let before = world.table().files().await.unwrap()[0].clone();
    world.archive_before(DAYS[1]).await;
    world.archive().restore(&day(DAYS[0])).await.unwrap();
    let mut after = world.table().files().await.unwrap()[0].clone();
    assert_ne!(after.path, before.path, "a name is used once");
    after.path.clone_from(&before.path);
    assert_eq!(after, before);
    assert!(after.ranges.contains_key("ingest_ms"), "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_the_same_and_changes_nothing() {
    let world = World::new().await;
    let (rows, version) = (world.rows().await, world.table().version().await.unwrap());
    let options = ArchiveOptions { dry_run: true, ..before_of(DAYS[2]) };
    let report = world.archive().archive(&options).await.unwrap();
    assert_eq!(report.archived.iter().map(|day| (day.rows, &day.manifest)).collect::<Vec<_>>(), [(ROWS, &None); 2]);
    assert_eq!((world.rows().await, world.table().version().await.unwrap()), (rows, version));
    assert_eq!(world.cold.list("").await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_stays_while_a_consumer_lies_before_its_last_row() {
    // A game of the second day is open: what `assemble` has closed ends within it.
    let world = World::consumed_up_to(1_030).await;
    let report = world.archive_before("2026-11-20").await;
    assert_eq!(report.archived.iter().map(|day| &*day.day.dt).collect::<Vec<_>>(), [DAYS[0]]);
    assert_eq!(report.waiting.iter().map(|day| &*day.day.dt).collect::<Vec<_>>(), &DAYS[1..]);
    assert!(report.waiting[0].why.contains("stands at offset 1030"), "{:?}", report.waiting);
    world.consumed(1_059).await;
    assert_eq!(world.archive_before("2026-11-20").await.archived.len(), 1, "its last offset is 1059");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_days_before_the_given_one_leave_and_the_default_is_by_age() {
    let world = World::new().await;
    assert!(world.archive_before(DAYS[0]).await.archived.is_empty());
    let noon_of_the_eighth = super::world::NOON + 7 * super::world::DAY_MS;
    assert_eq!(world.archive().due_before(noon_of_the_eighth), DAYS[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_come_late_to_an_archived_day_are_archived_beside_it_and_come_back_with_it() {
    let world = World::new().await;
    world.archive_before(DAYS[1]).await;
    world.append(0, 60, 75).await;
    let report = world.archive_before(DAYS[1]).await;
    assert!(
        report.archived[0].rows == 15 && report.archived[0].manifest.as_deref().unwrap().ends_with("00000002.json")
    );
    let told = &world.archive().days().await.unwrap()[0];
    assert_eq!((told.state, told.rows, told.files, told.games, told.rows_in_table), ("archived", 75, 2, 4, 0));
    let restored = world.archive().restore(&day(DAYS[0])).await.unwrap();
    assert!(matches!(restored, Restored::Done { rows: 75, files: 2, .. }), "{restored:?}");
    assert_eq!(world.rows().await[DAYS[0]].len(), 75);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_day_stays_in_the_table_until_it_is_archived_again_by_name() {
    let world = World::new().await;
    let before = world.rows().await;
    for round in 1..=3 {
        let options = ArchiveOptions { restored: true, ..before_of(DAYS[1]) };
        assert_eq!(world.archive().archive(&options).await.unwrap().archived.len(), 1, "round {round}");
        assert_eq!(world.rows().await.len(), 2);
        world.archive().restore(&day(DAYS[0])).await.unwrap();
        let report = world.archive_before(DAYS[1]).await;
        assert!(report.archived.is_empty() && report.waiting[0].why.contains("--restored"), "{report:?}");
        assert_eq!(world.rows().await, before);
        let told = &world.archive().days().await.unwrap()[0];
        assert_eq!((told.state, told.rows, told.rows_in_table), ("restored", ROWS, ROWS));
    }
    let files = world.cold.list("cold/").await.unwrap();
    assert_eq!(files.len(), 1, "the same bytes are the same object: {files:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_vacuum_the_archive_is_all_there_is_and_enough() {
    let world = World::new().await;
    let before = world.rows().await;
    world.archive_before("2026-11-20").await;
    world.table().vacuum(Duration::ZERO, false).await.unwrap();
    assert!(world.rows().await.is_empty());
    for dt in DAYS {
        world.archive().restore(&day(dt)).await.unwrap();
    }
    assert_eq!(world.rows().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_was_never_archived_is_told_so() {
    let world = World::new().await;
    let error = world.archive().restore(&day("2026-10-01")).await.unwrap_err();
    assert!(matches!(&error, ArchivingError::NotArchived(_)) && error.to_string().contains("archive ls"), "{error}");
}

fn objects(root: &Path, below: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join(below)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(objects(root, path.strip_prefix(root).unwrap().to_str().unwrap()));
        } else {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_object_is_named_and_nothing_of_it_comes_into_the_table() {
    let world = World::new().await;
    world.archive_before(DAYS[1]).await;
    let (rows, version) = (world.rows().await, world.table().version().await.unwrap());
    let file = objects(world.dir.path(), "cold").remove(0);
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let error = world.archive().restore(&day(DAYS[0])).await.unwrap_err();
    let ArchivingError::Archive(cold) = &error else { panic!("{error}") };
    assert_eq!(cold.kind(), ArchiveErrorKind::Corrupt);
    assert!(error.to_string().contains(file.file_name().unwrap().to_str().unwrap()), "{error}");
    assert_eq!((world.rows().await, world.table().version().await.unwrap()), (rows, version));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_under_the_name_of_a_file_and_is_another_keeps_the_day_in_the_table() {
    let world = World::new().await;
    world.archive_before(DAYS[1]).await;
    world.archive().restore(&day(DAYS[0])).await.unwrap();
    let before = world.rows().await;
    fs::write(objects(world.dir.path(), "cold").remove(0), "something else").unwrap();
    let options = ArchiveOptions { restored: true, ..before_of(DAYS[1]) };
    let error = world.archive().archive(&options).await.unwrap_err();
    assert!(matches!(&error, ArchivingError::Archive(cold) if cold.kind() == ArchiveErrorKind::Corrupt), "{error}");
    assert_eq!(world.rows().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_a_newer_program_is_refused() {
    let world = World::new().await;
    world.archive_before(DAYS[1]).await;
    let file = objects(world.dir.path(), "index").remove(0);
    let text = fs::read_to_string(&file).unwrap().replace("\"format\": 1", "\"format\": 2");
    fs::write(&file, text).unwrap();
    let error = world.archive().restore(&day(DAYS[0])).await.unwrap_err().to_string();
    assert!(error.contains("its format is 2") && error.contains("00000001.json"), "{error}");
}
