//! Where tables and models lie: the data folder, or an S3-compatible store.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use flywheel_lake::Lake;
use flywheel_log::EventLog;
use flywheel_registry::{CheckpointStore, Registry};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt as _, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut},
    path::Path,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    credentials::{self, Credentials},
    explained::{Explained, Setting, said},
    probe::{Probe, probe},
};

/// The section `[store]`.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Where tables and models lie: `file:` is the data folder, `s3://bucket/prefix` a bucket.
    pub url: String,
    /// Address of the S3 service, such as `http://127.0.0.1:8333`; AWS's own when empty.
    pub endpoint: String,
    /// Region of the bucket; `AWS_REGION` of the environment, else `us-east-1`, when empty.
    pub region: String,
    /// The bucket stands in the path of a request, not in the host's name: what most servers but AWS want.
    pub path_style: bool,
    /// Take an endpoint without TLS.
    pub allow_http: bool,
    /// Where the keys are.
    pub credentials: CredentialsConfig,
}

/// Where the keys are. They are never written into settings or URLs.
#[derive(Debug, Clone, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CredentialsConfig {
    /// A file in the form of `~/.aws/credentials`; `AWS_ACCESS_KEY_ID` and its like of the environment when empty.
    pub file: PathBuf,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            url: "file:".to_owned(),
            endpoint: String::new(),
            region: String::new(),
            path_style: true,
            allow_http: false,
            credentials: CredentialsConfig::default(),
        }
    }
}

/// Longest wait for one answer, and for a connection.
const ANSWER: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(5);

impl StoreConfig {
    /// Whether tables and models lie in the data folder.
    pub fn is_local(&self) -> bool {
        self.url == "file:"
    }

    /// How another program of ours is told of it: flags without their dashes, and values. Nothing for the data folder.
    pub fn flags(&self) -> Vec<(&'static str, String)> {
        if self.is_local() {
            return Vec::new();
        }
        let flags = [
            ("store", self.url.clone()),
            ("store-endpoint", self.endpoint.clone()),
            ("store-region", self.region.clone()),
            ("store-path-style", self.path_style.to_string()),
            ("store-allow-http", self.allow_http.to_string()),
            ("store-credentials-file", self.credentials.file.display().to_string()),
        ];
        flags.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }

    /// Every setting that does not fit, each named.
    pub fn problems(&self) -> Vec<String> {
        if self.is_local() {
            return Vec::new();
        }
        let mut problems: Vec<_> = self.place().err().map(|error| error.to_string()).into_iter().collect();
        if !self.endpoint.is_empty() {
            problems.extend(self.check_endpoint().err().map(|error| error.to_string()));
        }
        problems
    }

    /// The store that `url` names, `None` for the data folder. Nothing is asked of it yet.
    ///
    /// # Errors
    /// If a setting does not fit or there are no credentials; the message names the setting, never a secret.
    pub fn bucket(&self) -> anyhow::Result<Option<Bucket>> {
        if self.is_local() {
            return Ok(None);
        }
        let S3 { client, bucket, prefix, region, credentials } = self.s3()?;
        let setting = Setting {
            bucket: bucket.clone(),
            endpoint: if self.endpoint.is_empty() { format!("AWS, {region}") } else { self.endpoint.clone() },
            region,
            credentials: credentials.source().to_owned(),
        };
        Ok(Some(Bucket { store: Arc::new(Explained::new(Arc::new(client), setting)), bucket, prefix, credentials }))
    }

