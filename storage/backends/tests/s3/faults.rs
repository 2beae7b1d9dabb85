//! Two writers on one table while the way to the store fails as ways do: nothing lost, nothing doubled.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use flywheel_lake::{Advance, Lake};
use futures::TryStreamExt;
use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig,
    aws::{AmazonS3Builder, S3ConditionalPut},
    path::Path,
    prefix::PrefixStore,
};

use crate::{
    faulty_server::{Fault, Way},
    lake_cases::{NOON, contents, events, expected, lake_with, rows, sorted},
    server::{BUCKET, KEY, Server, shared},
};

const WRITERS: u64 = 2;
/// Commits of both together; `FLYWHEEL_COMMITS` says how many else.
const COMMITS: u64 = 40;
const ROWS: u64 = 3;
/// A client of ours waits for thirty seconds; this one, so that a test ends, for one.
const PATIENCE: Duration = Duration::from_secs(1);
const STALL: Duration = Duration::from_millis(1500);

/// A client as `StoreConfig` makes it, but for the patience.
fn client(endpoint: &str, prefix: &str) -> Arc<dyn ObjectStore> {
    let options = ClientOptions::new().with_timeout(PATIENCE).with_connect_timeout(PATIENCE).with_allow_http(true);
    let retry = RetryConfig {
        backoff: BackoffConfig { max_backoff: Duration::from_secs(2), ..BackoffConfig::default() },
        max_retries: 4,
        retry_timeout: Duration::from_secs(30),
    };
    let store = AmazonS3Builder::new()
        .with_bucket_name(BUCKET)
        .with_region("us-east-1")
        .with_access_key_id(KEY.0)
        .with_secret_access_key(KEY.1)
        .with_endpoint(endpoint)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_client_options(options)
        .with_retry(retry);
    Arc::new(PrefixStore::new(store.build().unwrap(), prefix))
}

fn lake(store: &Arc<dyn ObjectStore>) -> Lake {
    lake_with(store, flywheel_lake::LakeConfig { checkpoint_interval: 50, ..Default::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_forgets_stalls_and_repeats_itself_loses_no_row_and_doubles_none() {
    let commits: u64 = std::env::var("FLYWHEEL_COMMITS").ok().and_then(|n| n.parse().ok()).unwrap_or(COMMITS);
    for server in shared() {
        run(&server, commits / WRITERS).await;
    }
}

async fn run(server: &Server, each: u64) {
    let prefix = uuid::Uuid::new_v4().simple().to_string();
    let way = Way::to(server.port(), each, STALL).await;
    let (began, again) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let table = events(&lake(&client(&way.endpoint(), &prefix)));
        let again = Arc::clone(&again);
        writers.spawn(async move {
            let (app, game) = (format!("app/{writer}"), format!("g{writer}"));
            for n in 0..each {
                let from = n.checked_sub(1).map(|before| (before * ROWS + ROWS - 1) as i64);
                let (first, next) = (n * ROWS, (n + 1) * ROWS);
                let advance = [Advance::new(&app, from, next as i64 - 1)];
                // As a flow does: the same rows again until it is known that they are there.
                while let Err(error) = table.append_from(vec![rows(&game, first, next, NOON)], &advance).await {
                    assert!(error.kind().is_retryable(), "{error}");
                    again.fetch_add(1, SeqCst);
                }
            }
        });
    }
    writers.join_all().await;
    let (took, commits) = (began.elapsed(), WRITERS * each);

    // Straight from the server, with all the patience that clients have.
    let store: Arc<dyn ObjectStore> =
        Arc::new(PrefixStore::new(Arc::clone(server.bucket("").store()), prefix.as_str()));
    let table = events(&lake(&store));
    let found = contents(&table).await;
    let wanted: Vec<_> = (0..WRITERS).flat_map(|writer| expected(&format!("g{writer}"), 0, each * ROWS)).collect();
    assert_eq!(found.len(), wanted.len(), "{:?}: rows", server.kind);
    assert_eq!(sorted(found), sorted(wanted), "{:?}", server.kind);
    let objects: Vec<_> = store.list(None).try_collect().await.unwrap();
    let version = |path: &Path| path.filename()?.strip_suffix(".json")?.parse().ok();
    let versions: BTreeMap<u64, Path> =
        objects.into_iter().filter_map(|object| Some((version(&object.location)?, object.location))).collect();
    let newest = table.version().await.unwrap().unwrap();
    assert_eq!(versions.keys().copied().collect::<Vec<_>>(), (0..=newest).collect::<Vec<_>>(), "no number was skipped");
    let mut nonces = BTreeSet::new();
    for (version, path) in &versions {
        let entry = store.get(path).await.unwrap();
        let text = String::from_utf8(entry.bytes().await.unwrap().to_vec()).unwrap();
        let nonce = text.split_once("\"flywheelCommit\":\"").map(|(_, rest)| rest[..36].to_owned());
        nonces.insert(nonce.unwrap_or_else(|| format!("the one that made the table, {version}")));
    }
    assert_eq!(nonces.len(), versions.len(), "no commit stands under two numbers");
    let entries = way.seen.entries();
    for (name, _, done) in &entries {
        assert_eq!(*done, 1, "{:?}: the server took {done} puts of {name}", server.kind);
    }
    let puts: u64 = entries.iter().map(|(_, puts, _)| puts).sum();
    let retries = (puts + again.load(SeqCst)).saturating_sub(commits) as f64 / commits as f64;
    let faults = way.seen.faults();
    eprintln!(
        "{:?}: {commits} commits of {WRITERS} writers in {took:.1?}: {} requests, {faults:?}; 0 lost, 0 doubled, {} versions each \
         written once; {retries:.2} puts more than one for a commit, {} appends begun again",
        server.kind,
        way.seen.requests(),
        versions.len(),
        again.load(SeqCst),
    );
    assert!(retries <= 3.0, "{retries} retries for a commit");
    assert!(faults.contains_key(&Fault::Before) && faults.contains_key(&Fault::After), "the way failed: {faults:?}");
}
