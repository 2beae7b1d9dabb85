//! Checkpoints of runs: whole or not at all, held by one, found by the next.

use std::{collections::BTreeMap, path::Path as FsPath, sync::Arc};

use flywheel_registry::{CheckpointStore, RegistryErrorKind, RunCheckpoints, StoredCheckpoint};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, path::Path};
use tempfile::TempDir;

use crate::stores;

const RUN: &str = "run-1";

fn opened(store: &Arc<dyn ObjectStore>) -> CheckpointStore {
    CheckpointStore::open(Arc::clone(store), "here/checkpoints", "the store")
}

async fn claim(store: &Arc<dyn ObjectStore>, fence: i64) -> RunCheckpoints {
    opened(store).claim(RUN, fence).await.unwrap()
}

/// Files whose contents follow from the steps; one is larger than a part.
fn files(steps: u64) -> BTreeMap<String, Vec<u8>> {
    let bytes = |n: u64, seed: u64| (0..n).map(move |i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 7) as u8);
    let large = if steps.is_multiple_of(2) { (8 << 20) + 5 } else { 4_000 };
    BTreeMap::from([
        ("learner.safetensors".to_owned(), bytes(large, steps).collect()),
        ("empty".to_owned(), Vec::new()),
        ("trainer.json".to_owned(), format!("{{\"steps\": {steps}}}").into_bytes()),
    ])
}

fn folder(steps: u64) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files(steps) {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

async fn save(held: &mut RunCheckpoints, steps: u64) -> StoredCheckpoint {
    held.save(steps, folder(steps).path()).await.unwrap()
}

fn read(dir: &FsPath) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap())
    });
    entries.collect()
}

/// Steps of what is listed, newest first; each is fetched and compared.
async fn whole(held: &RunCheckpoints) -> Vec<u64> {
    let mut steps = Vec::new();
    for one in held.checkpoints() {
        let dir = tempfile::tempdir().unwrap();
        held.fetch(one, dir.path()).await.unwrap();
        assert!(read(dir.path()) == files(one.steps), "step {}", one.steps);
        steps.push(one.steps);
    }
    steps
}

async fn names(store: &Arc<dyn ObjectStore>) -> Vec<Path> {
    let mut names: Vec<_> = store.list(None).map_ok(|object| object.location).try_collect().await.unwrap();
    names.sort();
    names
}

async fn entries(store: &Arc<dyn ObjectStore>) -> Vec<Path> {
    names(store).await.into_iter().filter(|name| name.as_ref().contains("/newest/")).collect()
}

#[tokio::test]
async fn what_one_machine_stored_the_next_one_finds_whole_and_only_the_newest_two_stay() {
    let (stores, _kept) = stores();
    for store in stores {
        let mut one = claim(&store, 1).await;
        assert_eq!(whole(&one).await, Vec::<u64>::new());
        for steps in [10, 21, 32, 43, 54, 65, 76] {
            save(&mut one, steps).await;
        }
        assert_eq!(whole(&claim(&store, 2).await).await, [76, 65]);
        let folders: std::collections::BTreeSet<_> = names(&store)
            .await
            .iter()
            .filter_map(|name| name.parts().nth(3).map(|part| part.as_ref().to_owned()))
            .collect();
        assert_eq!(folders.len(), 3, "two checkpoints and the entries: {folders:?}");
        assert!(entries(&store).await.len() <= 4);
    }
}

#[tokio::test]
async fn the_same_step_stored_again_takes_its_own_place_and_not_that_of_the_one_before() {
    let (stores, _kept) = stores();
    for store in stores {
        let mut held = claim(&store, 1).await;
        for steps in [1, 3, 3, 3] {
            save(&mut held, steps).await;
        }
        assert_eq!(whole(&claim(&store, 2).await).await, [3, 1]);
    }
}

#[tokio::test]
async fn a_trainer_whose_run_was_taken_over_is_refused_and_changes_nothing() {
    let (stores, _kept) = stores();
    for store in stores {
        let mut zombie = claim(&store, 1).await;
        save(&mut zombie, 1).await;
        let mut heir = claim(&store, 2).await;
        let before = names(&store).await;
        let error = zombie.save(99, folder(99).path()).await.unwrap_err();
        assert!(error.is_fenced(), "{error}");
        assert!(error.to_string().contains("fence 2, this one has 1"), "{error}");
        assert_eq!(names(&store).await, before, "what it had sent is gone again");
        // Also when the number it believes in has been used and removed since.
        for steps in [3, 5, 7, 9, 11, 13] {
            save(&mut heir, steps).await;
        }
        let before = names(&store).await;
        assert!(zombie.save(99, folder(99).path()).await.unwrap_err().is_fenced());
        let left: Vec<_> = names(&store).await.into_iter().filter(|name| !before.contains(name)).collect();
        assert!(left.iter().all(|name| name.as_ref().contains("/newest/")), "{left:?}");
        assert!(opened(&store).claim(RUN, 1).await.unwrap_err().is_fenced());
        assert_eq!(whole(&claim(&store, 2).await).await, [13, 11]);
        // A second claim under the same fence, by the same process, ends the first all the same.
        assert!(heir.save(15, folder(15).path()).await.unwrap_err().is_fenced());
    }
}

