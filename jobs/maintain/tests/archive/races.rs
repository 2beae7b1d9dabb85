//! Several processes at once.

use flywheel_lake::{CompactOptions, TableName};
use flywheel_maintain::{Archive, ArchivingError, Restored};

use super::world::{DAYS, ROWS, World, archive_on, before_of, day, lake_on};

fn process(world: &World) -> Archive {
    archive_on(&lake_on(&world.tables), &world.cold)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_archive_a_day_at_once_one_moves_it() {
    for _ in 0..6 {
        let world = World::new().await;
        let before = world.rows().await;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let archive = process(&world);
            tasks.spawn(async move { archive.archive(&before_of("2026-11-20")).await.unwrap() });
        }
        let moved: u64 = tasks.join_all().await.iter().flat_map(|r| &r.archived).map(|day| day.rows).sum();
        assert_eq!(moved, 3 * ROWS);
        assert!(world.rows().await.is_empty());
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..9 {
            let archive = process(&world);
            tasks.spawn(async move { archive.restore(&day(DAYS[n % 3])).await.unwrap() });
        }
        let done = tasks.join_all().await;
        assert_eq!(done.iter().filter(|restored| matches!(restored, Restored::Done { .. })).count(), 3, "{done:?}");
        assert_eq!(world.rows().await, before);
    }
}

/// Rows that come, merges, and two that archive: what is in the table and what is in the archive is everything, once.
#[tokio::test(flavor = "multi_thread")]
async fn archiving_beside_merges_and_late_rows_loses_and_doubles_nothing() {
    let world = World::new().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let archive = process(&world);
        tasks.spawn(async move {
            for _ in 0..10 {
                match archive.archive(&before_of("2026-11-20")).await {
                    // It keeps changing, as the test makes it.
                    Ok(_) | Err(ArchivingError::Restless(_)) => {}
                    Err(error) => panic!("{error}"),
                }
                tokio::task::yield_now().await;
            }
        });
    }
    let merging = lake_on(&world.tables).table(TableName::Events);
    tasks.spawn(async move {
        for _ in 0..30 {
            merging.compact_with(&CompactOptions { target_bytes: 1 << 20, min_files: 2 }).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    for row in 60..90 {
        world.append(row % 3, row, row + 1).await;
    }
    tasks.join_all().await;
    world.archive_before("2026-11-20").await;
    assert!(world.rows().await.is_empty());
    assert_eq!(world.archive().days().await.unwrap().iter().map(|day| day.rows).sum::<u64>(), 3 * ROWS + 30);
    for dt in DAYS {
        process(&world).restore(&day(dt)).await.unwrap();
    }
    let rows: Vec<_> = world.rows().await.into_values().flatten().collect();
    let distinct: std::collections::BTreeSet<_> = rows.iter().collect();
    assert_eq!((rows.len() as u64, distinct.len() as u64), (3 * ROWS + 30, 3 * ROWS + 30));
    assert!(!world.cold.list("index/").await.unwrap().is_empty());
}
