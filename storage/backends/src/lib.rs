//! Which backend is meant: decided here, by URL, and nowhere else.
//!
//! Pipelines and jobs see traits. The programs (`flywheel`, `flywheel-trainer`) call this crate, the only one that
//! names backends: `embedded:` is the data folder's own log, shared with other processes of this machine over a
//! Unix socket while one of them holds it; `redis://` is always there, `kafka://` with the feature `kafka`. Tables
//! and models lie in the data folder, or below `s3://bucket/prefix` ([`StoreConfig`]); runs in a file there, or in
//! PostgreSQL ([`CatalogConfig`]); what is archived in a folder or, with the feature `archive-s3`, below such a prefix
//! ([`ArchiveConfig`]).

mod archive;
mod catalog;
mod claim;
mod claimed;
mod credentials;
mod explained;
mod look;
mod probe;
mod store;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use flywheel_archive::{ArchiveError, ColdStore};
use flywheel_catalog::Catalog;
use flywheel_lake::{DurableFileSystem, Lake};
use flywheel_log::{EventLog, Reserve, Reserved};
use flywheel_log_embedded::{EmbeddedConfig, EmbeddedLog, SOCKET};
use flywheel_registry::{CheckpointStore, Registry};
use object_store::{ObjectStore, prefix::PrefixStore};
use tokio_util::sync::CancellationToken;

use crate::claim::{Claims, LogName};
pub use crate::{
    archive::ArchiveConfig,
    catalog::CatalogConfig,
    claim::OtherLog,
    claimed::ClaimedArchive,
    look::LogFound,
    probe::{Probe, Promise, probe},
    store::{Bucket, CredentialsConfig, StoreConfig},
};

/// Everything that a program works on.
#[derive(Debug, Clone)]
pub struct Backends {
    pub log: Arc<dyn EventLog>,
    pub lake: Lake,
    pub registry: Arc<Registry>,
    pub catalog: Catalog,
    /// Where runs keep their checkpoints for other machines; `None` where the data folder is all there is.
    pub checkpoints: Option<CheckpointStore>,
}

/// Where the backends are.
#[derive(Debug, Clone)]
pub struct BackendUrls {
    /// `embedded:` for the data folder's log, `embedded:/some/folder` for another; `redis://host:port/db`;
    /// `kafka://host:port`.
    pub log: String,
    /// The data folder.
    pub data: PathBuf,
    /// Where tables and models lie.
    pub store: StoreConfig,
    /// Where runs are kept.
    pub catalog: CatalogConfig,
}

impl BackendUrls {
    /// The tables.
    ///
    /// # Errors
    /// If they cannot be opened: the message says where and which setting to look at.
    pub async fn open_lake(&self) -> anyhow::Result<Lake> {
        match self.store.bucket()? {
            Some(bucket) => bucket.reach().await.map(|()| bucket.lake()),
            None => open_lake(&self.data),
        }
    }

    /// Whether the log has servers of its own, so that processes on several machines can share it.
    pub fn has_servers(&self) -> bool {
        ["redis:", "rediss:", "kafka:"].iter().any(|scheme| self.log.starts_with(scheme))
    }

    /// The log, where [`BackendUrls::has_servers`] says that it can be shared.
    ///
    /// # Errors
    /// If it cannot be reached, or is a log of one process.
    pub async fn open_shared_log(&self) -> anyhow::Result<Arc<dyn EventLog>> {
        match log_of_a_server(&self.log).await? {
            Some((log, _)) => Ok(log),
            None => self.not_shared(),
        }
    }

    /// Log and tables for one of several processes that write tables from a log with servers of its own.
    ///
    /// # Errors
    /// As [`BackendUrls::open_shared_log`], and if the tables cannot be opened or belong to another log.
    pub async fn open_shared(&self) -> anyhow::Result<(Arc<dyn EventLog>, Lake)> {
        let Some((log, name)) = log_of_a_server(&self.log).await? else { return self.not_shared() };
        self.claims().await?.make(&name).await?;
        Ok((log, self.open_lake().await?))
    }

    fn not_shared<T>(&self) -> anyhow::Result<T> {
        bail!("`{}` is the log of one process and cannot be shared", self.shown_log())
    }

