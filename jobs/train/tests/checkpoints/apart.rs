//! Two machines and an object store between them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use flywheel_lake::testing::{Faults, FaultyStore};
use flywheel_train::{Beat, TrainConfig, TrainError};
use object_store::memory::InMemory;

use crate::{Ground, Place, fixed, places, support::Memory};

fn stores() -> (Vec<Place>, Vec<Arc<crate::server::Server>>) {
    let (places, servers) = places();
    (places.into_iter().filter(|place| matches!(place, Place::Store(_))).collect(), servers)
}

/// A checkpoint after each step.
fn eager(until: u64) -> TrainConfig {
    TrainConfig { checkpoint_every: Duration::ZERO, ..fixed(until) }
}

#[test]
fn a_trainer_that_slept_while_another_machine_took_its_run_ends_and_overwrites_nothing() {
    let (places, _servers) = stores();
    for place in places {
        let mut ground = Ground::new(place);
        let whole = ground.undisturbed(90);
        ground.learn("a", 40);
        let handle = ground.world.handle();
        // As far as its catalog can tell it may go on for ever.
        let mut zombie = ground.session("a", &eager(u64::MAX), Memory::new(|_| Beat::Continue)).unwrap();
        let heir = AtomicBool::new(false);
        let ended = zombie.run(&handle, |step| {
            if step.step == 60 && !heir.swap(true, SeqCst) {
                drop(ground.claim());
            }
        });
        assert!(matches!(ended, Err(TrainError::Fenced)), "{ended:?}");
        // Whatever the zombie stored before it was taken over counts; nothing of what came later does.
        let found = ground.open("b").newest().unwrap().0.unwrap();
        assert!((40..=60).contains(&found.state.steps), "{}", found.state.steps);
        let steps = found.state.steps as usize;
        assert_eq!(whole[steps..], ground.learn("b", 90));
        // Back on the first machine: its own folder holds later steps of an older fence.
        let back = ground.open("a").newest().unwrap().0.unwrap();
        assert_eq!(back.state.steps, 90);
    }
}

#[test]
fn what_one_machine_made_beyond_the_point_where_another_went_on_is_left_behind() {
    let (places, _servers) = stores();
    for place in places {
        let mut ground = Ground::new(place);
        ground.learn("a", 30);
        // Two hundred steps that never reached the store.
        let lonely = Ground { world: std::mem::take(&mut ground.world), place: Place::Folder, fence: 0.into() };
        std::fs::create_dir_all(lonely.dir("any")).unwrap();
        let (from, to) = (lonely.world.dir.path().join("a"), lonely.dir("any"));
        std::fs::rename(from.join(crate::RUN), to.join(crate::RUN)).unwrap();
        let mut lonely = lonely;
        lonely.learn("a", 230);
        std::fs::rename(to.join(crate::RUN), from.join(crate::RUN)).unwrap();
        ground.world = std::mem::take(&mut lonely.world);
        ground.learn("b", 50);
        let (newest, passed) = ground.open("a").newest().unwrap();
        assert_eq!(newest.unwrap().state.steps, 50);
        assert!(passed.is_empty(), "{passed:?}");
        let left: Vec<_> = std::fs::read_dir(from.join(crate::RUN)).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_str().unwrap().contains("230")), "{left:?}");
    }
}

#[test]
fn a_store_that_is_away_delays_checkpoints_and_never_learning() {
    let faults = Arc::new(Faults::default());
    let store = FaultyStore::new(Arc::new(InMemory::new()), Arc::clone(&faults));
    let mut ground = Ground::new(Place::Store(Arc::new(store)));
    let whole = ground.undisturbed(400);
    let handle = ground.world.handle();
    let mut session = ground.session("a", &eager(400), Memory::new(|_| Beat::Continue)).unwrap();
    let mut seen = Vec::new();
    session
        .run(&handle, |step| {
            match step.step {
                20 => faults.flaky_puts(1024, 0, 1),
                390 => faults.heal(),
                _ => {}
            }
            seen.push((step.step, step.loss.to_bits()));
        })
        .unwrap();
    assert_eq!(seen, whole);
    let host = session.host();
    assert_eq!(host.checkpoints.last(), Some(&400), "what was away is told once it is there");
    assert_eq!(host.beats.last().unwrap()["checkpoint_stored_steps"], 400);
    assert_eq!(ground.open("b").newest().unwrap().0.unwrap().state.steps, 400);
}

#[test]
fn a_run_does_not_begin_anew_because_the_store_does_not_answer() {
    let faults = Arc::new(Faults::default());
    let store = FaultyStore::new(Arc::new(InMemory::new()), Arc::clone(&faults));
    let mut ground = Ground::new(Place::Store(Arc::new(store)));
    ground.learn("a", 30);
    let mut other = ground.open("b");
    faults.die_at(1, flywheel_lake::testing::Fail::Before);
    let error = other.newest().unwrap_err().to_string();
    assert!(error.contains("s3://lake/checkpoints/run-1/step-000000000030"), "{error}");
    faults.heal();
    assert_eq!(ground.open("b").newest().unwrap().0.unwrap().state.steps, 30);
}
