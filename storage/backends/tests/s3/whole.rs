//! The backends as a program opens them.

use std::time::{Duration, Instant};

use flywheel_backends::{BackendUrls, Backends, CatalogConfig};
use flywheel_events::ModelVersion;
use flywheel_lake::{CompactOptions, TableName};
use futures::TryStreamExt;

use crate::{
    base,
    lake_cases::{NOON, contents, expected, rows},
    model, new_version,
    server::{KEY, shared},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_program_finds_in_the_bucket_what_another_left_there() {
    for server in shared() {
        let prefix = format!("whole/{}", uuid::Uuid::new_v4().simple());
        let dir = tempfile::tempdir().unwrap();
        let urls = BackendUrls {
            log: "embedded:".into(),
            data: dir.path().to_owned(),
            store: server.settings(&prefix, KEY),
            catalog: CatalogConfig::default(),
        };
        {
            let (backends, _owner) = Backends::open(&urls).await.unwrap();
            let table = backends.lake.table(TableName::Events);
            assert_eq!(table.url().as_str(), format!("s3://lake/{prefix}/lake/events/"));
            for n in 0..12 {
                table.append(vec![rows("g", n, n + 1, NOON)], &[("a".into(), n as i64)]).await.unwrap();
            }
            let card = backends.registry.publish(new_version(1)).await.unwrap();
            backends.registry.promote(&base(), "champion", card.version, Some(0), "first").await.unwrap();
        }
        let lake = urls.open_lake().await.unwrap();
        let table = lake.table(TableName::Events);
        assert_eq!(contents(&table).await, expected("g", 0, 12));
        let merged = table.compact_with(&CompactOptions { target_bytes: 1 << 20, min_files: 4 }).await.unwrap();
        assert_eq!(merged.files_merged, 12);
        table.checkpoint(table.version().await.unwrap().unwrap()).await.unwrap();
        let gone = table.vacuum(Duration::ZERO, false).await.unwrap();
        assert_eq!(gone.files_deleted.len(), 12, "{:?}", server.kind);
        assert_eq!(contents(&urls.open_lake().await.unwrap().table(TableName::Events)).await, expected("g", 0, 12));

        let registry = urls.open_registry(None).await.unwrap();
        assert_eq!(registry.resolve(&base(), "champion").await.unwrap().unwrap().version, ModelVersion(1));
        registry.fetch(&model(1)).await.unwrap();
        // Nothing of it lies in the data folder, and nothing outside the prefix.
        assert!(!dir.path().join("lake").exists() && !dir.path().join("registry").exists());
        let all: Vec<_> = server.bucket("").store().list(None).try_collect().await.unwrap();
        assert!(all.iter().any(|object| object.location.as_ref().starts_with(&format!("{prefix}/registry/models"))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_servers_keep_what_exactly_once_rests_on_and_the_probe_leaves_nothing() {
    for server in shared() {
        let bucket = server.bucket(&format!("probed-{}", uuid::Uuid::new_v4().simple()));
        let probe = bucket.probe(8, 12).await.unwrap();
        assert!(probe.exactly_once(), "{:?}: {probe:?}", server.kind);
        assert_eq!((probe.refusal(), probe.promises.len()), (None, 6));
        let prefix = bucket.lake().root().path().trim_start_matches('/').replace("/lake/", "");
        let left: Vec<_> =
            bucket.store().list(Some(&object_store::path::Path::from(prefix))).try_collect().await.unwrap();
        assert_eq!(left, [], "{:?}", server.kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_one_log_are_not_written_from_another() {
    for server in shared() {
        let prefix = format!("claimed/{}", uuid::Uuid::new_v4().simple());
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let urls = |dir: &tempfile::TempDir| BackendUrls {
            log: "embedded:".into(),
            data: dir.path().to_owned(),
            store: server.settings(&prefix, KEY),
            catalog: CatalogConfig::default(),
        };
        Backends::open(&urls(&one)).await.unwrap();
        // Again, once the first has let go of its log.
        let began = Instant::now();
        while let Err(error) = Backends::open(&urls(&one)).await {
            assert!(began.elapsed() < Duration::from_secs(30), "{error:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let error = format!("{:#}", Backends::open(&urls(&two)).await.unwrap_err());
        for word in ["another log", "store.url", &prefix] {
            assert!(error.contains(word), "{error}");
        }
        // Reading is anybody's, and the other folder is good for another prefix.
        urls(&two).open_lake().await.unwrap();
        let elsewhere = server.settings(&format!("{prefix}-2"), KEY);
        Backends::open(&BackendUrls { store: elsewhere, ..urls(&two) }).await.unwrap();
    }
}
