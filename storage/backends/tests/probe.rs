//! The probe finds every way in which a store breaks what exactly-once rests on.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use async_trait::async_trait;
use flywheel_backends::{Probe, probe};
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};

/// What is wrong with a store.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Flaw {
    None,
    /// `If-None-Match` is not looked at: old servers, and many gateways.
    IgnoresCondition,
    /// It looks, and puts a moment later: fine alone, lost in a race.
    LooksThenPuts,
    /// The put is made, and called a failure.
    LiesToWinner,
    /// Puts that race are all refused, for ever.
    NobodyWins,
    /// "Not decided, ask again", now and then.
    SometimesUndecided,
    /// The answer to a put gets lost, now and then; the put is made.
    LosesAnswers,
    /// Reads come from a copy that is one put behind.
    ReadsOld,
    /// Lists come from a copy that is one object behind.
    ListsOld,
    /// Deletes nothing, and says that it did.
    KeepsAll,
    /// An absent object is "forbidden" to a key that may not list.
    HidesAbsence,
    /// No write is allowed.
    ReadOnly,
}

#[derive(Debug)]
struct Flawed {
    inner: InMemory,
    flaw: Flaw,
    puts: AtomicUsize,
    /// What was put last.
    newest: Mutex<HashMap<Path, PutPayload>>,
}

impl fmt::Display for Flawed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.flaw)
    }
}

fn taken(location: &Path) -> Error {
    Error::AlreadyExists { path: location.to_string(), source: "it is there".into() }
}

#[async_trait]
impl ObjectStore for Flawed {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let n = self.puts.fetch_add(1, SeqCst);
        let creates = matches!(options.mode, PutMode::Create);
        let racing = location.as_ref().contains("race");
        match self.flaw {
            Flaw::IgnoresCondition if creates => self.inner.put_opts(location, payload, PutOptions::default()).await,
            Flaw::LooksThenPuts if creates => {
                if self.inner.get_opts(location, GetOptions::default()).await.is_ok() {
                    return Err(taken(location));
                }
                tokio::task::yield_now().await;
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                self.inner.put_opts(location, payload, PutOptions::default()).await
            }
            Flaw::LiesToWinner if creates && racing => {
                self.inner.put_opts(location, payload, options).await?;
                Err(taken(location))
            }
            Flaw::NobodyWins if creates && racing => Err(taken(location)),
            Flaw::SometimesUndecided if creates && racing && location.as_ref().ends_with("/0") => Err(taken(location)),
            Flaw::LosesAnswers if racing => {
                let done = self.inner.put_opts(location, payload, options).await?;
                if n.is_multiple_of(2) { Ok(done) } else { Err(Error::Generic { store: "S3", source: "reset".into() }) }
            }
            Flaw::ReadsOld if !creates => {
                let shown = self.newest.lock().unwrap().insert(location.clone(), payload.clone()).unwrap_or(payload);
                self.inner.put_opts(location, shown, options).await
            }
            Flaw::ReadOnly => Err(Error::PermissionDenied { path: location.to_string(), source: "no".into() }),
            _ => self.inner.put_opts(location, payload, options).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.inner.get_opts(location, options).await {
            Err(Error::NotFound { path, source }) if self.flaw == Flaw::HidesAbsence => {
                Err(Error::PermissionDenied { path, source })
            }
            found => found,
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if self.flaw == Flaw::KeepsAll { locations } else { self.inner.delete_stream(locations) }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let all = self.inner.list(prefix);
        if self.flaw != Flaw::ListsOld {
            return all;
        }
        stream::once(async move {
            let mut found: Vec<_> = all.try_collect().await?;
            found.sort_by(|a, b| a.location.cmp(&b.location));
            found.pop();
            Ok::<_, Error>(stream::iter(found.into_iter().map(Ok)))
        })
        .try_flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn with(flaw: Flaw) -> Arc<dyn ObjectStore> {
    Arc::new(Flawed { inner: InMemory::new(), flaw, puts: AtomicUsize::new(0), newest: Mutex::default() })
}

async fn probed(flaw: Flaw) -> anyhow::Result<Probe> {
    probe(&with(flaw), &Path::from("a/.probe"), 6, 4).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_store_passes_also_when_it_loses_answers_or_asks_to_try_again() {
    for flaw in [Flaw::None, Flaw::LosesAnswers, Flaw::SometimesUndecided] {
        let store = with(flaw);
        let probe = probe(&store, &Path::from("a/.probe"), 6, 4).await.unwrap();
        assert!(probe.exactly_once() && probe.refusal().is_none(), "{flaw:?}: {probe:?}");
        let left: Vec<_> = store.list(None).try_collect().await.unwrap();
        assert_eq!(left, [], "{flaw:?}: it clears up");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flaw_is_found_and_named_and_exactly_once_is_refused() {
    for (flaw, telling) in [
        (Flaw::IgnoresCondition, "the second of two puts-if-absent overwrote the first"),
        (Flaw::LooksThenPuts, "of 6 writers were told that they won"),
        (Flaw::LiesToWinner, "was told that it lost"),
        (Flaw::NobodyWins, "nobody won"),
        (Flaw::ReadsOld, "an older object was read"),
        (Flaw::ListsOld, "objects just written are listed"),
        (Flaw::KeepsAll, "is still listed"),
    ] {
        let probe = probed(flaw).await.unwrap();
        let refusal = probe.refusal().unwrap_or_else(|| panic!("{flaw:?} was not found"));
        assert!(!probe.exactly_once());
        assert!(refusal.contains(telling) && refusal.contains("store.url"), "{flaw:?}: {refusal}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_only_looks_before_it_puts_passes_alone_and_fails_the_race() {
    let broken: Vec<_> = probed(Flaw::LooksThenPuts)
        .await
        .unwrap()
        .promises
        .into_iter()
        .filter(|promise| promise.broken.is_some())
        .map(|promise| promise.name)
        .collect();
    assert_eq!(broken, ["of racing puts-if-absent one wins"]);
}

#[tokio::test]
async fn what_is_not_allowed_is_an_error_and_no_verdict() {
    for (flaw, telling) in
        [(Flaw::ReadOnly, "writing an object"), (Flaw::HidesAbsence, "reading an object that is not there")]
    {
        let error = format!("{:#}", probed(flaw).await.unwrap_err());
        assert!(error.contains(telling), "{flaw:?}: {error}");
    }
}
