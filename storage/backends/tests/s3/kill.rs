//! `kill -9` of the server while tables and aliases are written.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use flywheel_events::ModelVersion;
use flywheel_lake::{Advance, ScanOptions, TableName};

use crate::{
    assert_whole, base,
    lake_cases::{NOON, contents, expected, rows, sorted},
    new_version,
    server::{Kind, Server},
};

/// Kills, each at a moment of its own.
const KILLS: u64 = 4;
const WRITERS: u64 = 2;

/// Appends until the server is gone; then waits for it and goes on with the same rows, as a flow does.
#[tokio::test(flavor = "multi_thread")]
async fn kills_of_the_server_lose_no_commit_and_double_none() {
    let Some(mut server) = Server::start(Kind::SeaweedFs).await else { return };
    let kills: u64 = std::env::var("FLYWHEEL_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    // What each writer, and the mover of an alias, was told is there.
    let mut acknowledged = vec![0u64; WRITERS as usize];
    let mut moved = 0;
    {
        let registry = server.bucket("kill").registry(None);
        for seed in 1..=2 {
            registry.publish(new_version(seed)).await.unwrap();
        }
    }
    for kill in 0..kills {
        let progress: Arc<Vec<_>> = Arc::new((0..=WRITERS).map(|_| AtomicU64::new(0)).collect());
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let table = server.bucket("kill").lake().table(TableName::Events);
            let mut next = acknowledged[writer as usize];
            let progress = Arc::clone(&progress);
            writers.spawn(async move {
                loop {
                    let from = next.checked_sub(1).map(|n| n as i64);
                    let advance = [Advance::new(format!("app/{writer}"), from, next as i64)];
                    let batch = rows(&format!("g{writer}"), next, next + 1, NOON);
                    match table.append_from(vec![batch], &advance).await {
                        Ok(_) => {
                            next += 1;
                            progress[writer as usize].fetch_add(1, SeqCst);
                        }
                        Err(error) if error.kind().is_retryable() => return (writer, next),
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        let registry = server.bucket("kill").registry(None);
        let (mut revision, progressed) = (moved, Arc::clone(&progress));
        let mover = tokio::spawn(async move {
            loop {
                let to = ModelVersion(1 + revision % 2);
                match registry.promote(&base(), "champion", to, Some(revision), "to and fro").await {
                    Ok(state) => {
                        revision = state.revision;
                        progressed[WRITERS as usize].fetch_add(1, SeqCst);
                    }
                    // The last one before the kill arrived, and its answer did not.
                    Err(error) if error.is_conflict() => {
                        let found = registry.resolve(&base(), "champion").await.unwrap().unwrap();
                        assert_eq!(found.revision, revision + 1, "{error}");
                        revision += 1;
                    }
                    Err(_) => return revision,
                }
            }
        });
        // Not before all are at work, then at a moment of its own.
        let began = Instant::now();
        while !progress.iter().all(|n| n.load(SeqCst) > 0) {
            assert!(!mover.is_finished(), "the mover stopped before the kill");
            assert!(began.elapsed() < Duration::from_secs(60), "not all are at work: {progress:?}\n{}", server.said());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(kill * 37 % 101)).await;
        server.kill();
        for (writer, next) in writers.join_all().await {
            acknowledged[writer as usize] = next;
        }
        moved = mover.await.unwrap();
        server.launch().await;
        let table = server.bucket("kill").lake().table(TableName::Events);
        // It lists before it reads again: what holds the bytes reports a moment after what holds the names.
        let began = Instant::now();
        while let Err(error) = table.scan(ScanOptions::default()).await {
            assert!(
                error.kind().is_retryable() && began.elapsed() < Duration::from_secs(60),
                "{error}\n{}",
                server.said()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        eprintln!("kill {kill}: reads after {:?}", began.elapsed());
        let found = sorted(contents(&table).await);
        for writer in 0..WRITERS {
            let game = format!("g{writer}");
            let its: Vec<_> = found.iter().filter(|row| row.starts_with(&format!("{game}/"))).cloned().collect();
            let n = acknowledged[writer as usize];
            // The one in flight is there whole or not at all.
            assert!(
                its == sorted(expected(&game, 0, n)) || its == sorted(expected(&game, 0, n + 1)),
                "kill {kill}: {n} acknowledged, {} there",
                its.len()
            );
            assert_eq!(table.position(&format!("app/{writer}")).await.unwrap(), Some(its.len() as i64 - 1));
        }
        let registry = server.bucket("kill").registry(None);
        let champion = registry.resolve(&base(), "champion").await.unwrap().unwrap();
        assert!((moved..=moved + 1).contains(&champion.revision), "{moved} moves acknowledged, {champion:?}");
        assert_eq!(registry.moves(&base(), "champion", 0).await.unwrap().len() as u64, champion.revision);
        assert_whole(&registry).await;
    }
    // Everything in flight is settled by writing it once more.
    let table = server.bucket("kill").lake().table(TableName::Events);
    for writer in 0..WRITERS {
        let n = acknowledged[writer as usize];
        let advance = [Advance::new(format!("app/{writer}"), n.checked_sub(1).map(|n| n as i64), n as i64)];
        table.append_from(vec![rows(&format!("g{writer}"), n, n + 1, NOON)], &advance).await.unwrap();
    }
    let all: Vec<_> = (0..WRITERS).flat_map(|w| expected(&format!("g{w}"), 0, acknowledged[w as usize] + 1)).collect();
    assert_eq!(sorted(contents(&table).await), sorted(all));
    eprintln!("{kills} kills: {acknowledged:?} appends and {moved} moves acknowledged, none lost, none doubled");
}
