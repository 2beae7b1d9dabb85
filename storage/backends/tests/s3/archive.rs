//! Archives in buckets of real servers: the suite of the seam, storage classes, lifecycle, thawing, and whole days.

use std::{sync::Arc, time::Duration};

use flywheel_archive::{ArchiveErrorKind, ColdStore, Readiness, Temper, conformance::ArchiveFixture, keep, sha256};
use flywheel_backends::{ArchiveConfig, BackendUrls, Backends, CatalogConfig, StoreConfig};
use flywheel_lake::{Lake, TableName};
use flywheel_maintain::{Archive, ArchiveOptions, ArchivingConfig, Day, Restored};

use crate::{
    lake_cases::{DAY, NOON, contents, expected, rows, sorted},
    server::{BUCKET, KEY, Kind, READER, Server, one, shared},
};

struct OnServer(Arc<Server>);

#[async_trait::async_trait]
impl ArchiveFixture for OnServer {
    async fn fresh(&self) -> Arc<dyn ColdStore> {
        eprintln!("on {:?}", self.0.kind);
        settings(&self.0, "").cold_store().unwrap().unwrap()
    }
}

fn fixtures() -> Vec<OnServer> {
    shared().into_iter().map(OnServer).collect()
}

flywheel_archive::archive_conformance!(fixtures());

/// A prefix that nobody has used.
fn settings(server: &Server, class: &str) -> ArchiveConfig {
    let StoreConfig { url, endpoint, region, path_style, allow_http, credentials } =
        server.settings(&format!("archive/{}", uuid::Uuid::new_v4().simple()), KEY);
    let storage_class = class.to_owned();
    ArchiveConfig { url, endpoint, region, path_style, allow_http, credentials, storage_class, ..Default::default() }
}

fn archive(lake: &Lake, store: &Arc<dyn ColdStore>) -> Archive {
    let config = ArchivingConfig {
        after_days: 7,
        consumers: |_, _| vec![(TableName::Events, "land/t/0".into())],
        target_bytes: 1 << 20,
        thaw_days: 1,
        interval: Duration::from_secs(3600),
    };
    Archive::new(lake, Arc::clone(store), config)
}