    /// Tables are written from one log only; here they say from which.
    async fn claims(&self) -> anyhow::Result<Claims> {
        match self.store.bucket()? {
            Some(bucket) => bucket.reach().await.map(|()| Claims::of_bucket(&bucket)),
            None => Claims::of_folder(&make(self.data.clone())?),
        }
    }

    /// URL of the log as it may be printed: without user, password and settings.
    pub fn shown_log(&self) -> String {
        without_credentials(&self.log)
    }

    /// The models.
    ///
    /// # Errors
    /// As [`BackendUrls::open_lake`].
    pub async fn open_registry(&self, hints: Option<Arc<dyn EventLog>>) -> anyhow::Result<Arc<Registry>> {
        match self.store.bucket()? {
            Some(bucket) => bucket.reach().await.map(|()| bucket.registry(hints)),
            None => open_registry(&self.data, hints),
        }
    }

    /// The runs.
    ///
    /// # Errors
    /// If the database cannot be opened or migrated.
    pub async fn open_catalog(&self) -> anyhow::Result<Catalog> {
        self.catalog.open(&self.data).await
    }

    /// Where sealed days and trimmed records go, if anywhere. It belongs to these tables alone: says so there, or sees it.
    ///
    /// # Errors
    /// If a setting does not fit, the archive cannot be reached, or it belongs to other tables.
    pub async fn open_archive(&self, config: &ArchiveConfig) -> anyhow::Result<Option<Arc<dyn ColdStore>>> {
        let Some(store) = config.cold_store()? else { return Ok(None) };
        archive::claim(&*store, &self.owner().await?).await.map_err(one_line)?;
        Ok(Some(store))
    }

    /// As [`BackendUrls::open_archive`], for whoever can do without it for a while: with why it does not answer now, if it
    /// does not. It is claimed as soon as it does.
    ///
    /// # Errors
    /// If a setting does not fit, the archive refuses, or belongs to other tables.
    pub async fn open_archive_in_time(
        &self,
        config: &ArchiveConfig,
    ) -> anyhow::Result<Option<(Arc<ClaimedArchive>, Option<ArchiveError>)>> {
        let Some(store) = config.cold_store()? else { return Ok(None) };
        let store = Arc::new(ClaimedArchive::new(store, self.owner().await?));
        match store.check().await {
            Ok(()) => Ok(Some((store, None))),
            Err(error) if error.kind().is_retryable() => Ok(Some((store, Some(error)))),
            Err(error) => Err(one_line(error)),
        }
    }

    /// What an archive calls these tables: a bucket by its place, a folder by the log that they are of.
    async fn owner(&self) -> anyhow::Result<String> {
        if !self.store.is_local() {
            return Ok(self.store.url.trim_end_matches('/').to_owned());
        }
        self.claims().await?.log().await?.with_context(|| {
            format!(
                "`{}` does not say yet of which log its tables are; start `flywheel up` on it once",
                self.data.display()
            )
        })
    }

    /// Folder of the embedded log.
    ///
    /// # Errors
    /// If the URL names a backend that this program does not have.
    pub fn embedded_log(&self) -> anyhow::Result<PathBuf> {
        match self.log.split_once(':') {
            Some(("embedded", "")) => Ok(self.data.join("log")),
            Some(("embedded", path)) => Ok(PathBuf::from(path.trim_start_matches("//"))),
            _ => bail!(
                "`{}` is not a log that this program knows; use `embedded:`, `embedded:PATH` or `redis://host:port`",
                without_credentials(&self.log)
            ),
        }
    }
}

/// The process that holds an embedded log, and lets others use it. A log that has servers of its own needs no holder.
#[derive(Debug)]
pub struct LogOwner(Option<Arc<EmbeddedLog>>);

impl LogOwner {
    /// Answers other processes of this machine until told to stop.
    ///
    /// # Errors
    /// If the socket in the log's folder cannot be bound.
    pub fn serve(&self, cancel: CancellationToken) -> std::io::Result<impl Future<Output = ()> + Send + use<>> {
        let serving = self.0.as_ref().map(|log| log.serve(&log.dir().join(SOCKET), cancel.clone())).transpose()?;
        Ok(async move {
            match serving {
                Some(serving) => serving.await,
                None => cancel.cancelled().await,
            }
        })
    }
}

impl Backends {
    /// Opens the log as its owner; other processes may then [`Backends::connect`].
    ///
    /// # Errors
    /// If another process holds the log, or a store cannot be opened: the message says which and where.
    pub async fn open(urls: &BackendUrls) -> anyhow::Result<(Self, LogOwner)> {
        Self::open_within(urls, None).await
    }

