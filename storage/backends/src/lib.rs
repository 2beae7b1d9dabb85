//! Which backend is meant: decided here, by URL, and nowhere else.
//!
//! Pipelines and jobs see traits. The programs (`flywheel`, `flywheel-trainer`) call this crate, the only one that
//! names backends: `embedded:` is the data folder's own log, shared with other processes of this machine over a
//! Unix socket while one of them holds it; `redis://` is always there, `kafka://` with the feature `kafka`. Tables
//! and models lie in the data folder, or below `s3://bucket/prefix` ([`StoreConfig`]); what is archived lies in a folder or, with
//! the feature `archive-s3`, below such a prefix ([`ArchiveConfig`]).

mod archive;
mod claim;
mod credentials;
mod explained;
mod probe;
mod store;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use flywheel_archive::ColdStore;
use flywheel_catalog::Catalog;
use flywheel_lake::{DurableFileSystem, Lake};
use flywheel_log::{EventLog, Reserve, Reserved};
use flywheel_log_embedded::{EmbeddedConfig, EmbeddedLog, SOCKET};
use flywheel_registry::Registry;
use object_store::{ObjectStore, prefix::PrefixStore};
use tokio_util::sync::CancellationToken;

pub use crate::{
    archive::ArchiveConfig,
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
            Some(log) => Ok(log),
            None => bail!("`{}` is the log of one process and cannot be shared", without_credentials(&self.log)),
        }
    }

    /// Log and tables for one of several processes that write tables from a log with servers of its own.
    ///
    /// # Errors
    /// As [`BackendUrls::open_shared_log`], and if the tables cannot be opened or belong to another log.
    pub async fn open_shared(&self) -> anyhow::Result<(Arc<dyn EventLog>, Lake)> {
        let log = self.open_shared_log().await?;
        self.claim_store(self.servers()).await?;
        Ok((log, self.open_lake().await?))
    }

    /// What a bucket calls a log on servers.
    fn servers(&self) -> &'static str {
        if self.log.starts_with("kafka:") { "kafka" } else { "redis" }
    }

    /// Tables in a bucket are written from one log only.
    async fn claim_store(&self, log: &str) -> anyhow::Result<()> {
        match self.store.bucket()? {
            Some(bucket) => {
                bucket.reach().await?;
                bucket.claim(log).await
            }
            None => Ok(()),
        }
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

    /// Where sealed days and trimmed records go, if anywhere. It belongs to these tables alone: says so there, or sees it.
    ///
    /// # Errors
    /// If a setting does not fit, the archive cannot be reached, or it belongs to other tables.
    pub async fn open_archive(&self, config: &ArchiveConfig) -> anyhow::Result<Option<Arc<dyn ColdStore>>> {
        let Some(store) = config.cold_store()? else { return Ok(None) };
        archive::claim(&*store, &self.owner()?).await?;
        Ok(Some(store))
    }

    /// What an archive calls these tables, and the log behind them.
    fn owner(&self) -> anyhow::Result<String> {
        if !self.store.is_local() {
            return Ok(self.store.url.trim_end_matches('/').to_owned());
        }
        let folder = if self.has_servers() { self.data.clone() } else { self.embedded_log()? };
        claim::log_id(&make(folder)?)
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

    /// As [`Backends::open`]; the log takes nothing while the reserve is shut, from whatever process.
    ///
    /// # Errors
    /// As [`Backends::open`].
    pub async fn open_within(urls: &BackendUrls, reserve: Option<Arc<Reserve>>) -> anyhow::Result<(Self, LogOwner)> {
        if let Some(log) = log_of_a_server(&urls.log).await? {
            urls.claim_store(urls.servers()).await?;
            let log = match reserve {
                Some(reserve) => Reserved::new(log, reserve),
                None => log,
            };
            return Ok((Self::with_log(urls, log).await?, LogOwner(None)));
        }
        let folder = urls.embedded_log()?;
        let log = EmbeddedLog::open(&folder, EmbeddedConfig { reserve, ..EmbeddedConfig::default() })
            .with_context(|| format!("opening the event log in `{}`", folder.display()))?;
        if !urls.store.is_local() {
            urls.claim_store(&claim::log_id(&folder)?).await?;
        }
        Ok((Self::with_log(urls, log.clone()).await?, LogOwner(Some(log))))
    }

    /// Opens the log, or connects to the process that holds it.
    ///
    /// # Errors
    /// Like [`Backends::open`].
    pub async fn connect(urls: &BackendUrls) -> anyhow::Result<Self> {
        if let Some(log) = log_of_a_server(&urls.log).await? {
            return Self::with_log(urls, log).await;
        }
        let folder = urls.embedded_log()?;
        let log = flywheel_log_embedded::open_or_connect(&folder)
            .await
            .with_context(|| format!("opening the event log in `{}`", folder.display()))?;
        Self::with_log(urls, log).await
    }

    async fn with_log(urls: &BackendUrls, log: Arc<dyn EventLog>) -> anyhow::Result<Self> {
        let hints = Some(Arc::clone(&log));
        let (lake, registry) = match urls.store.bucket()? {
            Some(bucket) => {
                bucket.reach().await?;
                (bucket.lake(), bucket.registry(hints))
            }
            None => (open_lake(&urls.data)?, open_registry(&urls.data, hints)?),
        };
        Ok(Self { log, lake, registry, catalog: open_catalog(&urls.data).await? })
    }
}

/// URLs are printed; what stands before the host is not.
fn without_credentials(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://…@{place}"),
        _ => url.to_owned(),
    }
}

/// The log on servers of its own, if `url` names one.
async fn log_of_a_server(url: &str) -> anyhow::Result<Option<Arc<dyn EventLog>>> {
    if url.starts_with("redis:") || url.starts_with("rediss:") {
        return Ok(Some(flywheel_log_redis::RedisLog::connect(url).await.context("opening the event log on Redis")?));
    }
    kafka_log(url).await
}

/// The log on Kafka, if `url` names one.
#[cfg(feature = "kafka")]
async fn kafka_log(url: &str) -> anyhow::Result<Option<Arc<dyn EventLog>>> {
    if !url.starts_with("kafka:") {
        return Ok(None);
    }
    Ok(Some(flywheel_log_kafka::KafkaLog::connect(url).await.context("opening the event log on Kafka")?))
}

#[cfg(not(feature = "kafka"))]
async fn kafka_log(url: &str) -> anyhow::Result<Option<Arc<dyn EventLog>>> {
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
    let file = data.join("catalog.sqlite");
    Catalog::open(&file).await.with_context(|| format!("opening the catalog `{}`", file.display()))
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
        })
        .await
        .unwrap_err();
        format!("{error:#}")
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
