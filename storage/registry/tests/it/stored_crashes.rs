//! A trainer that dies, or is not answered, at every operation of the store while it claims and stores checkpoints.

use std::sync::Arc;

use flywheel_registry::{CheckpointStore, RegistryError};
use object_store::{ObjectStore, memory::InMemory};

use crate::faulty::{Fault, Faulty};

fn folder(steps: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["learner", "state"] {
        std::fs::write(dir.path().join(name), format!("{name} at {steps}")).unwrap();
    }
    dir
}

async fn work(store: Arc<dyn ObjectStore>, fence: i64) -> (Vec<u64>, Result<(), RegistryError>) {
    let mut stored = Vec::new();
    let go = async || {
        let mut held = CheckpointStore::open(store, "", "there").claim("run", fence).await?;
        for steps in [10, 20, 30].map(|steps| fence as u64 * 100 + steps) {
            held.save(steps, folder(steps).path()).await?;
            stored.push(steps);
        }
        Ok(())
    };
    let ended = go().await;
    (stored, ended)
}

/// What the next trainer finds: whole, and no older than what the dead one was told is there.
async fn found(inner: &Arc<dyn ObjectStore>, fence: i64, stored: &[u64], why: Fault) -> Vec<u64> {
    let held = CheckpointStore::open(Arc::clone(inner), "", "there").claim("run", fence).await.unwrap();
    for one in held.checkpoints() {
        let dir = tempfile::tempdir().unwrap();
        held.fetch(one, dir.path()).await.unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("learner")).unwrap(), format!("learner at {}", one.steps));
    }
    let steps: Vec<_> = held.checkpoints().iter().map(|one| one.steps).collect();
    assert!(steps.first() >= stored.last(), "{why:?}: told that {stored:?} are there, found {steps:?}");
    assert!(steps.is_sorted_by(|a, b| a > b), "{steps:?}");
    steps
}

#[tokio::test]
async fn a_death_at_any_operation_leaves_the_checkpoint_whole_or_the_one_before() {
    let counted = Faulty::new(Arc::new(InMemory::new()), Fault::AnswerLost(usize::MAX));
    let whole = work(counted.clone(), 1).await;
    assert_eq!(whole.0, [110, 120, 130]);
    let (mut dead, mut refused) = (0, 0);
    for at in 1..=counted.operations() {
        for fault in [Fault::KilledBefore(at), Fault::KilledAfter(at), Fault::AnswerLost(at)] {
            let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let (stored, ended) = work(Faulty::new(Arc::clone(&inner), fault), 1).await;
            dead += u64::from(ended.is_err());
            let before = found(&inner, 2, &stored, fault).await;
            // The heir goes on, and what the dead one left goes.
            let (stored, ended) = work(Arc::clone(&inner), 3).await;
            ended.unwrap();
            assert_eq!(found(&inner, 4, &stored, fault).await, [330, 320], "after {before:?}");
            refused += u64::from(work(Arc::clone(&inner), 1).await.1.is_err_and(|error| error.is_fenced()));
        }
    }
    assert!(dead > 20 && refused == 3 * counted.operations() as u64, "{dead} deaths, {refused} refused");
}

#[tokio::test]
async fn a_store_that_leaves_puts_undecided_costs_tries_and_no_checkpoint() {
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (stored, ended) = work(Faulty::new(Arc::clone(&inner), Fault::Undecided(2)), 1).await;
    ended.unwrap();
    assert_eq!(found(&inner, 2, &stored, Fault::Undecided(2)).await, [130, 120]);
}
