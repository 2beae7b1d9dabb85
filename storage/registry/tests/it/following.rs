use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use flywheel_events::ModelVersion;
use flywheel_log::{EventLog, MemoryLog, Position, ReadLimit, Topic};
use flywheel_policy::{LivePolicy, Policy, Scratch, VersionedNetwork};
use flywheel_registry::{AliasState, Registry};
use object_store::{ObjectStore, memory::InMemory};
use tokio::sync::watch::Receiver;

use crate::{base, model, network, new_version, open};

/// Waits, long enough for any machine, until the watched alias names `version`.
async fn named(receiver: &mut Receiver<Option<AliasState>>, version: u64) -> AliasState {
    let arrived = receiver.wait_for(|state| state.as_ref().is_some_and(|state| state.version.0 == version));
    let state = tokio::time::timeout(Duration::from_secs(60), arrived).await.expect("the move is seen").unwrap();
    state.clone().unwrap()
}

async fn published(store: &Arc<dyn ObjectStore>, n: u64) -> Arc<Registry> {
    let registry = open(store);
    for seed in 1..=n {
        registry.publish(new_version(seed)).await.unwrap();
    }
    registry
}

#[tokio::test]
async fn a_move_of_this_process_has_arrived_when_it_returns() {
    let registry = published(&(Arc::new(InMemory::new()) as _), 2).await;
    let mut first = registry.watch(&base(), "champion").await.unwrap();
    let second = registry.watch(&base(), "champion").await.unwrap();
    assert!(first.borrow_and_update().is_none());
    let moved = registry.promote(&base(), "champion", ModelVersion(2), None, "better").await.unwrap();
    assert!(first.has_changed().unwrap());
    assert_eq!((first.borrow().as_ref(), second.borrow().as_ref()), (Some(&moved), Some(&moved)));
}

#[tokio::test]
async fn a_move_of_another_process_is_seen_without_any_hint() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let here = published(&store, 2).await;
    let there = open(&store);
    let mut champion = here.watch(&base(), "champion").await.unwrap();
    for (version, revision) in [(1, 1), (2, 2)] {
        there.promote(&base(), "champion", ModelVersion(version), Some(revision - 1), "elsewhere").await.unwrap();
        assert_eq!(named(&mut champion, version).await.revision, revision);
    }
}

#[tokio::test]
async fn a_hint_tells_other_processes_which_alias_moved() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let log: Arc<dyn EventLog> = MemoryLog::new();
    let with_hints = || Arc::new(Registry::open(Arc::clone(&store), "registry", Some(Arc::clone(&log))));
    let (here, there) = (with_hints(), with_hints());
    published(&store, 2).await;
    let mut champion = here.watch(&base(), "champion").await.unwrap();
    // The listener makes the topic; until then nobody would hear a hint.
    let topic = Topic::new("fw.models");
    while log.topics().await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    there.promote(&base(), "champion", ModelVersion(2), None, "elsewhere").await.unwrap();
    named(&mut champion, 2).await;
    let records = log.read(&topic.partition(0), Position::Start, ReadLimit::default()).await.unwrap();
    let hint: AliasState = serde_json::from_slice(&records[0].value).unwrap();
    assert_eq!((records[0].key.as_ref(), hint.version.0), (base().as_str().as_bytes(), 2));
}

#[tokio::test]
async fn a_log_that_is_away_holds_nothing_up() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    // No topic: every append fails.
    let log: Arc<dyn EventLog> = MemoryLog::new();
    let registry = Arc::new(Registry::open(Arc::clone(&store), "registry", Some(log)));
    registry.publish(new_version(1)).await.unwrap();
    registry.promote(&base(), "champion", ModelVersion(1), Some(0), "the first").await.unwrap();
    assert_eq!(open(&store).resolve(&base(), "champion").await.unwrap().unwrap().version.0, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_follows_the_champion_answers_every_decision_by_one_named_version() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let registry = published(&store, 20).await;
    registry.promote(&base(), "champion", ModelVersion(1), Some(0), "the first").await.unwrap();
    let (_, first) = registry.fetch(&model(1)).await.unwrap();
    let live = Arc::new(LivePolicy::new(Arc::new(VersionedNetwork::new(model(1), first))));

    let mut champion = registry.watch(&base(), "champion").await.unwrap();
    let (follower, follows) = (Arc::clone(&registry), Arc::clone(&live));
    let following = tokio::spawn(async move {
        loop {
            let state = champion.borrow_and_update().clone().unwrap();
            let (card, network) = follower.fetch(&model(state.version.0)).await.unwrap();
            let new = VersionedNetwork::new(model(card.version.0), network);
            new.warm(&mut Scratch::new()).unwrap();
            follows.swap(Arc::new(new));
            if state.version.0 == 20 {
                return;
            }
            champion.changed().await.unwrap();
        }
    });

    let done = Arc::new(AtomicBool::new(false));
    let deciders: Vec<_> = (0..2)
        .map(|_| {
            let (live, done) = (Arc::clone(&live), Arc::clone(&done));
            std::thread::spawn(move || {
                let answers: Vec<[f32; 3]> = (1..=20)
                    .map(|seed| {
                        let mut out = [0.0; 3];
                        network(seed).evaluate(&[0.5; 6], &mut out, &mut Scratch::new());
                        out
                    })
                    .collect();
                let (mut out, mut scratch, mut n) = ([0.0; 3], Scratch::new(), 0_u64);
                while !done.load(Ordering::Acquire) || n == 0 {
                    let policy = live.guard();
                    policy.evaluate(&[0.5; 6], &mut out, &mut scratch);
                    let version = policy.model().unwrap().version.0;
                    assert_eq!(out, answers[version as usize - 1], "version {version} answers as another");
                    n += 1;
                }
                n
            })
        })
        .collect();
    for version in 2..=20 {
        registry.promote(&base(), "champion", ModelVersion(version), Some(version - 1), "better").await.unwrap();
    }
    following.await.unwrap();
    done.store(true, Ordering::Release);
    for decider in deciders {
        assert!(decider.join().unwrap() > 0);
    }
    assert_eq!(live.model().unwrap(), model(20));
}
