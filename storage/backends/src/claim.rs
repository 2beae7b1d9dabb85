//! Tables know which log they were written from.
//!
//! Positions in the tables mean offsets of one log. By those of another one its events would be skipped as landed, and
//! trimmed without ever having been. So the log's name lies beside the tables, and who comes with another is refused.

use std::{path::Path as FsPath, sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail};
use flywheel_lake::DurableFileSystem;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, path::Path};
use serde::{Deserialize, Serialize};

use crate::{Bucket, explained::said};

/// The object beside `lake/` and `registry/`.
pub(crate) const NAME: &str = "flywheel.json";
const FORMAT: u32 = 1;
/// Puts that a store leaves undecided before that is an error.
const UNDECIDED: u32 = 8;

/// A log as claims name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogName {
    /// Kept in the log itself: another log has another, also one made in the same place. A log on servers of its own has
    /// their kind before it: `redis:…`.
    pub id: String,
    /// Where it is, for people; without credentials.
    pub place: String,
}

impl LogName {
    pub fn embedded(id: &str, folder: &FsPath) -> Self {
        Self { id: id.to_owned(), place: format!("embedded:{}", folder.display()) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Claim {
    format: u32,
    /// The log from which the tables are written.
    log: String,
    /// Where that log was when the claim was made.
    #[serde(default)]
    place: String,
}

/// The tables are of another log than the one that `stream.url` names. Nothing that passes by itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OtherLog(String);

/// What a claim says of a log.
enum Fit {
    Same,
    /// It was made when claims knew no more of a log on servers than their kind.
    Kind,
}

/// Where the claim of some tables lies.
#[derive(Debug)]
pub(crate) struct Claims {
    store: Arc<dyn ObjectStore>,
    path: Path,
    /// Where the tables are, and how to have others.
    tables: String,
    others: &'static str,
}

impl Claims {
    /// Of the tables in a data folder.
    ///
    /// # Errors
    /// If the folder is not there.
    pub fn of_folder(data: &FsPath) -> anyhow::Result<Self> {
        let folder = data.canonicalize().with_context(|| format!("finding `{}`", data.display()))?;
        let path = Path::from_absolute_path(folder.join(NAME))
            .with_context(|| format!("`{}` cannot be written as an object path", folder.display()))?;
        let (store, others) = (Arc::new(DurableFileSystem::new()), "choose another data folder with `--data DIR`");
        Ok(Self { store, path, tables: data.display().to_string(), others })
    }

    /// Of the tables in a bucket.
    pub fn of_bucket(bucket: &Bucket) -> Self {
        let others = "name another prefix with `store.url`, start on the data folder that wrote it";
        Self { store: Arc::clone(bucket.store()), path: bucket.path(NAME), tables: bucket.to_string(), others }
    }

    /// Says that the tables here are written from `log`, or sees that they are.
    ///
    /// # Errors
    /// If they are written from another log, or by a newer program.
    pub async fn make(&self, log: &LogName) -> anyhow::Result<()> {
        let claim = Claim { format: FORMAT, log: log.id.clone(), place: log.place.clone() };
        let ours = serde_json::to_vec(&claim).context("encoding the claim")?;
        for attempt in 0..UNDECIDED {
            let mode = match self.read().await? {
                Some(claim) => match self.fit(&claim, log)? {
                    Fit::Same => return Ok(()),
                    Fit::Kind => PutMode::Overwrite,
                },
                None => PutMode::Create,
            };
            let options = PutOptions { mode, ..PutOptions::default() };
            match self.store.put_opts(&self.path, ours.clone().into(), options).await {
                // What lies there decides.
                Ok(_) => continue,
                // Others start at the same time. S3 says so (409) also while nothing is there yet: look again.
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
                // It may have arrived all the same.
                Err(error) => match self.read().await {
                    Ok(Some(claim)) if matches!(self.fit(&claim, log)?, Fit::Same) => return Ok(()),
                    _ => return Err(said(&error).context(format!("writing `{NAME}` to `{}`", self.tables))),
                },
            }
            tokio::time::sleep(Duration::from_millis(10 << attempt)).await;
        }
        Err(anyhow!("others keep writing it at the same time")
            .context(format!("writing `{NAME}` to `{}`", self.tables)))
    }

    /// Sees that the tables here, if any log is written to them, are written from `log`.
    ///
    /// # Errors
    /// As [`Claims::make`].
    pub async fn check(&self, log: &LogName) -> anyhow::Result<()> {
        match self.read().await? {
            Some(claim) => self.fit(&claim, log).map(drop),
            None => Ok(()),
        }
    }

    /// The name of the log that the tables here are written from, if any is written to them.
    ///
    /// # Errors
    /// If the claim cannot be read.
    pub async fn log(&self) -> anyhow::Result<Option<String>> {
        Ok(self.read().await?.map(|claim| claim.log))
    }

    async fn read(&self) -> anyhow::Result<Option<Claim>> {
        let read = async { self.store.get(&self.path).await?.bytes().await };
        let found = match read.await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(said(&error).context(format!("reading `{NAME}` of `{}`", self.tables))),
        };
        let claim = serde_json::from_slice(&found)
            .with_context(|| format!("`{NAME}` of `{}` is none of ours; {}", self.tables, self.others))?;
        Ok(Some(claim))
    }

    fn fit(&self, claim: &Claim, log: &LogName) -> anyhow::Result<Fit> {
        let Self { tables, others, .. } = self;
        if claim.format > FORMAT {
            bail!("`{tables}` was written by a newer program (format {}); use that one", claim.format);
        }
        if claim.log == log.id {
            return Ok(Fit::Same);
        }
        if log.id.split_once(':').is_some_and(|(kind, _)| kind == claim.log) {
            return Ok(Fit::Kind);
        }
        let was = if claim.place.is_empty() { String::new() } else { format!(" at `{}`", claim.place) };
        Err(OtherLog(format!(
            "`{tables}` holds the tables of another log ({}{was}) than that of `stream.url` ({} at `{}`): by their \
             positions its events would be skipped, and trimmed without having been landed. Set `stream.url` back, or \
             {others}; only if this log goes on where that one ended (it was moved), remove `{NAME}` there",
            claim.log, log.id, log.place,
        ))
        .into())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fmt,
        sync::atomic::{AtomicU32, Ordering::SeqCst},
    };

    use async_trait::async_trait;
    use futures::stream::BoxStream;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions, PutPayload,
        PutResult, Result, memory::InMemory,
    };

    use super::*;

    fn log(id: &str) -> LogName {
        LogName { id: id.to_owned(), place: format!("place of {id}") }
    }

    fn within(store: Arc<dyn ObjectStore>) -> Claims {
        Claims { store, path: Path::from(NAME), tables: "here".to_owned(), others: "go elsewhere" }
    }

    #[tokio::test]
    async fn tables_of_one_log_refuse_another_and_say_which_where_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let claims = Claims::of_folder(dir.path()).unwrap();
        claims.check(&log("redis:1")).await.unwrap();
        claims.make(&log("redis:1")).await.unwrap();
        claims.make(&log("redis:1")).await.unwrap();
        for other in ["redis:2", "1", "kafka:1"] {
            for refused in [claims.make(&log(other)).await, claims.check(&log(other)).await] {
                let said = refused.unwrap_err().to_string();
                let here = dir.path().display().to_string();
                for word in ["another log", "redis:1 at `place of redis:1`", other, "stream.url", "--data DIR", &here] {
                    assert!(said.contains(word), "{word}: {said}");
                }
            }
        }
        // The way to accept it.
        std::fs::remove_file(dir.path().join(NAME)).unwrap();
        claims.make(&log("redis:2")).await.unwrap();
        assert!(claims.check(&log("redis:1")).await.is_err());
    }

