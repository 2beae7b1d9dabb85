//! The state machine of runs; shaped so that every database that comes can pass it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use flywheel_catalog::{Catalog, CatalogErrorKind, RunFilter, RunState, Runs};
use serde_json::json;

const TTL: Duration = Duration::from_secs(10);

struct Fixture {
    runs: Runs,
    now: Arc<AtomicI64>,
    dir: tempfile::TempDir,
}

async fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicI64::new(1_000_000));
    let clock = Arc::clone(&now);
    let catalog = Catalog::open(&dir.path().join("catalog.sqlite")).await.unwrap();
    Fixture { runs: catalog.runs_at(Arc::new(move || clock.load(Ordering::SeqCst))), now, dir }
}

#[tokio::test]
async fn two_workers_never_hold_one_run() {
    let f = fixture().await;
    let id = f.runs.create("train", &json!({"seed": 7})).await.unwrap();
    let other = Catalog::open(&f.dir.path().join("catalog.sqlite")).await.unwrap().runs_at(Arc::new(|| 1_000_000));
    let (a, b) = tokio::join!(f.runs.lease(&id, "a", TTL), other.lease(&id, "b", TTL));
    assert_eq!(u8::from(a.is_ok()) + u8::from(b.is_ok()), 1);
    let error = a.err().or(b.err()).unwrap();
    assert_eq!(error.kind(), CatalogErrorKind::Conflict);
    assert!(error.to_string().contains("holds it"), "{error}");
}

#[tokio::test]
async fn a_dead_workers_run_is_leased_again_and_the_zombie_changes_nothing() {
    let f = fixture().await;
    let id = f.runs.create("train", &json!({})).await.unwrap();
    let dead = f.runs.lease(&id, "dead", TTL).await.unwrap();
    f.runs.checkpoint(&dead, "checkpoints/1").await.unwrap();
    f.now.fetch_add(9_999, Ordering::SeqCst);
    assert!(f.runs.lease(&id, "heir", TTL).await.is_err());
    f.now.fetch_add(1, Ordering::SeqCst);
    let heir = f.runs.lease(&id, "heir", TTL).await.unwrap();
    assert!(heir.fence > dead.fence);
    assert!(f.runs.heartbeat(&dead, &json!({"steps": 9})).await.unwrap_err().is_fenced());
    assert!(f.runs.checkpoint(&dead, "checkpoints/evil").await.unwrap_err().is_fenced());
    assert!(f.runs.finish(&dead, RunState::Completed, None).await.unwrap_err().is_fenced());
    assert!(f.runs.check(&dead).await.unwrap_err().is_fenced());
    f.runs.check(&heir).await.unwrap();
    let run = f.runs.get(&id).await.unwrap();
    assert_eq!((run.state, run.checkpoint.as_deref()), (RunState::Running, Some("checkpoints/1")));
    assert_eq!(run.progress, json!({}));
}

#[tokio::test]
async fn a_heartbeat_keeps_the_lease_and_brings_the_stop() {
    let f = fixture().await;
    let id = f.runs.create("train", &json!({})).await.unwrap();
    let lease = f.runs.lease(&id, "a", TTL).await.unwrap();
    for step in 0..5 {
        f.now.fetch_add(8_000, Ordering::SeqCst);
        assert!(!f.runs.heartbeat(&lease, &json!({"steps": step})).await.unwrap().stop_requested);
    }
    assert_eq!(f.runs.request_stop(&id).await.unwrap(), RunState::Stopping);
    assert!(f.runs.heartbeat(&lease, &json!({"steps": 5})).await.unwrap().stop_requested);
    f.runs.checkpoint(&lease, "checkpoints/5").await.unwrap();
    f.runs.finish(&lease, RunState::Stopped, None).await.unwrap();
    assert!(f.runs.lease(&id, "b", TTL).await.is_err(), "a stopped run waits for a resume");
    assert_eq!(f.runs.resume(&id).await.unwrap(), RunState::Queued);
    let again = f.runs.lease(&id, "b", TTL).await.unwrap();
    assert!(again.fence > lease.fence);
    let run = f.runs.get(&id).await.unwrap();
    assert_eq!((run.checkpoint.as_deref(), run.progress), (Some("checkpoints/5"), json!({"steps": 5})));
}