#[tokio::test]
async fn of_many_that_claim_and_store_at_once_each_checkpoint_that_counts_is_whole() {
    let (stores, _kept) = stores();
    for store in stores {
        let mut tasks = tokio::task::JoinSet::new();
        for fence in 1..=4 {
            let store = Arc::clone(&store);
            tasks.spawn(async move {
                let mut stored = 0;
                let Ok(mut held) = opened(&store).claim(RUN, fence).await else { return stored };
                for step in 0..4 {
                    match held
                        .save(fence as u64 * 100 + 2 * step + 1, folder(fence as u64 * 100 + 2 * step + 1).path())
                        .await
                    {
                        Ok(_) => stored += 1,
                        Err(error) => assert!(error.is_fenced(), "{error}"),
                    }
                }
                stored
            });
        }
        assert!(tasks.join_all().await.into_iter().sum::<u64>() >= 4, "the last to claim stores all of its own");
        let held = claim(&store, 9).await;
        assert_eq!(whole(&held).await, [407, 405]);
    }
}

#[tokio::test]
async fn a_file_that_was_cut_changed_or_lost_is_named_and_never_used() {
    let (stores, _kept) = stores();
    for store in stores {
        let mut held = claim(&store, 1).await;
        save(&mut held, 1).await;
        let newest = save(&mut held, 2).await;
        for file in files(2).into_keys().filter(|file| file != "empty") {
            let at = |name: &Path| name.as_ref().contains("step-000000000002") && name.as_ref().contains(&file);
            let object = names(&store).await.into_iter().find(at).unwrap();
            let bytes = store.get(&object).await.unwrap().bytes().await.unwrap();
            let mut changed = bytes.to_vec();
            changed[bytes.len() / 2] ^= 1;
            for (damage, telling) in
                [(Some(bytes.slice(..bytes.len() / 2)), "cut"), (Some(changed.into()), "SHA-256"), (None, "missing")]
            {
                match damage {
                    Some(damage) => drop(store.put(&object, PutPayload::from_bytes(damage)).await.unwrap()),
                    None => store.delete(&object).await.unwrap(),
                }
                let dir = tempfile::tempdir().unwrap();
                let error = claim(&store, 1).await.fetch(&newest, dir.path()).await.unwrap_err();
                assert_eq!(error.kind(), RegistryErrorKind::Corrupt);
                let said = error.to_string();
                for word in [telling, &file, "the store/run-1/step-000000000002"] {
                    assert!(said.contains(word), "{word}: {said}");
                }
                store.put(&object, PutPayload::from_bytes(bytes.clone())).await.unwrap();
            }
        }
        assert_eq!(whole(&claim(&store, 1).await).await, [2, 1]);
    }
}

#[tokio::test]
async fn an_entry_that_was_cut_gives_way_to_the_one_before_and_nothing_is_removed_on_its_account() {
    let (stores, _kept) = stores();
    for store in stores {
        let mut held = claim(&store, 1).await;
        for steps in [1, 3] {
            save(&mut held, steps).await;
        }
        let newest = entries(&store).await.pop().unwrap();
        let bytes = store.get(&newest).await.unwrap().bytes().await.unwrap();
        store.put(&newest, PutPayload::from_bytes(bytes.slice(..bytes.len() / 2))).await.unwrap();
        let before = names(&store).await;
        let held = claim(&store, 2).await;
        assert_eq!(whole(&held).await, [1]);
        let said = held.passed()[0].to_string();
        assert!(said.contains(newest.as_ref()) && said.contains("cut") && said.contains("the one before"), "{said}");
        for name in before {
            store.head(&name).await.unwrap();
        }
        // Where none can be read nothing is begun anew over what is there.
        for entry in entries(&store).await {
            store.put(&entry, PutPayload::from_static(b"{")).await.unwrap();
        }
        let before = names(&store).await;
        let error = opened(&store).claim(RUN, 3).await.unwrap_err();
        assert_eq!(error.kind(), RegistryErrorKind::Corrupt);
        assert!(error.to_string().contains("put one of these back"), "{error}");
        assert_eq!(names(&store).await, before);
    }
}