    #[tokio::test]
    async fn a_claim_that_knew_only_the_kind_of_servers_becomes_one_of_the_log() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        store.put(&Path::from(NAME), r#"{"format":1,"log":"redis"}"#.into()).await.unwrap();
        let claims = within(store);
        assert!(claims.make(&log("kafka:1")).await.is_err());
        claims.check(&log("redis:1")).await.unwrap();
        claims.make(&log("redis:1")).await.unwrap();
        assert!(claims.make(&log("redis:2")).await.is_err());
    }

    #[tokio::test]
    async fn claims_of_newer_programs_and_of_strangers_are_refused() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        for (text, telling) in [(r#"{"format":2,"log":"1"}"#, "newer program"), ("{}", "none of ours")] {
            store.put(&Path::from(NAME), text.into()).await.unwrap();
            let error = within(Arc::clone(&store)).make(&log("1")).await.unwrap_err();
            assert!(format!("{error:#}").contains(telling), "{error:#}");
        }
    }

    /// Says of a new object that it exists (a conflict with another put, as S3 has it) or that it is not there, and
    /// keeps it or does not.
    #[derive(Debug)]
    struct Racing {
        inner: InMemory,
        left: AtomicU32,
        answer: fn() -> Error,
        keeps: bool,
    }

    impl fmt::Display for Racing {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Racing")
        }
    }

    #[async_trait]
    impl ObjectStore for Racing {
        async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
            if self.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
                if self.keeps {
                    self.inner.put_opts(at, payload, options).await?;
                }
                return Err((self.answer)());
            }
            self.inner.put_opts(at, payload, options).await
        }

        async fn put_multipart_opts(
            &self,
            at: &Path,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.inner.put_multipart_opts(at, options).await
        }

        async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
            self.inner.get_opts(at, options).await
        }

        fn delete_stream(&self, at: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.inner.delete_stream(at)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.inner.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.inner.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.inner.copy_opts(from, to, options).await
        }
    }

    fn exists() -> Error {
        Error::AlreadyExists { path: NAME.to_owned(), source: "409 ConditionalRequestConflict".into() }
    }

    fn lost() -> Error {
        Error::Generic { store: "S3", source: "the answer was lost".into() }
    }

    #[tokio::test]
    async fn of_many_that_start_at_once_none_fails_by_a_conflict_that_decided_nothing() {
        for (left, answer, keeps) in [(3, exists as fn() -> Error, false), (1, exists, true), (1, lost, true)] {
            let store = Racing { inner: InMemory::new(), left: AtomicU32::new(left), answer, keeps };
            let claims = within(Arc::new(store));
            claims.make(&log("1")).await.unwrap();
            assert!(claims.check(&log("2")).await.is_err());
        }
        let forever = Racing { inner: InMemory::new(), left: AtomicU32::new(u32::MAX), answer: exists, keeps: false };
        let error = within(Arc::new(forever)).make(&log("1")).await.unwrap_err();
        assert!(format!("{error:#}").contains("writing `flywheel.json` to `here`"), "{error:#}");
        let lost = Racing { inner: InMemory::new(), left: AtomicU32::new(1), answer: lost, keeps: false };
        let error = within(Arc::new(lost)).make(&log("1")).await.unwrap_err();
        assert!(format!("{error:#}").contains("the answer was lost"), "{error:#}");
    }
}