    /// The client of a bucket, with what was made out of the settings.
    pub(crate) fn s3(&self) -> anyhow::Result<S3> {
        let (bucket, prefix) = self.place()?;
        let credentials = credentials::find(&self.credentials.file)?;
        let region = [self.region.clone()]
            .into_iter()
            .chain(["AWS_REGION", "AWS_DEFAULT_REGION"].iter().filter_map(|name| std::env::var(name).ok()))
            .find(|region| !region.is_empty())
            .unwrap_or_else(|| "us-east-1".to_owned());
        let options =
            ClientOptions::new().with_timeout(ANSWER).with_connect_timeout(CONNECT).with_allow_http(self.allow_http);
        let retry = RetryConfig {
            backoff: BackoffConfig { max_backoff: Duration::from_secs(2), ..BackoffConfig::default() },
            max_retries: 4,
            retry_timeout: ANSWER,
        };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&bucket)
            .with_region(&region)
            .with_virtual_hosted_style_request(!self.path_style)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_client_options(options)
            .with_retry(retry);
        if !self.endpoint.is_empty() {
            self.check_endpoint()?;
            let endpoint = self.endpoint.trim_end_matches('/');
            builder = builder.with_endpoint(match (self.path_style, endpoint.split_once("://")) {
                (false, Some((scheme, host))) => format!("{scheme}://{bucket}.{host}"),
                _ => endpoint.to_owned(),
            });
        }
        builder = credentials.apply(builder);
        let client = builder.build().with_context(|| format!("opening the bucket `{bucket}` of `store.url`"))?;
        Ok(S3 { client, bucket, prefix, region, credentials })
    }

    /// Bucket and prefix of `url`.
    fn place(&self) -> anyhow::Result<(String, Path)> {
        const HINT: &str = "use `file:` for the data folder or `s3://bucket/prefix`";
        let Ok(url) = Url::parse(&self.url) else { bail!("`store.url` is not a URL; {HINT}") };
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            bail!(
                "`store.url` holds more than bucket and prefix; keys go into AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY or the file of `store.credentials.file`, and should be changed once they \
                 stood in a URL"
            );
        }
        let bucket = url.host_str().unwrap_or_default();
        if url.scheme() != "s3" || bucket.is_empty() || url.port().is_some() || url.fragment().is_some() {
            bail!("`store.url` is `{}`; {HINT}", self.url);
        }
        let prefix = url.path().trim_matches('/');
        let fits = |part: &str| {
            !part.is_empty()
                && !part.bytes().all(|b| b == b'.')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-=".contains(&b))
        };
        if !prefix.is_empty() && !prefix.split('/').all(fits) {
            bail!("`store.url` has the prefix `{prefix}`; use letters, digits, `.`, `_`, `-` and `=` between slashes");
        }
        Ok((bucket.to_owned(), Path::from(prefix)))
    }

    fn check_endpoint(&self) -> anyhow::Result<()> {
        let Ok(url) = Url::parse(&self.endpoint) else {
            bail!("`store.endpoint` is not a URL; it looks like `https://s3.example.org`");
        };
        if !url.username().is_empty() || url.password().is_some() {
            bail!(
                "`store.endpoint` holds a user or password; keys go into the environment or `store.credentials.file`"
            );
        }
        if !["http", "https"].contains(&url.scheme()) || url.host().is_none() || !["", "/"].contains(&url.path()) {
            bail!("`store.endpoint` is `{}`; it looks like `https://s3.example.org`, without a path", self.endpoint);
        }
        if url.scheme() == "http" && !self.allow_http {
            bail!(
                "`store.endpoint` is `{}`, without TLS; use https, or set `store.allow_http = true` if the way there \
                 is yours",
                self.endpoint
            );
        }
        Ok(())
    }
}

/// A bucket as its client sees it.
pub(crate) struct S3 {
    pub client: AmazonS3,
    pub bucket: String,
    pub prefix: Path,
    pub region: String,
    pub credentials: Credentials,
}

/// A bucket with a prefix, below which `lake/`, `registry/` and `checkpoints/` lie.
#[derive(Clone)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    bucket: String,
    prefix: Path,
    credentials: Credentials,
}

impl Bucket {
    /// Whether it is there and may be read, by one listing.
    ///
    /// # Errors
    /// One that names the setting and what to do: no answer, wrong keys, no such bucket, not allowed.
    pub async fn reach(&self) -> anyhow::Result<()> {
        let prefix = (!self.prefix.as_ref().is_empty()).then_some(&self.prefix);
        match self.store.list_with_delimiter(prefix).await {
            Ok(_) => Ok(()),
            Err(error) => Err(said(&error).context(format!("opening the store `{self}`"))),
        }
    }

    /// Whether it keeps what commits rest on; see [`Probe`]. Writes below `PREFIX/.probe-…` and removes that again.
    ///
    /// # Errors
    /// If it does not answer or may not be written.
    pub async fn probe(&self, writers: usize, rounds: usize) -> anyhow::Result<Probe> {
        let folder = self.prefix.clone().join(format!(".probe-{}", uuid::Uuid::new_v4().simple()));
        probe(&self.store, &folder, writers, rounds).await.with_context(|| format!("probing the store `{self}`"))
    }

    /// The tables.
    pub fn lake(&self) -> Lake {
        let root = self.prefix.clone().join("lake");
        let root = Url::parse(&format!("s3://{}/{root}/", self.bucket)).expect("bucket and prefix were parsed");
        Lake::open(Arc::clone(&self.store), root)
    }

    /// The models.
    pub fn registry(&self, hints: Option<Arc<dyn EventLog>>) -> Arc<Registry> {
        let prefix = self.prefix.clone().join("registry");
        Arc::new(Registry::open(Arc::clone(&self.store), prefix.as_ref(), hints))
    }

