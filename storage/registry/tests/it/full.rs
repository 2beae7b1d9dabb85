//! T21 for models and stored checkpoints: a store that is full, or whose disk is broken, at any put. The error names it,
//! readers see what was there before, and the same process goes on once there is space.

use std::sync::Arc;

use flywheel_events::ModelVersion;
use flywheel_registry::{CheckpointStore, Registry, RegistryError, RegistryErrorKind};
use object_store::{ObjectStore, memory::InMemory};

use crate::{
    assert_whole, base,
    faulty::{Fault, Faulty},
    new_version, open,
};

/// ENOSPC and EIO.
const ERRORS: [(i32, &str); 2] = [(28, "No space left on device"), (5, "Input/output error")];

/// Version 1 is published and champion.
async fn old_state() -> Arc<dyn ObjectStore> {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let registry = open(&store);
    registry.publish(new_version(1)).await.unwrap();
    registry.promote(&base(), "champion", ModelVersion(1), Some(0), "the first").await.unwrap();
    store
}

async fn turn(registry: &Registry) -> Result<(), RegistryError> {
    let card = registry.publish(new_version(2)).await?;
    let champion = registry.resolve(&base(), "champion").await?.expect("there is a champion");
    registry.promote(&base(), "champion", card.version, Some(champion.revision), "better").await?;
    Ok(())
}

fn named(error: &RegistryError, words: &str, why: &str) {
    assert_eq!(error.kind(), RegistryErrorKind::Unavailable, "{why}: {error}");
    assert!(error.to_string().contains(words), "{why}: {error}");
}

#[tokio::test]
async fn a_full_store_leaves_the_champion_in_place_and_the_next_try_goes_through() {
    let counted = Faulty::new(old_state().await, Fault::AnswerLost(usize::MAX));
    turn(&Registry::open(counted.clone(), "registry", None)).await.unwrap();
    let n_puts = counted.puts();
    assert!(n_puts >= 4, "weights, card, aliases: {n_puts} puts");
    let mut refused = 0;
    for (os_error, words) in ERRORS {
        for at in 1..=n_puts {
            let why = format!("put {at}, {words}");
            let inner = old_state().await;
            let store = Faulty::new(Arc::clone(&inner), Fault::PutsFail(at, os_error));
            let registry = Registry::open(store.clone(), "registry", None);
            let ended = turn(&registry).await;
            let cards = assert_whole(&open(&inner)).await;
            let champion = open(&inner).resolve(&base(), "champion").await.unwrap().unwrap().version.0;
            match &ended {
                Err(error) => {
                    named(error, words, &why);
                    refused += 1;
                }
                // Beside the point: a hint that somebody would have been glad of.
                Ok(()) => assert_eq!(champion, 2, "{why}"),
            }
            assert!(champion == 1 || cards.len() == 2, "{why}: champion {champion} of {}", cards.len());
            store.heal();
            turn(&registry).await.unwrap_or_else(|error| panic!("{why}, space again: {error}"));
            let cards = assert_whole(&open(&inner)).await;
            let champion = registry.resolve(&base(), "champion").await.unwrap().unwrap().version;
            assert_eq!(champion, cards[0].version, "{why}");
        }
    }
    assert!(refused >= 6, "{refused} puts were missed");
}

fn folder(steps: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["learner", "state"] {
        std::fs::write(dir.path().join(name), format!("{name} at {steps}")).unwrap();
    }
    dir
}

/// Steps of what another machine finds under a later fence, each fetched whole.
async fn found(store: &Arc<dyn ObjectStore>, fence: i64) -> Vec<u64> {
    let held = CheckpointStore::open(Arc::clone(store), "", "there").claim("run", fence).await.unwrap();
    for one in held.checkpoints() {
        let dir = tempfile::tempdir().unwrap();
        held.fetch(one, dir.path()).await.unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("learner")).unwrap(), format!("learner at {}", one.steps));
    }
    held.checkpoints().iter().map(|one| one.steps).collect()
}

#[tokio::test]
async fn a_full_store_keeps_the_checkpoint_before_and_takes_the_next_one_when_there_is_space() {
    // A claim is one put, a checkpoint of two files three.
    const BEFORE: usize = 10;
    let mut refused = 0;
    for (os_error, words) in ERRORS {
        for at in 1..=BEFORE {
            let why = format!("put {at}, {words}");
            let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let store = Faulty::new(Arc::clone(&inner), Fault::PutsFail(at, os_error));
            let checkpoints = CheckpointStore::open(store.clone(), "", "there");
            let mut held = match checkpoints.claim("run", 1).await {
                Ok(held) => held,
                Err(error) => {
                    named(&error, words, &why);
                    store.heal();
                    checkpoints.claim("run", 1).await.unwrap()
                }
            };
            let mut last = None;
            for steps in [10, 20, 30] {
                match held.save(steps, folder(steps).path()).await {
                    Ok(_) => last = Some(steps),
                    Err(error) => {
                        named(&error, words, &why);
                        assert_eq!(held.checkpoints().first().map(|one| one.steps), last, "{why}");
                        refused += 1;
                        store.heal();
                    }
                }
            }
            held.save(40, folder(40).path()).await.unwrap_or_else(|error| panic!("{why}, space again: {error}"));
            let steps = found(&inner, 2).await;
            assert_eq!(steps.first(), Some(&40), "{why}: {steps:?}");
            assert_eq!(steps.get(1), last.as_ref(), "{why}: {steps:?}");
        }
    }
    assert!(refused > 10, "{refused} puts were missed");
}
