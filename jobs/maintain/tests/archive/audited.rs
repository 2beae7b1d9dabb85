//! What lies in the archive counts as in the table when the books are closed.

use std::{collections::BTreeMap, sync::Arc};

use flywheel_archive::ColdStore;
use flywheel_events::{GameId, System};
use flywheel_log::{EventLog, MemoryLog, Record, Topic};
use flywheel_maintain::{Archived, AuditConfig, AuditReport, audit};

use super::world::{DAYS, World, day, event, place};

/// The log from which the table was written, whole.
async fn log_of(world: &World) -> Arc<dyn EventLog> {
    let log: Arc<dyn EventLog> = MemoryLog::new();
    let topic = Topic::new(System::Tank.topic());
    log.create_topic(&topic, 2).await.unwrap();
    for (n, _) in DAYS.iter().enumerate() {
        for row in 0..60 {
            let (game, seq, partition) = place(n as u64, row);
            let record = Record::new(game.clone(), event(&game, seq).encode());
            log.append(&topic.partition(partition), vec![record]).await.unwrap();
        }
    }
    world.consumed(2_000_000).await;
    log
}

async fn audited(world: &World, log: &Arc<dyn EventLog>, archive: Option<Arc<dyn ColdStore>>) -> AuditReport {
    let config = AuditConfig {
        topics: vec![(Topic::new(System::Tank.topic()), 2)],
        experience: Box::new(|_| None),
        acknowledged: BTreeMap::from([(GameId::new("a0").unwrap(), 39)]),
        archive: archive.map(|store| Archived::new(&world.lake, store)),
    };
    audit(log, &world.lake, &config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_books_balance_with_days_in_the_archive_and_with_days_that_came_back() {
    let world = World::new().await;
    let log = log_of(&world).await;
    let plain = audited(&world, &log, Some(Arc::clone(&world.cold))).await;
    assert!(plain.ok, "{plain:?}");
    assert_eq!((plain.totals.events_log, plain.totals.events_table, plain.totals.gaps), (180, 180, 0));
    world.archive_before(DAYS[2]).await;
    let archived = audited(&world, &log, Some(Arc::clone(&world.cold))).await;
    assert_eq!(archived, plain);
    world.archive().restore(&day(DAYS[0])).await.unwrap();
    assert_eq!(audited(&world, &log, Some(Arc::clone(&world.cold))).await, plain);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_neither_table_nor_archive_is_missed() {
    let world = World::new().await;
    let log = log_of(&world).await;
    world.archive_before(DAYS[1]).await;
    let report = audited(&world, &log, None).await;
    let missing: Vec<_> = report.bad_games().map(|game| game.game_id.as_str()).collect();
    assert_eq!(missing, ["a0", "b0"]);
    assert_eq!((report.totals.events_log, report.totals.events_table), (180, 120));
}

/// The same day twice: once in the table, once more by a manifest that says it is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_in_the_archive_and_again_in_the_table_is_doubled() {
    let world = World::new().await;
    let log = log_of(&world).await;
    world.archive_before(DAYS[1]).await;
    world.append(0, 0, 15).await;
    let report = audited(&world, &log, Some(Arc::clone(&world.cold))).await;
    assert!(!report.ok);
    assert_eq!(report.totals.duplicate_rows, 15);
}