    /// The checkpoints of training runs.
    pub fn checkpoints(&self) -> CheckpointStore {
        let prefix = self.prefix.clone().join("checkpoints");
        CheckpointStore::open(Arc::clone(&self.store), prefix.as_ref(), format!("s3://{}/{prefix}", self.bucket))
    }

    /// The bucket itself.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// What everything of this store lies below.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// Whether nothing lies below the prefix.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn is_empty(&self) -> anyhow::Result<bool> {
        let first = self.store.list(Some(&self.prefix)).next().await;
        Ok(first.transpose().with_context(|| format!("listing `{self}`"))?.is_none())
    }

    /// Copies what lies below the prefix's folder `below` into `folder`, for programs that read folders.
    ///
    /// # Errors
    /// If the store does not answer, or the folder cannot be written.
    pub async fn copy(&self, below: &str, folder: &std::path::Path) -> anyhow::Result<()> {
        let copying = || format!("copying `{self}/{below}`");
        let root = below.split('/').fold(self.prefix.clone(), |path, part| path.join(part));
        let mut objects = self.store.list(Some(&root));
        while let Some(object) = objects.try_next().await.with_context(copying)? {
            let parts = object.location.prefix_match(&root).with_context(copying)?;
            let file = parts.fold(folder.to_owned(), |path, part| path.join(part.as_ref()));
            std::fs::create_dir_all(file.parent().unwrap_or(folder)).with_context(copying)?;
            let bytes = self.store.get(&object.location).await.with_context(copying)?.bytes().await;
            std::fs::write(&file, bytes.with_context(copying)?).with_context(copying)?;
        }
        Ok(())
    }

    /// Removes everything below the prefix.
    ///
    /// # Errors
    /// If the store does not answer, or refuses.
    pub async fn remove(&self) -> anyhow::Result<()> {
        let removing = || format!("removing what lies in `{self}`");
        let found: Vec<_> = self.store.list(Some(&self.prefix)).try_collect().await.with_context(removing)?;
        for object in found {
            self.store.delete(&object.location).await.with_context(removing)?;
        }
        Ok(())
    }

    pub(crate) fn path(&self, name: &str) -> Path {
        self.prefix.clone().join(name)
    }

    /// Where the keys came from, for people.
    pub fn credentials(&self) -> &str {
        self.credentials.source()
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bucket").field(&self.to_string()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str, endpoint: &str) -> StoreConfig {
        StoreConfig { url: url.into(), endpoint: endpoint.into(), ..StoreConfig::default() }
    }

    #[test]
    fn a_url_gives_bucket_and_prefix_and_the_default_is_the_data_folder() {
        assert!(StoreConfig::default().bucket().unwrap().is_none());
        let place = |url| at(url, "").place().unwrap();
        assert_eq!(place("s3://lake"), ("lake".to_owned(), Path::default()));
        assert_eq!(place("s3://lake/a/b-1/"), ("lake".to_owned(), Path::from("a/b-1")));
    }

    #[test]
    fn each_setting_that_does_not_fit_is_named_with_what_to_write() {
        for (url, endpoint, telling) in [
            ("nonsense", "", "`store.url` is not a URL"),
            ("gs://bucket/x", "", "s3://bucket/prefix"),
            ("s3:///x", "", "s3://bucket/prefix"),
            ("s3://b/x%20y", "", "`x%20y`"),
            ("s3://b/x//y", "", "`x//y`"),
            ("s3://b/x", "http://127.0.0.1:1", "store.allow_http = true"),
            ("s3://b/x", "127.0.0.1:1", "store.endpoint"),
            ("s3://b/x", "https://h/path", "without a path"),
        ] {
            let problems = at(url, endpoint).problems();
            assert_eq!(problems.len(), 1, "{url} {endpoint}: {problems:?}");
            assert!(problems[0].contains(telling), "{url} {endpoint}: {problems:?}");
        }
        assert_eq!(at("s3://b/x", "https://h").problems(), Vec::<String>::new());
        let both = at("gs://b", "ftp://h").problems();
        assert_eq!(both.len(), 2, "all at once: {both:?}");
    }

    #[test]
    fn keys_in_a_url_are_refused_and_not_repeated() {
        for (url, endpoint) in
            [("s3://id:topsecret@b/x", ""), ("s3://b/x?secret=topsecret", ""), ("s3://b", "https://id:topsecret@h")]
        {
            let problems = at(url, endpoint).problems();
            assert!(problems.len() == 1 && problems[0].contains("store.credentials.file"), "{problems:?}");
            assert!(!problems[0].contains("topsecret"), "{problems:?}");
        }
    }
}