#[tokio::test]
async fn what_the_state_does_not_allow_is_refused_by_name() {
    let f = fixture().await;
    let id = f.runs.create("train", &json!({})).await.unwrap();
    assert!(f.runs.resume(&id).await.unwrap_err().to_string().contains("it is queued"));
    assert_eq!(f.runs.request_stop(&id).await.unwrap(), RunState::Stopped);
    assert!(f.runs.request_stop(&id).await.unwrap_err().to_string().contains("it is stopped"));
    assert!(f.runs.get(&"train-nothere".parse().unwrap()).await.unwrap_err().is_not_found());
    assert!("../etc".parse::<flywheel_catalog::RunId>().is_err());
    f.runs.resume(&id).await.unwrap();
    let lease = f.runs.lease(&id, "a", TTL).await.unwrap();
    f.runs.finish(&lease, RunState::Failed, Some("the disk is full")).await.unwrap();
    assert_eq!(f.runs.get(&id).await.unwrap().error.as_deref(), Some("the disk is full"));
    let failed = RunFilter { state: Some(RunState::Failed), ..Default::default() };
    assert_eq!(f.runs.list(failed).await.unwrap().len(), 1);
    assert!(f.runs.list(RunFilter { kind: Some("judge".into()), ..Default::default() }).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_worker_takes_the_oldest_run_of_its_kind_and_no_two_the_same() {
    let f = fixture().await;
    assert!(f.runs.lease_next("train", "a", TTL).await.unwrap().is_none());
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(f.runs.create("train", &json!({})).await.unwrap());
        f.runs.create("judge", &json!({})).await.unwrap();
        f.now.fetch_add(1, Ordering::SeqCst);
    }
    let other = Catalog::open(&f.dir.path().join("catalog.sqlite")).await.unwrap().runs_at(Arc::new(|| 1_000_010));
    let (a, b) = tokio::join!(f.runs.lease_next("train", "a", TTL), other.lease_next("train", "b", TTL));
    let mut taken = vec![a.unwrap().unwrap().run, b.unwrap().unwrap().run];
    taken.push(f.runs.lease_next("train", "a", TTL).await.unwrap().unwrap().run);
    taken.push(other.lease_next("train", "b", TTL).await.unwrap().unwrap().run);
    taken[..2].sort_by_key(|id| ids.iter().position(|known| known == id));
    assert_eq!(taken, ids);
    assert!(f.runs.lease_next("train", "a", TTL).await.unwrap().is_none());
    f.now.fetch_add(TTL.as_millis() as i64 + 10, Ordering::SeqCst);
    let heir = f.runs.lease_next("train", "c", TTL).await.unwrap().unwrap();
    assert_eq!((&heir.run, heir.fence), (&ids[0], 2));
}

#[tokio::test]
async fn a_run_whose_worker_died_stops_at_once_and_stays_stopped() {
    let f = fixture().await;
    let id = f.runs.create("train", &json!({})).await.unwrap();
    let dead = f.runs.lease(&id, "dead", TTL).await.unwrap();
    f.now.fetch_add(10_000, Ordering::SeqCst);
    assert_eq!(f.runs.request_stop(&id).await.unwrap(), RunState::Stopped);
    assert!(f.runs.heartbeat(&dead, &json!({})).await.unwrap_err().is_fenced());
    f.runs.resume(&id).await.unwrap();
    assert!(f.runs.checkpoint(&dead, "late").await.unwrap_err().is_fenced(), "between resume and lease too");
}

#[tokio::test]
async fn a_run_does_not_finish_as_running() {
    let f = fixture().await;
    let id = f.runs.create("train", &json!({})).await.unwrap();
    let lease = f.runs.lease(&id, "a", TTL).await.unwrap();
    let error = f.runs.finish(&lease, RunState::Running, None).await.unwrap_err();
    assert_eq!(error.kind(), CatalogErrorKind::Conflict);
    f.runs.finish(&lease, RunState::Queued, None).await.unwrap();
    assert_eq!(f.runs.lease(&id, "b", TTL).await.unwrap().fence, 2);
}

#[tokio::test]
async fn what_was_written_is_there_when_it_is_opened_again() {
    let f = fixture().await;
    let id = f.runs.create("train", &json!({"seed": 7})).await.unwrap();
    let before = f.runs.get(&id).await.unwrap();
    let again = Catalog::open(&f.dir.path().join("catalog.sqlite")).await.unwrap();
    assert_eq!(again.runs().get(&id).await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_processes_may_open_a_new_catalog_at_once() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("catalog.sqlite");
        let opening: Vec<_> = (0..6)
            .map(|_| {
                let file = file.clone();
                tokio::spawn(
                    async move { Catalog::open(&file).await.unwrap().runs().create("train", &json!({})).await },
                )
            })
            .collect();
        for opened in opening {
            opened.await.unwrap().unwrap();
        }
        let all = Catalog::open(&file).await.unwrap().runs().list(RunFilter::default()).await.unwrap();
        assert_eq!(all.len(), 6);
    }
}

#[tokio::test]
async fn a_catalog_of_a_newer_program_or_another_file_is_refused_and_left_alone() {
    let f = fixture().await;
    let file = f.dir.path().join("catalog.sqlite");
    let id = f.runs.create("train", &json!({})).await.unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations SELECT 9999, 'newer', installed_on, success, checksum, execution_time FROM _sqlx_migrations";
    sqlx::query(newer).execute(&pool).await.unwrap();
    let error = Catalog::open(&file).await.unwrap_err();
    assert!(error.to_string().contains("written by a newer flywheel"), "{error}");
    sqlx::query("DELETE FROM _sqlx_migrations WHERE version = 9999").execute(&pool).await.unwrap();
    Catalog::open(&file).await.unwrap().runs().get(&id).await.unwrap();

    let other = f.dir.path().join("photo.jpg");
    std::fs::write(&other, [0xff; 4096]).unwrap();
    let error = Catalog::open(&other).await.unwrap_err();
    assert!(error.to_string().contains("photo.jpg"), "{error}");
    assert_eq!(std::fs::read(&other).unwrap(), [0xff; 4096]);
}
