//! Disks that fail for a while.

use std::sync::Arc;

use flywheel_log::{EventLog, LogError, LogErrorKind, Offset, Position, ReadLimit, Record};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{
    disk::{Cut, Disk, Fault},
    workload::{Journal, check, open, records, topic, try_open, values},
};
use crate::EmbeddedLog;

async fn with_topic(disk: &Disk) -> Arc<EmbeddedLog> {
    let log = open(disk.open().unwrap());
    log.create_topic(&topic(), super::workload::LANES).await.unwrap();
    log
}

async fn append(log: &EmbeddedLog, journal: &mut Journal, n: u64) -> Result<Offset, LogError> {
    let values = values("writer", n, &mut ChaCha8Rng::seed_from_u64(n));
    let to = topic().partition(n as u32 % 3);
    let result = log.append(&to, records(&values)).await;
    journal.batches.push((to, values, result.as_ref().ok().copied()));
    result
}

/// Appends before, under and after the fault. Returns the errors met.
async fn through(disk: &Disk, log: &EmbeddedLog, journal: &mut Journal, fault: Fault) -> Vec<LogError> {
    for n in 0..20 {
        append(log, journal, n).await.unwrap();
    }
    disk.fail(fault);
    let mut errors = Vec::new();
    for n in 100..400 {
        match append(log, journal, n).await {
            Ok(_) if errors.is_empty() => {}
            Ok(_) => panic!("the fault is still there"),
            Err(error) => errors.push(error),
        }
        if errors.len() == 5 {
            break;
        }
    }
    assert!(disk.hits() > 0);
    errors
}

async fn goes_on_after(fault: Fault, hint: &str) {
    let (disk, mut journal) = (Disk::with_log(), Journal::default());
    let log = with_topic(&disk).await;
    let errors = through(&disk, &log, &mut journal, fault).await;
    assert_eq!(errors.len(), 5, "{fault:?} was never met");
    assert!(errors.iter().all(|error| error.kind() == LogErrorKind::Unavailable), "{errors:?}");
    assert!(errors.iter().any(|error| error.to_string().contains(hint)), "{}", errors[0]);
    disk.fail(Fault::None);
    for n in 1000..1020 {
        append(&log, &mut journal, n).await.unwrap();
    }
    check(&log, &journal).await.unwrap();
    // What was acknowledged after the failure builds on nothing that the disk never got.
    disk.cut_now();
    drop(log);
    let disk = Disk::holding(disk.after(Cut::Nothing, &mut ChaCha8Rng::seed_from_u64(0)));
    check(&open(disk.open().unwrap()), &journal).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_appends_with_a_hint_and_the_log_goes_on_once_there_is_space() {
    goes_on_after(Fault::Full, "free some disk space").await;
}

#[tokio::test]
async fn a_disk_that_does_not_write_for_a_while_costs_nothing_that_was_acknowledged() {
    goes_on_after(Fault::Write, "look at the disk").await;
}

#[tokio::test]
async fn a_sync_that_fails_is_not_believed_later() {
    goes_on_after(Fault::Sync, "look at the disk").await;
}

/// Why the cache is forgotten: without that, appends after a failed sync build on pages that the disk never got.
#[tokio::test]
async fn a_failed_sync_whose_pages_are_not_forgotten_is_seen_to_lose_records() {
    let (disk, mut journal) = (Disk::with_log(), Journal::default());
    disk.never_forget();
    let log = with_topic(&disk).await;
    // So large that later appends do not copy it, as they do with small batches beside them.
    let large = Record::new("game", vec![7; 200_000]);
    disk.fail(Fault::Sync);
    log.append(&topic().partition(0), vec![large]).await.unwrap_err();
    disk.fail(Fault::None);
    for n in 1..50 {
        append(&log, &mut journal, n).await.unwrap();
    }
    disk.cut_now();
    drop(log);
    let disk = Disk::holding(disk.after(Cut::Nothing, &mut ChaCha8Rng::seed_from_u64(0)));
    let found = match disk.open().and_then(try_open) {
        Ok(log) => check(&log, &journal).await,
        Err(error) => Err(error.to_string()),
    };
    found.unwrap_err();
}

#[tokio::test]
async fn what_is_there_can_be_read_while_the_disk_is_full() {
    let (disk, mut journal) = (Disk::with_log(), Journal::default());
    let log = with_topic(&disk).await;
    through(&disk, &log, &mut journal, Fault::Full).await;
    check(&log, &journal).await.unwrap();
}

#[tokio::test]
async fn a_read_error_passes_by_itself_in_a_log_that_nobody_appends_to() {
    let (disk, mut journal) = (Disk::with_log(), Journal::default());
    let log = with_topic(&disk).await;
    for n in 0..200 {
        append(&log, &mut journal, n).await.unwrap();
    }
    disk.fail(Fault::Read);
    let error = super::workload::all(&log, &topic().partition(0)).await.unwrap_err();
    assert!(error.contains("the disk does not read"), "{error}");
    for _ in 0..20 {
        let error = log.read(&topic().partition(1), Position::Start, ReadLimit::default()).await.unwrap_err();
        assert_eq!(error.kind(), LogErrorKind::Unavailable, "{error}");
    }
    disk.fail(Fault::None);
    // The first reads may come before the writer has opened the file again.
    while log.read(&topic().partition(1), Position::Start, ReadLimit::default()).await.is_err() {
        tokio::task::yield_now().await;
    }
    check(&log, &journal).await.unwrap();
    append(&log, &mut journal, 1000).await.unwrap();
    check(&log, &journal).await.unwrap();
}

#[tokio::test]
async fn a_disk_that_lost_what_it_had_synced_is_refused_rather_than_given_offsets_twice() {
    let (disk, mut journal) = (Disk::with_log(), Journal::default());
    let log = with_topic(&disk).await;
    append(&log, &mut journal, 0).await.unwrap();
    disk.lie();
    for n in 1..20 {
        append(&log, &mut journal, n).await.unwrap();
    }
    // The failed sync drops them all.
    disk.fail(Fault::Sync);
    append(&log, &mut journal, 100).await.unwrap_err();
    disk.fail(Fault::None);
    let error = append(&log, &mut journal, 101).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("lost what it had synced"), "{error}");
}