/// Two days of rows, and their names.
async fn two_days(lake: &Lake) -> [Day; 2] {
    let table = lake.table(TableName::Events);
    for n in 0..6u64 {
        let batch = rows("g", n * 10, n * 10 + 10, NOON + (n as i64 % 2) * DAY);
        table.append(vec![batch], &[("land/t/0".into(), n as i64 * 10 + 9)]).await.unwrap();
    }
    ["2023-11-15", "2023-11-16"].map(|dt| Day { system: "tank".into(), dt: dt.into() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_goes_to_a_bucket_and_comes_back_with_tables_there_or_in_a_folder() {
    for server in shared() {
        let dir = tempfile::tempdir().unwrap();
        let in_bucket = server.bucket(&format!("tables/{}", uuid::Uuid::new_v4().simple())).lake();
        for lake in [Lake::local(dir.path()).unwrap(), in_bucket] {
            let days = two_days(&lake).await;
            let table = lake.table(TableName::Events);
            let store = settings(&server, "STANDARD_IA").cold_store().unwrap().unwrap();
            let job = archive(&lake, &store);
            let options = ArchiveOptions { before: days[1].dt.clone(), ..ArchiveOptions::default() };
            let report = job.archive(&options).await.unwrap();
            assert_eq!(report.archived.iter().map(|day| (day.rows, day.files)).collect::<Vec<_>>(), [(30, 1)]);
            assert_eq!(table.rows().await.unwrap(), 30, "{:?}", server.kind);
            table.vacuum(Duration::ZERO, false).await.unwrap();
            let told = job.days().await.unwrap().remove(0);
            assert_eq!((told.state, told.rows, told.readiness), ("archived", 30, Some(Readiness::Ready)));
            assert_eq!(told.class.as_deref(), Some("STANDARD_IA"), "{:?}", server.kind);
            let restored = job.restore(&days[0]).await.unwrap();
            assert!(matches!(restored, Restored::Done { rows: 30, .. }), "{restored:?}");
            assert_eq!(sorted(contents(&table).await), sorted(expected("g", 0, 60)), "{:?}", server.kind);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_frozen_is_asked_for_and_brought_back_once_it_is_thawed() {
    let Some(server) = one(Kind::Moto) else { return };
    let dir = tempfile::tempdir().unwrap();
    let lake = Lake::local(dir.path()).unwrap();
    let days = two_days(&lake).await;
    let store = settings(&server, "GLACIER").cold_store().unwrap().unwrap();
    let job = archive(&lake, &store);
    let options = ArchiveOptions { before: "2023-11-20".into(), ..ArchiveOptions::default() };
    assert_eq!(job.archive(&options).await.unwrap().archived.len(), 2);
    let told = job.days().await.unwrap();
    assert_eq!((told[0].class.as_deref(), told[0].readiness), (Some("GLACIER"), Some(Readiness::Frozen)));
    let object = store.list("cold/").await.unwrap().remove(0);
    assert_eq!(store.get(&object).await.unwrap_err().kind(), ArchiveErrorKind::Frozen);
    // Manifests and books are readable at once, whatever the class of the rest.
    for name in [store.list("index/events/").await.unwrap(), store.list("books/").await.unwrap()].concat() {
        assert_eq!(store.head(&name).await.unwrap().unwrap().readiness, Readiness::Ready, "{name}");
    }
    // This double thaws at once or after a moment; a cloud takes hours.
    let mut asked = 0;
    while let Restored::Thawing { waiting, files } = job.restore(&days[0]).await.unwrap() {
        assert!((waiting, files) == (1, 1) && asked < 100, "{waiting} of {files}");
        asked += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(lake.table(TableName::Events).rows().await.unwrap(), 30);
    assert_eq!(job.days().await.unwrap()[1].readiness, Some(Readiness::Frozen), "nobody asked for the other day");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lifecycle_rule_is_kept_in_step_and_those_of_others_stay() {
    let Some(server) = Server::start(Kind::Moto).await else { return };
    let store = |config: &ArchiveConfig| config.cold_store().unwrap().unwrap();
    let none = settings(&server, "");
    let moving = ArchiveConfig { transition_days: 30, transition_class: "DEEP_ARCHIVE".into(), ..none.clone() };
    let sooner = ArchiveConfig { transition_days: 3, ..moving.clone() };
    let other = ArchiveConfig { transition_days: 90, transition_class: "GLACIER".into(), ..settings(&server, "") };
    assert_eq!(store(&none).prepare().await.unwrap(), Vec::<String>::new());
    let said = store(&moving).prepare().await.unwrap();
    assert!(said.len() == 1 && said[0].contains("DEEP_ARCHIVE after 30 days"), "{said:?}");
    assert_eq!(store(&moving).prepare().await.unwrap(), Vec::<String>::new(), "once is enough");
    assert_eq!(store(&other).prepare().await.unwrap().len(), 1);
    assert!(store(&sooner).prepare().await.unwrap()[0].contains("after 3 days"));
    let rules = server.get(&format!("/{BUCKET}?lifecycle"));
    for (part, times) in [("<Rule>", 2), ("<Days>3</Days>", 1), ("<Days>90</Days>", 1), ("<Days>30</Days>", 0)] {
        assert_eq!(rules.matches(part).count(), times, "{part}: {rules}");
    }
    let prefix = none.url.trim_start_matches("s3://lake/");
    assert!(rules.contains(&format!("{prefix}/cold/")), "{rules}");
    assert!(store(&none).prepare().await.unwrap()[0].contains("taken out"));
    assert_eq!(server.get(&format!("/{BUCKET}?lifecycle")).matches("<Rule>").count(), 1, "the other archive's stays");
    // What somebody else's rule would remove is told every time.
    let expiring = "<LifecycleConfiguration><Rule><ID>tidy</ID><Filter><Prefix>archive/</Prefix></Filter>\
                    <Status>Enabled</Status><Expiration><Days>7</Days></Expiration></Rule></LifecycleConfiguration>";
    server.put(&format!("/{BUCKET}?lifecycle"), expiring);
    let said = store(&none).prepare().await.unwrap();
    assert!(said.len() == 1 && said[0].contains("rule `tidy`") && said[0].contains("removes"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wrong_setting_is_told_with_its_name_and_no_key_is_repeated() {
    let Some(server) = one(Kind::SeaweedFs) else { return };
    let good = settings(&server, "");
    let keys = |id: &str, secret: &str| server.settings("x", (id, secret)).credentials;
    let put = |config: ArchiveConfig| async move {
        let store = config.cold_store().unwrap().unwrap();
        let prepared = match store.prepare().await {
            Ok(_) => store.put("index/a", "x".into(), &sha256(b"x"), Temper::Warm).await.map(|_| ()),
            Err(error) => Err(error),
        };
        let error = prepared.unwrap_err();
        (error.kind(), error.to_string())
    };
    let cases = [
        (ArchiveConfig { credentials: keys(KEY.0, "topsecret"), ..good.clone() }, "archive.credentials.file"),
        (ArchiveConfig { credentials: keys("nobody", "topsecret"), ..good.clone() }, "archive.credentials.file"),
        (ArchiveConfig { credentials: keys(READER.0, READER.1), ..good.clone() }, "let it list, get and put"),
    ];
    for (config, telling) in cases {
        let (kind, text) = put(config).await;
        assert!(kind == ArchiveErrorKind::Refused && text.contains(telling), "{kind:?}: {text}");
        assert!(!text.contains("topsecret") && !text.contains(READER.1), "{text}");
    }
    let (kind, text) = put(ArchiveConfig { endpoint: "http://127.0.0.1:1".into(), ..good.clone() }).await;
    assert!(kind == ArchiveErrorKind::Unavailable && text.contains("`archive.endpoint`"), "{kind:?}: {text}");
    let (kind, text) = put(ArchiveConfig { url: "s3://no-such-bucket/x".into(), ..good }).await;
    assert!(kind == ArchiveErrorKind::Refused && text.contains("no-such-bucket"), "{kind:?}: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_in_a_bucket_belongs_to_one_set_of_tables() {
    for server in shared() {
        let config = settings(&server, "");
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let urls = |dir: &tempfile::TempDir| BackendUrls {
            log: "embedded:".into(),
            data: dir.path().to_owned(),
            store: StoreConfig::default(),
            catalog: CatalogConfig::default(),
        };
        // A first start says of which log the tables are.
        for dir in [&one, &two] {
            Backends::open(&urls(dir)).await.unwrap();
        }
        let store = urls(&one).open_archive(&config).await.unwrap().unwrap();
        keep(&*store, "index/a", "x".into(), Temper::Warm).await.unwrap();
        urls(&one).open_archive(&config).await.unwrap();
        let error = format!("{:#}", urls(&two).open_archive(&config).await.unwrap_err());
        assert!(error.contains("archive of other tables") && error.contains("archive.url"), "{error}");
    }
}
