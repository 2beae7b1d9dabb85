//! Does a store keep what exactly-once rests on? Asked of the store itself, not of its documentation.

use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::join_all, stream};
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, path::Path};
use serde::Serialize;

use crate::explained::said;

/// Times that the store may answer "not decided" to every writer before that counts as failing.
const UNDECIDED: usize = 8;

/// One promise, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Promise {
    pub name: &'static str,
    /// What the store did instead.
    pub broken: Option<String>,
}

/// What a store was found to keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Probe {
    pub promises: Vec<Promise>,
    pub writers: usize,
    pub rounds: usize,
}

impl Probe {
    /// Whether commits on this store can be exactly once.
    pub fn exactly_once(&self) -> bool {
        self.promises.iter().all(|promise| promise.broken.is_none())
    }

    /// Every broken promise, in one line; `None` if all are kept.
    pub fn refusal(&self) -> Option<String> {
        let broken: Vec<_> =
            self.promises.iter().filter_map(|p| Some(format!("{}: {}", p.name, p.broken.as_ref()?))).collect();
        (!broken.is_empty()).then(|| {
            format!(
                "this store cannot keep rows exactly once, and is refused ({}); use one that honours `If-None-Match`, \
                     such as SeaweedFS, Garage or AWS, or the data folder (`store.url = \"file:\"`)",
                broken.join("; ")
            )
        })
    }
}

/// Asks `store` for its promises below `folder`, which must be nobody else's; what was written is removed.
///
/// `writers` race for one name, `rounds` times.
///
/// # Errors
/// If the store does not answer, or forbids what every commit does.
pub async fn probe(
    store: &Arc<dyn ObjectStore>,
    folder: &Path,
    writers: usize,
    rounds: usize,
) -> anyhow::Result<Probe> {
    let asked = async {
        let mut promises = vec![absent(store, folder).await?, second(store, folder).await?];
        promises.push(race(store, folder, writers, rounds).await?);
        promises.push(read_back(store, folder, rounds).await?);
        promises.push(listed(store, folder, writers).await?);
        anyhow::Ok(promises)
    };
    let asked = asked.await;
    let cleared = clear(store, folder).await;
    let mut promises = asked?;
    let left = cleared?;
    promises.push(Promise {
        name: "what is deleted is gone",
        broken: left.map(|name| format!("`{name}` is still listed")),
    });
    Ok(Probe { promises, writers, rounds })
}

async fn create(store: &Arc<dyn ObjectStore>, path: &Path, bytes: Bytes) -> Result<(), Error> {
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    store.put_opts(path, bytes.into(), options).await.map(drop)
}

async fn read(store: &Arc<dyn ObjectStore>, path: &Path) -> anyhow::Result<Option<Bytes>> {
    let read = async { store.get(path).await?.bytes().await };
    match read.await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(said(&error).context("reading an object")),
    }
}

fn was_there(error: &Error) -> bool {
    matches!(error, Error::AlreadyExists { .. } | Error::Precondition { .. })
}

/// The rule "read entry N; absent: put it again" needs a plain "not found", which S3 gives only to who may list.
async fn absent(store: &Arc<dyn ObjectStore>, folder: &Path) -> anyhow::Result<Promise> {
    let broken = match store.get(&folder.clone().join("absent")).await {
        Err(Error::NotFound { .. }) => None,
        Ok(_) => Some("the store gave an object that nobody wrote".to_owned()),
        Err(error @ (Error::PermissionDenied { .. } | Error::Unauthenticated { .. })) => {
            return Err(said(&error).context("reading an object that is not there"));
        }
        Err(error) => Some(error.to_string()),
    };
    Ok(Promise { name: "an absent object is said to be absent", broken })
}

async fn second(store: &Arc<dyn ObjectStore>, folder: &Path) -> anyhow::Result<Promise> {
    let path = folder.clone().join("second");
    create(store, &path, "first".into())
        .await
        .map_err(|error| said(&error).context("writing an object that is not there yet"))?;
    let broken = match create(store, &path, "second".into()).await {
        Err(error) if was_there(&error) => None,
        Ok(()) => Some("the second of two puts-if-absent overwrote the first".to_owned()),
        Err(error) => Some(error.to_string()),
    };
    let kept = read(store, &path).await?;
    let broken = broken.or((kept.as_deref() != Some(b"first")).then(|| "the first put is not what is read".to_owned()));
    Ok(Promise { name: "put-if-absent refuses what is there", broken })
}

