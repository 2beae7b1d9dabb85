//! A process that dies at any operation of the tables' store or of the archive, having done it or not.

use std::sync::Arc;

use flywheel_archive::{ColdStore, testing::Dying};
use flywheel_lake::testing::{Fail, Faults, FaultyStore};
use flywheel_maintain::{ArchiveOptions, Restored};
use object_store::ObjectStore;

use super::world::{DAYS, ROWS, World, archive_on, before_of, day, lake_on};

/// Rows of the first day are in the table, or in the archive alone, and never in both or in neither.
async fn is_somewhere(world: &World, what: &str) {
    let lake = lake_on(&world.tables);
    let fresh = archive_on(&lake, &world.cold);
    let in_table = world.rows_by(&lake).await.get(DAYS[0]).map_or(0, Vec::len) as u64;
    let days = fresh.days().await.unwrap();
    let alone: u64 = days.iter().filter(|day| day.state == "archived").map(|day| day.rows).sum();
    assert_eq!(in_table + alone, ROWS, "{what}: {days:?}");
    if let Some(told) = days.first() {
        assert_eq!(told.rows_in_table, in_table, "{what}: {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_operation_of_the_archive_loses_and_doubles_nothing() {
    for applies in [false, true] {
        let whole = World::new().await;
        let before = whole.rows().await;
        let mut died = 0;
        for n in 1.. {
            let world = whole.fork();
            let dying = Arc::new(Dying::at(Arc::clone(&world.cold), n, applies));
            let cold: Arc<dyn ColdStore> = Arc::clone(&dying) as _;
            let archive = archive_on(&lake_on(&world.tables), &cold);
            let done = archive.archive(&before_of(DAYS[1])).await;
            is_somewhere(&world, &format!("archived, died at {n} {applies}")).await;
            let restored = if done.is_ok() { Some(archive.restore(&day(DAYS[0])).await) } else { None };
            is_somewhere(&world, &format!("restored, died at {n} {applies}")).await;
            // Somebody who knows nothing of it goes on.
            let options = ArchiveOptions { restored: true, ..before_of(DAYS[1]) };
            world.archive().archive(&options).await.unwrap();
            assert_eq!(world.rows_by(&world.lake).await.get(DAYS[0]), None, "died at {n} {applies}");
            let back = world.archive().restore(&day(DAYS[0])).await.unwrap();
            assert!(matches!(back, Restored::Done { rows: ROWS, .. }), "died at {n} {applies}: {back:?}");
            assert_eq!(world.rows_by(&world.lake).await, before, "died at {n} {applies}");
            if restored.is_some_and(|restored| restored.is_ok()) {
                break;
            }
            died = n;
        }
        assert!(died >= 12, "only {died} operations could die");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_operation_of_the_tables_store_loses_and_doubles_nothing() {
    // All of some 130 operations take minutes in a debug build; by default every fifth is the last, others each way.
    let every = std::env::var_os("FLYWHEEL_EVERY_OPERATION").is_some();
    for (how, first) in [(Fail::Before, 1), (Fail::After, 3)] {
        let whole = World::new().await;
        let before = whole.rows().await;
        let mut died = 0;
        for n in (first..).step_by(if every { 1 } else { 5 }) {
            let world = whole.fork();
            let faults = Arc::new(Faults::default());
            let broken: Arc<dyn ObjectStore> =
                Arc::new(FaultyStore::new(Arc::clone(&world.tables), Arc::clone(&faults)));
            let archive = archive_on(&lake_on(&broken), &world.cold);
            faults.die_at(n, how);
            let done = archive.archive(&before_of(DAYS[1])).await;
            is_somewhere(&world, &format!("archived, died at {n} {how:?}")).await;
            let restored = if done.is_ok() { Some(archive.restore(&day(DAYS[0])).await) } else { None };
            is_somewhere(&world, &format!("restored, died at {n} {how:?}")).await;
            let options = ArchiveOptions { restored: true, ..before_of(DAYS[1]) };
            world.archive().archive(&options).await.unwrap();
            let back = world.archive().restore(&day(DAYS[0])).await.unwrap();
            assert!(matches!(back, Restored::Done { rows: ROWS, .. }), "died at {n} {how:?}: {back:?}");
            assert_eq!(world.rows_by(&world.lake).await, before, "died at {n} {how:?}");
            if !faults.is_dead() && restored.is_some_and(|restored| restored.is_ok()) {
                break;
            }
            died = n;
            eprintln!(
                "{n} {:?} ops {}",
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() % 1000000,
                0
            );
        }
        assert!(died >= 12, "only {died} operations could die");
    }
}

/// The seal is there, its commit is not, and a merge takes the files that it names.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_a_merge_overtook_is_replaced_and_never_counted() {
    let world = World::new().await;
    let before = world.rows().await;
    // Only the commit fails: everything is copied and sealed.
    let faults = Arc::new(Faults::default());
    let broken: Arc<dyn ObjectStore> = Arc::new(FaultyStore::new(Arc::clone(&world.tables), Arc::clone(&faults)));
    for n in 1.. {
        faults.die_at(faults.operations() + n, Fail::Before);
        let _died = archive_on(&lake_on(&broken), &world.cold).archive(&before_of(DAYS[1])).await;
        faults.heal();
        if world.cold.list("index/").await.unwrap().len() == 1 {
            break;
        }
    }
    assert_eq!(world.rows().await, before);
    assert_eq!(world.archive().days().await.unwrap()[0].state, "unfinished");
    // One more file of that day, and all of them become one.
    world.append(0, 60, 61).await;
    let merged = world.table().compact_day("tank", DAYS[0], 1 << 20).await.unwrap();
    assert_eq!(merged.files_written, 1);
    let report = world.archive_before(DAYS[1]).await;
    assert_eq!(report.archived.iter().map(|day| day.rows).collect::<Vec<_>>(), [ROWS + 1]);
    assert!(report.archived[0].manifest.as_deref().unwrap().ends_with("00000002.json"), "{report:?}");
    let told = &world.archive().days().await.unwrap()[0];
    assert_eq!((told.state, told.rows), ("archived", ROWS + 1), "the attempt is not counted");
    let back = world.archive().restore(&day(DAYS[0])).await.unwrap();
    assert!(matches!(back, Restored::Done { rows: 61, files: 1, .. }), "{back:?}");
}
