//! The state machine of runs, on every database that there is: one suite, each case a test of its own for each.

mod opening;
mod server;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use flywheel_catalog::{Catalog, CatalogError, CatalogErrorKind, RunFilter, RunState, Runs};
use serde_json::json;

use crate::server::Postgres;

const TTL: Duration = Duration::from_secs(10);

/// A database of its own for one test.
#[derive(Debug, Clone)]
enum Place {
    Sqlite(PathBuf),
    Postgres(String),
}

impl Place {
    async fn open(&self) -> Result<Catalog, CatalogError> {
        match self {
            Self::Sqlite(file) => Catalog::open(file).await,
            Self::Postgres(url) => Catalog::connect(url).await,
        }
    }
}

struct Fixture {
    runs: Runs,
    now: Arc<AtomicI64>,
    place: Place,
    _dir: tempfile::TempDir,
}

impl Fixture {
    async fn on(place: Place, dir: tempfile::TempDir) -> Self {
        let now = Arc::new(AtomicI64::new(1_000_000));
        let clock = Arc::clone(&now);
        let runs = place.open().await.unwrap().runs_at(Arc::new(move || clock.load(Ordering::SeqCst)));
        Self { runs, now, place, _dir: dir }
    }

    /// The same database, as another process sees it.
    async fn open(&self) -> Catalog {
        self.place.open().await.unwrap()
    }
}

fn sqlite() -> (Place, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Place::Sqlite(dir.path().join("catalog.sqlite")), dir)
}

/// `None` where PostgreSQL is not installed.
async fn postgres() -> Option<(Place, tempfile::TempDir)> {
    let url = Postgres::running()?.new_database().await;
    Some((Place::Postgres(url), tempfile::tempdir().unwrap()))
}

macro_rules! on_every_database {
    ($($case:ident,)*) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let (place, dir) = super::sqlite();
                super::$case(super::Fixture::on(place, dir).await).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let Some((place, dir)) = super::postgres().await else { return };
                super::$case(super::Fixture::on(place, dir).await).await;
            })*
        }
    };
}

// Behind the macro that it uses.
mod keys;

on_every_database! {
    two_workers_never_hold_one_run,
    a_dead_workers_run_is_leased_again_and_the_zombie_changes_nothing,
    a_heartbeat_keeps_the_lease_and_brings_the_stop,
    a_clock_that_jumps_an_hour_either_way_lets_nobody_work_on_a_lost_run,
    what_the_state_does_not_allow_is_refused_by_name,
    a_worker_takes_the_oldest_run_of_its_kind_and_no_two_the_same,
    a_run_whose_worker_died_stops_at_once_and_stays_stopped,
    a_run_does_not_finish_as_running,
    what_was_written_is_there_when_it_is_opened_again,
    many_workers_that_ask_at_once_get_every_run_once_and_oldest_first,
    what_a_worker_says_is_kept_as_it_is,
}

async fn two_workers_never_hold_one_run(f: Fixture) {
    let id = f.runs.create("train", &json!({"seed": 7})).await.unwrap();
    let other = f.open().await.runs_at(Arc::new(|| 1_000_000));
    let (a, b) = tokio::join!(f.runs.lease(&id, "a", TTL), other.lease(&id, "b", TTL));
    assert_eq!(u8::from(a.is_ok()) + u8::from(b.is_ok()), 1);
    let error = a.err().or(b.err()).unwrap();
    assert_eq!(error.kind(), CatalogErrorKind::Conflict);
    assert!(error.to_string().contains("holds it"), "{error}");
}