    /// As [`Backends::open`]; an embedded log takes nothing while the reserve is shut, from whatever process. A log on
    /// servers takes all: see [`Backends::log_for_events`].
    ///
    /// # Errors
    /// As [`Backends::open`].
    pub async fn open_within(urls: &BackendUrls, reserve: Option<Arc<Reserve>>) -> anyhow::Result<(Self, LogOwner)> {
        if let Some((log, name)) = log_of_a_server(&urls.log).await? {
            urls.claims().await?.make(&name).await?;
            return Ok((Self::with_log(urls, log).await?, LogOwner(None)));
        }
        let folder = urls.embedded_log()?;
        let log =
            flywheel_log_embedded::open_patiently(&folder, EmbeddedConfig { reserve, ..EmbeddedConfig::default() })
                .await
                .with_context(|| format!("opening the event log in `{}`", folder.display()))?;
        urls.claims().await?.make(&LogName::embedded(log.identity(), &folder)).await?;
        Ok((Self::with_log(urls, log.clone()).await?, LogOwner(Some(log))))
    }

    /// Opens the log, or connects to the process that holds it.
    ///
    /// # Errors
    /// Like [`Backends::open`].
    pub async fn connect(urls: &BackendUrls) -> anyhow::Result<Self> {
        Self::reach(urls, true).await
    }

    /// As [`Backends::connect`], for a part of a loop that is there: an embedded log is never held by this process, which
    /// may outlive the loop.
    ///
    /// # Errors
    /// Like [`Backends::connect`], and if no process holds the log.
    pub async fn attach(urls: &BackendUrls) -> anyhow::Result<Self> {
        Self::reach(urls, false).await
    }

    async fn reach(urls: &BackendUrls, may_hold: bool) -> anyhow::Result<Self> {
        if let Some((log, name)) = log_of_a_server(&urls.log).await? {
            urls.claims().await?.check(&name).await?;
            return Self::with_log(urls, log).await;
        }
        let folder = urls.embedded_log()?;
        let reached = if may_hold {
            flywheel_log_embedded::open_or_connect(&folder).await
        } else {
            flywheel_log_embedded::connect(&folder).await
        };
        let (log, id) = reached.with_context(|| format!("opening the event log in `{}`", folder.display()))?;
        urls.claims().await?.check(&LogName::embedded(&id, &folder)).await?;
        Self::with_log(urls, log).await
    }

    /// The log for whoever brings new events: it takes none while the reserve is shut. What flows append by themselves,
    /// such as the signs of life that their leases rest on, goes to [`Backends::log`].
    pub fn log_for_events(&self, reserve: Option<&Arc<Reserve>>) -> Arc<dyn EventLog> {
        match reserve {
            Some(reserve) => Reserved::new(Arc::clone(&self.log), Arc::clone(reserve)),
            None => Arc::clone(&self.log),
        }
    }

    async fn with_log(urls: &BackendUrls, log: Arc<dyn EventLog>) -> anyhow::Result<Self> {
        let hints = Some(Arc::clone(&log));
        let (lake, registry, checkpoints) = match urls.store.bucket()? {
            Some(bucket) => {
                bucket.reach().await?;
                (bucket.lake(), bucket.registry(hints), Some(bucket.checkpoints()))
            }
            None => (open_lake(&urls.data)?, open_registry(&urls.data, hints)?, None),
        };
        Ok(Self { log, lake, registry, catalog: urls.open_catalog().await?, checkpoints })
    }
}

/// Without its causes, which the line repeats already.
fn one_line(error: ArchiveError) -> anyhow::Error {
    anyhow::Error::msg(error.to_string())
}

/// URLs are printed; what stands before the host is not, wherever a password ends, nor any setting.
fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once(':') else {
        return url.rsplit_once('@').map_or_else(|| url.to_owned(), |(_, place)| format!("…@{place}"));
    };
    let slashes = if rest.starts_with("//") { "//" } else { "" };
    let (hidden, place) = match rest.rsplit_once('@') {
        Some((_, place)) => ("…@", place),
        None => ("", rest.trim_start_matches("//")),
    };
    let place = place.find(['?', '#']).map_or_else(|| place.to_owned(), |at| format!("{}?…", &place[..at]));
    format!("{scheme}:{slashes}{hidden}{place}")
}