/// All rounds at once: a store may let racers wait for each other, and rounds have names of their own.
async fn race(store: &Arc<dyn ObjectStore>, folder: &Path, writers: usize, rounds: usize) -> anyhow::Result<Promise> {
    let rounds = (0..rounds).map(|round| one_race(store, folder.clone().join(format!("race-{round}")), writers));
    let mut broken = None;
    for found in join_all(rounds).await {
        broken = broken.or(found?);
    }
    Ok(Promise { name: "of racing puts-if-absent one wins", broken })
}

/// What was broken, if anything.
async fn one_race(store: &Arc<dyn ObjectStore>, folder: Path, writers: usize) -> anyhow::Result<Option<String>> {
    for again in 0..UNDECIDED {
        let path = folder.clone().join(again.to_string());
        let name = |writer: usize| Bytes::from(format!("writer {writer}"));
        let answers = join_all((0..writers).map(|writer| {
            let (store, path) = (Arc::clone(store), path.clone());
            // Tasks of their own, so that they race on threads and connections.
            tokio::spawn(async move { create(&store, &path, name(writer)).await })
        }))
        .await;
        let mut won = Vec::new();
        // Those whose answer was lost may have won, too.
        let mut unknown = Vec::new();
        for (writer, answer) in answers.into_iter().enumerate() {
            match answer.context("a writer of the race")? {
                Ok(()) => won.push(name(writer)),
                Err(error) if was_there(&error) => {}
                Err(_) => unknown.push(name(writer)),
            }
        }
        return Ok(match (&won[..], read(store, &path).await?) {
            ([], None) => continue,
            ([], Some(found)) if unknown.contains(&found) => None,
            ([one], Some(found)) if *one == found => None,
            ([], Some(_)) => Some("the one whose bytes are there was told that it lost".to_owned()),
            ([_], _) => Some("the winner's bytes are not there".to_owned()),
            (won, _) => Some(format!("{} of {writers} writers were told that they won", won.len())),
        });
    }
    Ok(Some("nobody won, again and again".to_owned()))
}

async fn read_back(store: &Arc<dyn ObjectStore>, folder: &Path, rounds: usize) -> anyhow::Result<Promise> {
    let path = folder.clone().join("read-back");
    let mut broken = None;
    for n in 0..rounds.max(2) {
        let bytes = Bytes::from(n.to_string());
        store.put(&path, bytes.clone().into()).await.map_err(|error| said(&error).context("writing an object"))?;
        match read(store, &path).await? {
            Some(found) if found == bytes => {}
            Some(_) => broken = Some("an older object was read after a newer one was written".to_owned()),
            None => broken = Some("an object that was just written was not found".to_owned()),
        }
    }
    Ok(Promise { name: "what was written is what is read", broken })
}

async fn listed(store: &Arc<dyn ObjectStore>, folder: &Path, writers: usize) -> anyhow::Result<Promise> {
    let folder = folder.clone().join("listed");
    let mut broken = None;
    for n in 0..writers.max(3) {
        create(store, &folder.clone().join(format!("{n:04}")), "x".into())
            .await
            .map_err(|error| said(&error).context("writing an object"))?;
        let found = names(store, &folder).await?;
        if found.len() != n + 1 {
            broken = Some(format!("{} of {} objects just written are listed", found.len(), n + 1));
        }
    }
    Ok(Promise { name: "what was written is listed", broken })
}

async fn names(store: &Arc<dyn ObjectStore>, folder: &Path) -> anyhow::Result<Vec<Path>> {
    store
        .list(Some(folder))
        .map_ok(|object| object.location)
        .try_collect()
        .await
        .map_err(|error| said(&error).context("listing objects"))
}

/// Removes everything below `folder`; the name of one that stays.
async fn clear(store: &Arc<dyn ObjectStore>, folder: &Path) -> anyhow::Result<Option<Path>> {
    let found = names(store, folder).await?;
    let deletions = store.delete_stream(stream::iter(found.into_iter().map(Ok)).boxed());
    deletions.try_for_each(|_| async { Ok(()) }).await.map_err(|error| said(&error).context("deleting objects"))?;
    Ok(names(store, folder).await?.pop())
}