async fn a_dead_workers_run_is_leased_again_and_the_zombie_changes_nothing(f: Fixture) {
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

async fn a_clock_that_jumps_an_hour_either_way_lets_nobody_work_on_a_lost_run(f: Fixture) {
    const HOUR_MS: i64 = 3_600_000;
    let id = f.runs.create("train", &json!({})).await.unwrap();
    let first = f.runs.lease(&id, "first", TTL).await.unwrap();
    // Forwards: to the database it looks dead. Until somebody takes the run it is its own, and then no more.
    f.now.fetch_add(HOUR_MS, Ordering::SeqCst);
    f.runs.checkpoint(&first, "checkpoints/1").await.unwrap();
    let second = f.runs.lease(&id, "second", TTL).await.unwrap();
    assert!(f.runs.heartbeat(&first, &json!({"steps": 9})).await.unwrap_err().is_fenced());
    assert!(f.runs.checkpoint(&first, "checkpoints/evil").await.unwrap_err().is_fenced());
    assert!(f.runs.check(&first).await.unwrap_err().is_fenced());
    // Back again: its lease lies an hour ahead, and only its own worker goes on.
    f.now.fetch_sub(HOUR_MS, Ordering::SeqCst);
    assert!(f.runs.lease(&id, "third", TTL).await.is_err());
    assert!(f.runs.check(&first).await.unwrap_err().is_fenced());
    f.runs.checkpoint(&second, "checkpoints/2").await.unwrap();
    // Its next word brings the lease back to what it should be: if it dies then, another need not wait for an hour.
    f.runs.heartbeat(&second, &json!({"steps": 10})).await.unwrap();
    f.now.fetch_add(TTL.as_millis() as i64 + 1, Ordering::SeqCst);
    let third = f.runs.lease(&id, "third", TTL).await.unwrap();
    assert!(third.fence > second.fence && second.fence > first.fence);
    for lost in [&first, &second] {
        assert!(f.runs.finish(lost, RunState::Completed, None).await.unwrap_err().is_fenced());
    }
    assert_eq!(f.runs.get(&id).await.unwrap().checkpoint.as_deref(), Some("checkpoints/2"));
}

async fn a_heartbeat_keeps_the_lease_and_brings_the_stop(f: Fixture) {
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

async fn what_the_state_does_not_allow_is_refused_by_name(f: Fixture) {
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

async fn a_worker_takes_the_oldest_run_of_its_kind_and_no_two_the_same(f: Fixture) {
    assert!(f.runs.lease_next("train", "a", TTL).await.unwrap().is_none());
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(f.runs.create("train", &json!({})).await.unwrap());
        f.runs.create("judge", &json!({})).await.unwrap();
        f.now.fetch_add(1, Ordering::SeqCst);
    }
    let other = f.open().await.runs_at(Arc::new(|| 1_000_010));
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

async fn a_run_whose_worker_died_stops_at_once_and_stays_stopped(f: Fixture) {
    let id = f.runs.create("train", &json!({})).await.unwrap();
    let dead = f.runs.lease(&id, "dead", TTL).await.unwrap();
    f.now.fetch_add(10_000, Ordering::SeqCst);
    assert_eq!(f.runs.request_stop(&id).await.unwrap(), RunState::Stopped);
    assert!(f.runs.heartbeat(&dead, &json!({})).await.unwrap_err().is_fenced());
    f.runs.resume(&id).await.unwrap();
    assert!(f.runs.checkpoint(&dead, "late").await.unwrap_err().is_fenced(), "between resume and lease too");
}

async fn a_run_does_not_finish_as_running(f: Fixture) {
    let id = f.runs.create("train", &json!({})).await.unwrap();
    let lease = f.runs.lease(&id, "a", TTL).await.unwrap();
    let error = f.runs.finish(&lease, RunState::Running, None).await.unwrap_err();
    assert_eq!(error.kind(), CatalogErrorKind::Conflict);
    f.runs.finish(&lease, RunState::Queued, None).await.unwrap();
    assert_eq!(f.runs.lease(&id, "b", TTL).await.unwrap().fence, 2);
}

async fn what_was_written_is_there_when_it_is_opened_again(f: Fixture) {
    let id = f.runs.create("train", &json!({"seed": 7})).await.unwrap();
    let before = f.runs.get(&id).await.unwrap();
    let again = f.open().await;
    assert_eq!(again.runs().get(&id).await.unwrap(), before);
}

/// What a subselect without locks gets wrong on PostgreSQL: workers that wait for the same row take it one after the
/// other, or find nothing though there is more.
async fn many_workers_that_ask_at_once_get_every_run_once_and_oldest_first(f: Fixture) {
    const WORKERS: usize = 8;
    let mut ids = Vec::new();
    for _ in 0..WORKERS * 5 {
        ids.push(f.runs.create("train", &json!({})).await.unwrap());
        f.now.fetch_add(1, Ordering::SeqCst);
    }
    let mut workers = tokio::task::JoinSet::new();
    for n in 0..WORKERS {
        let runs = f.open().await.runs_at(Arc::new(|| 1_000_100));
        workers.spawn(async move {
            let mut mine = Vec::new();
            for _ in 0..5 {
                let lease = runs.lease_next("train", &format!("w{n}"), TTL).await.unwrap();
                let lease = lease.expect("there are as many runs as there are questions");
                assert_eq!(lease.fence, 1, "nobody had it before");
                runs.check(&lease).await.unwrap();
                mine.push(lease.run);
            }
            mine
        });
    }
    let mut taken = Vec::new();
    while let Some(mine) = workers.join_next().await {
        let mine = mine.unwrap();
        let at = |id| ids.iter().position(|known| known == id).unwrap();
        assert!(mine.iter().map(at).is_sorted(), "each worker gets older ones first");
        taken.extend(mine);
    }
    assert!(f.runs.lease_next("train", "late", TTL).await.unwrap().is_none());
    taken.sort();
    ids.sort();
    assert_eq!(taken, ids);
}

async fn what_a_worker_says_is_kept_as_it_is(f: Fixture) {
    let spec =
        json!({"seed": u64::MAX, "name": "schön \u{1f3b2} 'quoted' \"twice\" $1 ? \\", "nested": [null, 1.5, true]});
    let id = f.runs.create("train", &spec).await.unwrap();
    let lease = f.runs.lease(&id, "ana's host; DROP TABLE runs", TTL).await.unwrap();
    let progress = json!({"note": "a\u{0}b", "steps": i64::MAX});
    f.runs.heartbeat(&lease, &progress).await.unwrap();
    f.runs.checkpoint(&lease, "s3://bucket/a b/%20").await.unwrap();
    let run = f.runs.get(&id).await.unwrap();
    assert_eq!((&run.spec, &run.progress), (&spec, &progress));
    assert_eq!(run.lease_owner.as_deref(), Some("ana's host; DROP TABLE runs"));
    assert_eq!(run.checkpoint.as_deref(), Some("s3://bucket/a b/%20"));
    assert_eq!(run.lease_until_ms, Some(1_000_000 + 10_000));
    // The one character that PostgreSQL has no room for.
    f.runs.finish(&lease, RunState::Failed, Some("cut\0off")).await.unwrap();
    assert_eq!(f.runs.get(&id).await.unwrap().error.as_deref(), Some("cut\u{fffd}off"));
    let all = f.runs.list(RunFilter { kind: Some("train".into()), state: Some(RunState::Failed) }).await.unwrap();
    assert_eq!(all.iter().map(|run| &run.id).collect::<Vec<_>>(), [&id]);
}
