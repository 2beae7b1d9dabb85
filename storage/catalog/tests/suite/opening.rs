//! Opening: new, together, again, from every release, and what is refused.

use std::{collections::BTreeSet, fs, path::Path};

use flywheel_catalog::{Catalog, CatalogErrorKind, RunFilter, RunState};
use serde_json::json;

use crate::{
    Place, TTL, postgres,
    server::{self, Postgres},
    sqlite,
};

async fn several_may_open_a_new_one_at_once(place: Place) {
    let opening: Vec<_> = (0..6)
        .map(|_| {
            let place = place.clone();
            tokio::spawn(async move { place.open().await.unwrap().runs().create("train", &json!({})).await })
        })
        .collect();
    for opened in opening {
        opened.await.unwrap().unwrap();
    }
    let all = place.open().await.unwrap().runs().list(RunFilter::default()).await.unwrap();
    assert_eq!(all.len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_processes_may_open_a_new_sqlite_catalog_at_once() {
    for _ in 0..5 {
        let (place, _dir) = sqlite();
        several_may_open_a_new_one_at_once(place).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_machines_may_open_a_new_postgres_catalog_at_once() {
    for _ in 0..5 {
        let Some((place, _dir)) = postgres().await else { return };
        several_may_open_a_new_one_at_once(place).await;
    }
}

async fn a_newer_one_is_refused_and_left_alone(place: Place, newer: &str, older: &str) {
    let id = place.open().await.unwrap().runs().create("train", &json!({})).await.unwrap();
    run_sql(&place, newer).await;
    let error = place.open().await.unwrap_err();
    assert_eq!(error.kind(), CatalogErrorKind::Conflict);
    assert!(error.to_string().contains("written by a newer flywheel"), "{error}");
    run_sql(&place, older).await;
    place.open().await.unwrap().runs().get(&id).await.unwrap();
}

const NEWER: &str = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                     SELECT 9999, 'newer', success, checksum, execution_time FROM _sqlx_migrations WHERE version = 1";
const OLDER: &str = "DELETE FROM _sqlx_migrations WHERE version = 9999";

async fn run_sql(place: &Place, text: &str) {
    let text = sqlx::AssertSqlSafe(text.to_owned());
    match place {
        Place::Sqlite(file) => {
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file).create_if_missing(true);
            let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
            sqlx::raw_sql(text).execute(&pool).await.unwrap();
            pool.close().await;
        }
        Place::Postgres(url) => {
            let pool = sqlx::PgPool::connect(url).await.unwrap();
            sqlx::raw_sql(text).execute(&pool).await.unwrap();
            pool.close().await;
        }
    }
}

#[tokio::test]
async fn a_catalog_of_a_newer_program_is_refused_and_left_alone() {
    let (place, _dir) = sqlite();
    a_newer_one_is_refused_and_left_alone(place, NEWER, OLDER).await;
    let Some((place, _dir)) = postgres().await else { return };
    a_newer_one_is_refused_and_left_alone(place, NEWER, OLDER).await;
}

#[tokio::test]
async fn a_file_that_is_no_catalog_is_refused_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("photo.jpg");
    fs::write(&other, [0xff; 4096]).unwrap();
    let error = Catalog::open(&other).await.unwrap_err();
    assert!(error.to_string().contains("photo.jpg"), "{error}");
    assert_eq!(fs::read(&other).unwrap(), [0xff; 4096]);
}

/// Numbers of the files of a folder whose names end so.
fn numbers(folder: &str, end: &str) -> BTreeSet<u32> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(end)).map(|name| name[..4].parse().unwrap()).collect()
}

/// A database as the release that ended with a migration left it, opened by this program.
async fn is_carried_over(place: Place, number: u32, kind: &str) {
    let path = format!("{}/tests/released/{number:04}.{kind}.sql", env!("CARGO_MANIFEST_DIR"));
    run_sql(&place, &fs::read_to_string(path).unwrap()).await;
    let runs = place.open().await.unwrap().runs();
    let all = runs.list(RunFilter::default()).await.unwrap();
    let kept: Vec<_> = all.iter().map(|run| (run.kind.as_str(), run.state, run.fence, run.created_at_ms)).collect();
    assert_eq!(
        kept,
        [
            ("judge", RunState::Queued, 0, 1_700_000_000_002),
            ("train", RunState::Failed, 1, 1_700_000_000_001),
            ("train", RunState::Running, 3, 1_700_000_000_000),
        ],
        "{kind} {number}"
    );
    assert_eq!(all[1].error.as_deref(), Some("the disk is full"));
    let interrupted = &all[2];
    assert_eq!((&interrupted.spec, &interrupted.progress), (&json!({"seed": 7}), &json!({"steps": 120})));
    assert_eq!(interrupted.checkpoint.as_deref(), Some("checkpoints/000120"));
    // Its worker is long gone: the run goes on from where it was, with the next fence.
    let lease = runs.lease_next("train", "heir", TTL).await.unwrap().unwrap();
    assert_eq!((&lease.run, lease.fence), (&interrupted.id, 4));
    runs.finish(&lease, RunState::Completed, None).await.unwrap();
    let keys = place.open().await.unwrap().source_keys().list().await.unwrap();
    let kept: Vec<_> = keys.iter().map(|key| (key.prefix.as_str(), key.revoked_at_ms, key.last_used_ms)).collect();
    // Migration 2 brought them.
    let expected = [("arena-", None, Some(1_700_000_003_000)), ("old-", Some(1_700_000_004_000), None)];
    assert_eq!(kept, if number < 2 { &expected[..0] } else { &expected[..] }, "{kind} {number}");
}

#[tokio::test]
async fn a_catalog_of_every_release_is_carried_over_with_all_that_it_holds() {
    for kind in ["sqlite", "postgres"] {
        let released = numbers("tests/released", &format!(".{kind}.sql"));
        assert_eq!(released, numbers(&format!("migrations/{kind}"), ".sql"), "keep a dump of each as it is released");
        for number in released {
            let place = if kind == "sqlite" { Some(sqlite()) } else { postgres().await };
            let Some((place, _dir)) = place else { return };
            is_carried_over(place, number, kind).await;
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_server_is_said_with_the_setting_to_correct_and_no_password() {
    let away = Catalog::connect("postgres://me:s3cret@127.0.0.1:1/runs").await.unwrap_err();
    assert_eq!(away.kind(), CatalogErrorKind::Unavailable, "{away}");
    assert!(away.to_string().contains("postgres://127.0.0.1:1/runs") && away.to_string().contains("catalog.url"));
    assert!(!away.to_string().contains("s3cret"));

    let Some(server) = Postgres::running() else { return };
    let missing = Catalog::connect(&server.url("no_such_database")).await.unwrap_err();
    assert_eq!(missing.kind(), CatalogErrorKind::Setting, "{missing}");
    assert!(missing.to_string().contains("createdb"), "{missing}");
    let wrong = server.url("postgres").replace(server::PASSWORD, "wr0ng");
    let wrong = Catalog::connect(&wrong).await.unwrap_err();
    assert_eq!(wrong.kind(), CatalogErrorKind::Setting, "{wrong}");
    assert!(wrong.to_string().contains("password.env") && !wrong.to_string().contains("wr0ng"), "{wrong}");
    let url = server.new_database().await;
    let found = Catalog::connect(&url).await.unwrap().described().await.unwrap();
    assert!(found.server.starts_with("PostgreSQL "), "{found:?}");
    assert!(found.risks.is_empty(), "{found:?}");
}
