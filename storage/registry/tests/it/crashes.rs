use std::{sync::Arc, time::Duration};

use flywheel_events::ModelVersion;
use flywheel_registry::{Registry, RegistryError};
use object_store::{ObjectStore, memory::InMemory};

use crate::{
    assert_whole, base,
    faulty::{Fault, Faulty},
    model, new_version, open,
};

/// Version 1 is published and champion.
async fn old_state() -> Arc<dyn ObjectStore> {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let registry = open(&store);
    registry.publish(new_version(1)).await.unwrap();
    registry.promote(&base(), "champion", ModelVersion(1), Some(0), "the first").await.unwrap();
    store
}

/// What a trainer and a judge do with a new version.
async fn turn(registry: &Registry) -> Result<(), RegistryError> {
    let card = registry.publish(new_version(2)).await?;
    let champion = registry.resolve(&base(), "champion").await?.expect("there is a champion");
    registry.promote(&base(), "champion", card.version, Some(champion.revision), "better").await?;
    Ok(())
}

async fn champion(registry: &Registry) -> u64 {
    registry.resolve(&base(), "champion").await.unwrap().unwrap().version.0
}

#[tokio::test]
async fn killed_at_any_operation_a_turn_leaves_the_old_state_or_the_new_one() {
    let undisturbed = Faulty::new(old_state().await, Fault::KilledBefore(usize::MAX));
    turn(&Registry::open(undisturbed.clone(), "registry", None)).await.unwrap();
    let operations = undisturbed.operations();
    assert!(operations >= 8, "only {operations} operations are counted: does the wrapper see them all?");

    let mut seen = [false; 2];
    for at in 1..=operations {
        for fault in [Fault::KilledBefore(at), Fault::KilledAfter(at)] {
            let store = old_state().await;
            let died = turn(&Registry::open(Faulty::new(Arc::clone(&store), fault), "registry", None)).await;
            let next = open(&store);
            let cards = assert_whole(&next).await;
            assert!(cards.len() <= 2, "{fault:?} left {} versions", cards.len());
            let now = champion(&next).await;
            assert!(now == 1 || now == 2 && cards.len() == 2, "{fault:?} left champion {now}");
            assert!(died.is_err() || now == 2, "{fault:?}: done, but the champion is {now}");
            seen[now as usize - 1] = true;
            if let Some(previous) = next.resolve(&base(), "previous").await.unwrap() {
                assert_eq!((previous.version.0, now), (1, 2), "{fault:?}");
            }

            // Whoever comes next can do the whole turn, and what was left over can be collected.
            turn(&next).await.unwrap();
            let cards = assert_whole(&next).await;
            assert_eq!(champion(&next).await, cards[0].version.0, "{fault:?}");
            next.gc(Duration::ZERO).await.unwrap();
            assert_whole(&next).await;
        }
    }
    assert_eq!(seen, [true, true], "both outcomes occur");
}

#[tokio::test]
async fn a_lost_answer_makes_nothing_twice() {
    let undisturbed = Faulty::new(old_state().await, Fault::KilledBefore(usize::MAX));
    turn(&Registry::open(undisturbed.clone(), "registry", None)).await.unwrap();
    for at in 1..=undisturbed.operations() {
        let store = old_state().await;
        let outcome =
            turn(&Registry::open(Faulty::new(Arc::clone(&store), Fault::AnswerLost(at)), "registry", None)).await;
        let next = open(&store);
        let cards = assert_whole(&next).await;
        assert!(cards.len() <= 2, "lost answer {at} left {} versions", cards.len());
        if outcome.is_ok() {
            assert_eq!((champion(&next).await, cards.len()), (2, 2), "lost answer {at}");
            let state = next.resolve(&base(), "champion").await.unwrap().unwrap();
            assert_eq!(state.revision, 2, "lost answer {at} moved the champion twice");
        }
    }
}

#[tokio::test]
async fn the_weights_of_a_killed_publisher_are_collected_and_named_ones_kept() {
    let store = old_state().await;
    // Killed after its first operation, the writing of the weights.
    let dying = Faulty::new(Arc::clone(&store), Fault::KilledAfter(1));
    Registry::open(dying, "registry", None).publish(new_version(9)).await.unwrap_err();
    let registry = open(&store);
    assert_eq!(registry.gc(Duration::from_secs(3_600)).await.unwrap(), 0, "it may still be at work");
    assert_eq!(registry.gc(Duration::ZERO).await.unwrap(), 1);
    assert_eq!(registry.gc(Duration::ZERO).await.unwrap(), 0);
    registry.fetch(&model(1)).await.unwrap();
}

#[tokio::test]
async fn a_store_that_decides_nothing_at_first_is_asked_again_and_at_last_an_error() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let patient = Registry::open(Faulty::new(Arc::clone(&store), Fault::Undecided(3)), "registry", None);
    let card = patient.publish(new_version(1)).await.unwrap();
    let moved = patient.promote(&base(), "champion", card.version, Some(0), "first").await.unwrap();
    assert_eq!((card.version, moved.revision), (ModelVersion(1), 1));
    assert_eq!(assert_whole(&open(&store)).await.len(), 1, "each number was taken once");

    let never = Registry::open(Faulty::new(Arc::clone(&store), Fault::Undecided(1000)), "registry", None);
    let error = never.promote(&base(), "champion", card.version, None, "again").await;
    assert_eq!(error.unwrap().revision, 1, "where it is, nothing is written");
    let error = never.register(new_version(2)).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    assert_eq!(assert_whole(&open(&store)).await.len(), 1);
}
