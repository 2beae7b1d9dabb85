use std::collections::HashSet;

use flywheel_events::ModelVersion;

use crate::{assert_whole, base, new_version, open, stores};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_publishers_get_one_version_each_without_gaps() {
    let (stores, _dir) = stores();
    for store in &stores {
        let tasks: Vec<_> = (0..8)
            .map(|seed| {
                // Each with a registry of its own, as processes have; two of them with the same weights.
                let registry = open(store);
                tokio::spawn(async move { registry.publish(new_version(seed / 2)).await.unwrap() })
            })
            .collect();
        let mut versions = HashSet::new();
        for task in tasks {
            versions.insert(task.await.unwrap().version.0);
        }
        assert_eq!(versions, (1..=8).collect(), "{store}");
        let registry = open(store);
        assert_eq!(assert_whole(&registry).await.len(), 8);
        let candidate = registry.resolve(&base(), "candidate").await.unwrap().unwrap();
        assert_eq!(candidate.version.0, 8, "the candidate never moves back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_racing_promoters_exactly_one_wins() {
    let (stores, _dir) = stores();
    for store in &stores {
        let registry = open(store);
        for seed in 1..=2 {
            registry.publish(new_version(seed)).await.unwrap();
        }
        for revision in 0..10 {
            // All want the same move for the same reason, within the same millisecond: nothing but the race differs.
            let to = ModelVersion(1 + revision % 2);
            let tasks: Vec<_> = (0..6)
                .map(|_| {
                    let registry = open(store);
                    tokio::spawn(async move { registry.promote(&base(), "champion", to, Some(revision), "race").await })
                })
                .collect();
            let mut winners = 0;
            for task in tasks {
                match task.await.unwrap() {
                    Ok(state) => {
                        assert_eq!((state.revision, state.version), (revision + 1, to));
                        winners += 1;
                    }
                    Err(error) => assert!(error.is_conflict(), "{error}"),
                }
            }
            assert_eq!(winners, 1, "{store}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_during_moves_only_see_revisions_rise() {
    let (stores, _dir) = stores();
    for store in &stores {
        let writer = open(store);
        for seed in 1..=2 {
            writer.publish(new_version(seed)).await.unwrap();
        }
        writer.promote(&base(), "champion", ModelVersion(1), Some(0), "the first").await.unwrap();
        let reader = open(store);
        let reading = tokio::spawn(async move {
            let mut last = 0;
            while last < 40 {
                let state = reader.resolve(&base(), "champion").await.unwrap().unwrap();
                assert!(state.revision >= last);
                last = state.revision;
                tokio::task::yield_now().await;
            }
        });
        for revision in 1..40 {
            let to = ModelVersion(1 + revision % 2);
            writer.promote(&base(), "champion", to, Some(revision), "to and fro").await.unwrap();
        }
        reading.await.unwrap();
    }
}
