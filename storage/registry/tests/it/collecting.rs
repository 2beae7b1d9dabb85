//! Collecting what killed publishers left, beside publishers at work.

use std::{
    fmt,
    path::Path as FsPath,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use flywheel_registry::{Registry, RegistryError, RegistryErrorKind};
use futures::{StreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, local::LocalFileSystem, memory::InMemory, path::Path,
};
use tokio::{sync::Notify, task::JoinHandle};

use crate::{
    assert_whole,
    faulty::{Fault, Faulty},
    new_version, open,
};

/// A store that stands still before a chosen operation, the first being 1, until it is let go.
#[derive(Debug)]
struct Paused {
    inner: Arc<dyn ObjectStore>,
    at: usize,
    operations: AtomicUsize,
    arrived: Notify,
    go: Notify,
}

impl Paused {
    fn before(inner: &Arc<dyn ObjectStore>, at: usize) -> Arc<PausedStore> {
        let (operations, arrived, go) = (AtomicUsize::new(0), Notify::new(), Notify::new());
        Arc::new(PausedStore(Arc::new(Self { inner: Arc::clone(inner), at, operations, arrived, go })))
    }

    async fn turn(&self) {
        if self.operations.fetch_add(1, Ordering::SeqCst) + 1 == self.at {
            self.arrived.notify_one();
            self.go.notified().await;
        }
    }
}

#[derive(Debug)]
struct PausedStore(Arc<Paused>);

impl PausedStore {
    fn registry(self: &Arc<Self>) -> Registry {
        Registry::open(Arc::clone(self) as Arc<dyn ObjectStore>, "registry", None)
    }

    /// Waits until the work stands still, or is done without getting so far.
    async fn arrived<T>(&self, work: &mut JoinHandle<T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done.unwrap()),
            () = self.0.arrived.notified() => None,
        }
    }

    fn go(&self) {
        self.0.go.notify_one();
    }
}

impl fmt::Display for PausedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "paused {}", self.0.inner)
    }
}

#[async_trait]
impl ObjectStore for PausedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.0.turn().await;
        self.0.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.turn().await;
        self.0.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.turn().await;
        self.0.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let paused = Arc::clone(&self.0);
        let work = async move {
            paused.turn().await;
            paused.inner.delete_stream(locations)
        };
        stream::once(work).flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (paused, prefix) = (Arc::clone(&self.0), prefix.cloned());
        let work = async move {
            paused.turn().await;
            paused.inner.list(prefix.as_ref())
        };
        stream::once(work).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.turn().await;
        self.0.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.turn().await;
        self.0.inner.copy_opts(from, to, options).await
    }
}

fn publishing(store: &Arc<PausedStore>) -> JoinHandle<std::result::Result<(), RegistryError>> {
    let registry = store.registry();
    tokio::spawn(async move { registry.publish(new_version(9)).await.map(drop) })
}

fn collecting(store: &Arc<PausedStore>, age: Duration) -> JoinHandle<usize> {
    let registry = store.registry();
    tokio::spawn(async move { registry.gc(age).await.unwrap() })
}

/// A publisher was killed after it had written weights.
async fn half_published(store: &Arc<dyn ObjectStore>) {
    let dying = Faulty::new(Arc::clone(store), Fault::KilledAfter(1));
    Registry::open(dying, "registry", None).publish(new_version(9)).await.unwrap_err();
}

fn local(dir: &FsPath) -> Arc<dyn ObjectStore> {
    Arc::new(LocalFileSystem::new_with_prefix(dir).unwrap())
}

/// All weights below `dir`, written so long ago.
fn age_blobs(dir: &FsPath, ago: Duration) {
    for blob in std::fs::read_dir(dir.join("registry/blobs")).unwrap() {
        let file = std::fs::File::options().write(true).open(blob.unwrap().path()).unwrap();
        file.set_modified(SystemTime::now() - ago).unwrap();
    }
}

#[tokio::test]
async fn what_a_killed_publisher_left_goes_after_its_time_and_published_versions_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = local(dir.path());
    let registry = open(&store);
    registry.publish(new_version(1)).await.unwrap();
    half_published(&store).await;
    age_blobs(dir.path(), Registry::GC_AGE - Duration::from_secs(60));
    assert_eq!(registry.gc(Registry::GC_AGE).await.unwrap(), 0, "it may still be at work");
    age_blobs(dir.path(), Registry::GC_AGE + Duration::from_secs(1));
    assert_eq!(registry.gc(Registry::GC_AGE).await.unwrap(), 1);
    assert_eq!(std::fs::read_dir(dir.path().join("registry/blobs")).unwrap().count(), 1);
    assert_eq!(assert_whole(&registry).await.len(), 1);
}

#[tokio::test]
async fn a_version_being_published_is_left_alone_at_each_of_its_steps() {
    for at in 1.. {
        let dir = tempfile::tempdir().unwrap();
        let store = local(dir.path());
        // The same weights once before, by a publisher that was killed long ago.
        half_published(&store).await;
        age_blobs(dir.path(), 2 * Registry::GC_AGE);
        let paused = Paused::before(&store, at);
        let mut publishing = publishing(&paused);
        if let Some(done) = paused.arrived(&mut publishing).await {
            done.unwrap();
            assert!(at > 6, "only {at} operations are seen");
            return;
        }
        let collected = open(&store).gc(Registry::GC_AGE).await.unwrap();
        assert_eq!(collected, usize::from(at == 1), "at step {at}");
        paused.go();
        publishing.await.unwrap().unwrap();
        assert_eq!(assert_whole(&open(&store)).await.len(), 1, "at step {at}");
    }
}

/// Nothing is too young here: what keeps the version whole is that publisher and collector look after each other.
#[tokio::test]
async fn publisher_and_collector_that_overtake_each_other_anywhere_leave_a_whole_version_or_none() {
    let (mut published, mut refused) = (0, 0);
    for case in 0..2 * 12 * 12 {
        let (publisher_first, publisher_at, collector_at) = (case % 2 == 0, 1 + case / 2 % 12, 1 + case / 24);
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        half_published(&store).await;
        let (publisher, collector) = (Paused::before(&store, publisher_at), Paused::before(&store, collector_at));
        let mut collecting = collecting(&collector, Duration::ZERO);
        let collected = collector.arrived(&mut collecting).await.is_some();
        let mut publishing = publishing(&publisher);
        let mut outcome = publisher.arrived(&mut publishing).await;
        // One of them runs to its end before the other takes its next step.
        for publishes in [publisher_first, !publisher_first] {
            if publishes && outcome.is_none() {
                publisher.go();
                outcome = Some((&mut publishing).await.unwrap());
            } else if !publishes && !collected {
                collector.go();
                (&mut collecting).await.unwrap();
            }
        }
        let versions = assert_whole(&open(&store)).await.len();
        match outcome.expect("it has ended") {
            Ok(()) => published += 1,
            // Its weights were gone when it read them back: it says so, and there is no card.
            Err(error) => {
                assert_eq!((error.kind(), versions), (RegistryErrorKind::Corrupt, 0), "case {case}");
                refused += 1;
                continue;
            }
        }
        assert_eq!(versions, 1, "case {case}: publisher at {publisher_at}, collector at {collector_at}");
    }
    assert!(published > refused && refused > 0, "{published} published, {refused} refused");
}