/// The log on servers of its own, if `url` names one.
async fn log_of_a_server(url: &str) -> anyhow::Result<Option<(Arc<dyn EventLog>, LogName)>> {
    if url.starts_with("redis:") || url.starts_with("rediss:") {
        const OPENING: &str = "opening the event log on Redis";
        let log = flywheel_log_redis::RedisLog::connect(url).await.context(OPENING)?;
        let id = log.identity().await.context(OPENING)?;
        let name = LogName { id: format!("redis:{id}"), place: log.place() };
        return Ok(Some((log, name)));
    }
    kafka_log(url).await
}

/// The log on Kafka, if `url` names one.
#[cfg(feature = "kafka")]
async fn kafka_log(url: &str) -> anyhow::Result<Option<(Arc<dyn EventLog>, LogName)>> {
    if !url.starts_with("kafka:") {
        return Ok(None);
    }
    const OPENING: &str = "opening the event log on Kafka";
    let log = flywheel_log_kafka::KafkaLog::connect(url).await.context(OPENING)?;
    let id = log.identity().await.context(OPENING)?;
    let name = LogName { id: format!("kafka:{id}"), place: log.place() };
    Ok(Some((log, name)))
}

#[cfg(not(feature = "kafka"))]
async fn kafka_log(url: &str) -> anyhow::Result<Option<(Arc<dyn EventLog>, LogName)>> {
    if url.starts_with("kafka:") {
        bail!("this program was built without Kafka; build it with `--features kafka`, which needs OpenSSL's headers");
    }
    Ok(None)
}

/// The tables of a data folder: `lake/`.
///
/// # Errors
/// If the folder cannot be made.
pub fn open_lake(data: &Path) -> anyhow::Result<Lake> {
    let folder = make(data.join("lake"))?;
    Lake::local(&folder).with_context(|| format!("opening the tables in `{}`", folder.display()))
}

/// The models of a data folder: `registry/`.
///
/// # Errors
/// If the folder cannot be made.
pub fn open_registry(data: &Path, hints: Option<Arc<dyn EventLog>>) -> anyhow::Result<Arc<Registry>> {
    let folder = make(data.join("registry"))?;
    let folder = folder.canonicalize().with_context(|| format!("finding `{}`", folder.display()))?;
    let prefix = object_store::path::Path::from_absolute_path(&folder)
        .with_context(|| format!("`{}` cannot be written as an object path", folder.display()))?;
    let store: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(DurableFileSystem::open(&folder), prefix));
    Ok(Arc::new(Registry::open(store, "", hints)))
}

/// The runs of a data folder: `catalog.sqlite`.
///
/// # Errors
/// If the database cannot be opened or migrated.
pub async fn open_catalog(data: &Path) -> anyhow::Result<Catalog> {
    CatalogConfig::default().open(data).await
}

fn make(folder: PathBuf) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(&folder).with_context(|| format!("creating `{}`", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refused(log: &str) -> String {
        let error = Backends::connect(&BackendUrls {
            log: log.to_owned(),
            data: std::env::temp_dir(),
            store: StoreConfig::default(),
            catalog: CatalogConfig::default(),
        })
        .await
        .unwrap_err();
        format!("{error:#}")
    }

    #[test]
    fn no_part_of_a_password_is_printed_whatever_characters_it_has() {
        for (url, shown) in [
            ("embedded:", "embedded:"),
            ("embedded:/data/log", "embedded:/data/log"),
            ("redis://h:1/0", "redis://h:1/0"),
            ("redis://h:1/0?prefix=x", "redis://h:1/0?…"),
            ("kafka://h:1?sasl.password=s3cret", "kafka://h:1?…"),
            ("nats://u:s3cret@h:1/x", "nats://…@h:1/x"),
            ("nats://u:s3@cret@h", "nats://…@h"),
            ("nats://u:s3cret/s3cret@h", "nats://…@h"),
            ("nats://u:s3cret?s3cret#s3cret@h", "nats://…@h"),
            ("nats:u:s3cret@h", "nats:…@h"),
            ("nats:/u:s3cret@h", "nats:…@h"),
            ("s3cret@h", "…@h"),
            ("redis//:s3cret@h", "redis//:…@h"),
        ] {
            assert_eq!(without_credentials(url), shown, "{url}");
            assert!(!shown.contains("s3cret") && !shown.contains("cret"));
        }
    }

    /// The disk is full: new events are refused, the leases of those who land what is there are renewed.
    #[tokio::test]
    async fn while_the_disk_is_nearly_full_events_are_refused_and_signs_of_life_are_not() {
        use flywheel_log::{LogErrorKind, MemoryLog, Record, ReserveLimits, Space, Topic};
        let dir = tempfile::tempdir().unwrap();
        let backends = Backends {
            log: MemoryLog::new(),
            lake: open_lake(dir.path()).unwrap(),
            registry: open_registry(dir.path(), None).unwrap(),
            catalog: open_catalog(dir.path()).await.unwrap(),
            checkpoints: None,
        };
        let full = Reserve::new(ReserveLimits { share: 0.5, bytes: 0 });
        let full = Arc::new(full.watching("data", || Ok(Space { free: 0, total: 100 })));
        let topic = Topic::new("t");
        backends.log.create_topic(&topic, 1).await.unwrap();
        let append = async |log: &Arc<dyn EventLog>| log.append(&topic.partition(0), vec![Record::new("k", "v")]).await;
        let refused = append(&backends.log_for_events(Some(&full))).await.unwrap_err();
        assert_eq!(refused.kind(), LogErrorKind::Full);
        append(&backends.log).await.unwrap();
        append(&backends.log_for_events(None)).await.unwrap();
    }

    fn in_folder(data: &Path, log: &str) -> BackendUrls {
        BackendUrls {
            log: log.to_owned(),
            data: data.to_owned(),
            store: StoreConfig::default(),
            catalog: CatalogConfig::default(),
        }
    }

    /// The writer thread lets go of the file a moment after the log is dropped.
    async fn open_when_free(urls: &BackendUrls) -> anyhow::Result<(Backends, LogOwner)> {
        let began = std::time::Instant::now();
        loop {
            match Backends::open(urls).await {
                Err(error) if format!("{error:#}").contains("another process holds it") => {
                    assert!(began.elapsed().as_secs() < 30, "{error:#}");
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
                other => return other,
            }
        }
    }

    #[tokio::test]
    async fn a_data_folder_is_claimed_at_its_first_start_and_refuses_another_log_from_then_on() {
        let dir = tempfile::tempdir().unwrap();
        let (data, other) = (dir.path().join("data"), dir.path().join("other"));
        let own = in_folder(&data, "embedded:");
        drop(Backends::open(&own).await.unwrap());
        // As folders were before there were claims.
        std::fs::remove_file(data.join(claim::NAME)).unwrap();
        drop(open_when_free(&own).await.unwrap());
        drop(open_when_free(&own).await.unwrap());
        let others = in_folder(&data, &format!("embedded:{}", other.display()));
        for refused in [open_when_free(&others).await.map(drop), Backends::connect(&others).await.map(drop)] {
            let refused = refused.unwrap_err();
            assert!(refused.is::<OtherLog>(), "{refused:#}");
            let said = format!("{refused:#}");
            for word in ["another log", "stream.url", "--data DIR", "flywheel.json", &other.display().to_string()] {
                assert!(said.contains(word), "{word}: {said}");
            }
        }
        // The log was thrown away and made anew: its offsets begin at 0, behind the tables' positions.
        std::fs::remove_file(data.join("log/log.redb")).unwrap();
        assert!(format!("{:#}", open_when_free(&own).await.unwrap_err()).contains("another log"));
        std::fs::remove_file(data.join(claim::NAME)).unwrap();
        open_when_free(&own).await.unwrap();
    }

    #[tokio::test]
    async fn no_password_of_a_url_is_repeated() {
        let unknown = refused("nats://user:s3cret@host").await;
        assert!(unknown.contains("nats://…@host") && unknown.contains("is not a log"), "{unknown}");
        let misspelt = refused("redis://:s3cret@127.0.0.1:1/0?colour=red").await;
        assert!(misspelt.contains("on Redis") && misspelt.contains("`colour` is not a setting"), "{misspelt}");
        let away = refused("redis://:s3cret@127.0.0.1:1/0?timeout=2s").await;
        assert!(away.contains("redis://127.0.0.1:1/0") && away.contains("start the server"), "{away}");
        for said in [unknown, misspelt, away] {
            assert!(!said.contains("s3cret"), "{said}");
        }
    }
}
