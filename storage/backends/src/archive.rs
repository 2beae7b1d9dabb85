//! Where sealed days and trimmed records go: a folder, or a bucket.

use std::{path::PathBuf, sync::Arc};

use anyhow::bail;
use flywheel_archive::{ArchiveError, ArchiveErrorKind, ColdStore, Folder, Temper, keep};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{CredentialsConfig, StoreConfig};

/// The section `[archive]`.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArchiveConfig {
    /// Where days of `events` and trimmed records go: `file:///folder` or `s3://bucket/prefix`; nowhere when empty. It
    /// belongs to one set of tables alone, and nothing in it is ever overwritten or removed.
    pub url: String,
    /// Whole days that a day lies back before the loop archives it by itself.
    #[schemars(range(min = 1, max = 36500))]
    pub after_days: u32,
    /// Records of the log are archived too, before they are trimmed; without the archive nothing is trimmed then.
    pub stream: bool,
    /// Plain bytes of one object of the stream's archive, about.
    #[schemars(range(min = 65536, max = 134217728))]
    pub segment_bytes: usize,
    /// Storage class that data is put into, such as `GLACIER_IR` or `STANDARD_IA`; the bucket's own when empty. Small things
    /// that say what there is are always in the bucket's own.
    pub storage_class: String,
    /// A lifecycle rule of the bucket moves data on after so many days; none when 0.
    #[schemars(range(max = 36500))]
    pub transition_days: u32,
    /// Storage class that the lifecycle rule moves data to, such as `DEEP_ARCHIVE`.
    pub transition_class: String,
    /// How soon what is frozen is thawed, and for how much: `Standard`, `Bulk` or `Expedited`.
    #[schemars(regex(pattern = "^(Standard|Bulk|Expedited)$"))]
    pub thaw_tier: String,
    /// Days that what was thawed stays readable.
    #[schemars(range(min = 1, max = 365))]
    pub thaw_days: u32,
    /// Address of the S3 service of the archive, such as `http://127.0.0.1:8333`; AWS's own when empty.
    pub endpoint: String,
    /// Region of the archive's bucket; `AWS_REGION` of the environment, else `us-east-1`, when empty.
    pub region: String,
    /// The bucket stands in the path of a request, not in the host's name: what most servers but AWS want.
    pub path_style: bool,
    /// Take an endpoint without TLS.
    pub allow_http: bool,
    /// Where the keys of the archive are.
    pub credentials: CredentialsConfig,
}

impl Default for ArchiveConfig {
    fn default() -> Self {
        let StoreConfig { endpoint, region, path_style, allow_http, credentials, .. } = StoreConfig::default();
        Self {
            url: String::new(),
            after_days: 7,
            stream: true,
            segment_bytes: 32 << 20,
            storage_class: String::new(),
            transition_days: 0,
            transition_class: String::new(),
            thaw_tier: "Standard".to_owned(),
            thaw_days: 7,
            endpoint,
            region,
            path_style,
            allow_http,
            credentials,
        }
    }
}

impl ArchiveConfig {
    /// Whether anything is archived at all.
    pub fn is_on(&self) -> bool {
        !self.url.is_empty()
    }

    /// Every setting that does not fit, each named.
    pub fn problems(&self) -> Vec<String> {
        if !self.is_on() {
            return Vec::new();
        }
        let mut problems = Vec::new();
        let mut range = |name: &str, value: usize, low: usize, high: usize| {
            if !(low..=high).contains(&value) {
                problems.push(format!("`archive.{name}` is {value}; it must lie in {low}..={high}"));
            }
        };
        range("after_days", self.after_days as usize, 1, 36_500);
        range("transition_days", self.transition_days as usize, 0, 36_500);
        range("thaw_days", self.thaw_days as usize, 1, 365);
        range("segment_bytes", self.segment_bytes, 64 << 10, 128 << 20);
        if !["Standard", "Bulk", "Expedited"].contains(&self.thaw_tier.as_str()) {
            problems.push(format!(
                "`archive.thaw_tier` is `{}`; it must be `Standard`, `Bulk` or `Expedited`",
                self.thaw_tier
            ));
        }
        if let Some(folder) = self.url.strip_prefix("file:") {
            problems.extend(folder_of(folder).err().map(|error| error.to_string()));
            for (name, set) in [
                ("storage_class", !self.storage_class.is_empty()),
                ("transition_days", self.transition_days > 0),
                ("endpoint", !self.endpoint.is_empty()),
            ] {
                if set {
                    problems.push(format!("`archive.{name}` means nothing to a folder; `archive.url` is one"));
                }
            }
            return problems;
        }
        problems.extend(self.as_store().problems().iter().map(|problem| of_archive(problem)));
        if self.transition_days > 0 && self.transition_class.is_empty() {
            problems
                .push("`archive.transition_days` is set and `archive.transition_class` is not; set both".to_owned());
        }
        problems.extend(self.class_problems());
        problems
    }

    #[cfg(feature = "archive-s3")]
    fn class_problems(&self) -> Vec<String> {
        [("storage_class", &self.storage_class, false), ("transition_class", &self.transition_class, true)]
            .into_iter()
            .filter(|(_, class, _)| !class.is_empty())
            .filter_map(|(name, class, of_transition)| {
                let error = flywheel_archive_s3::class(class, of_transition).err()?;
                Some(format!("`archive.{name}` is `{}`; known are {}", error.name, error.known.join(", ")))
            })
            .collect()
    }

    #[cfg(not(feature = "archive-s3"))]
    fn class_problems(&self) -> Vec<String> {
        Vec::new()
    }

    /// The archive, `None` where nothing is archived. Nothing is asked of it yet.
    ///
    /// # Errors
    /// If a setting does not fit or there are no credentials; the message names the setting, never a secret.
    pub fn cold_store(&self) -> anyhow::Result<Option<Arc<dyn ColdStore>>> {
        if !self.is_on() {
            return Ok(None);
        }
        if let Some(problem) = self.problems().first() {
            bail!("{problem}");
        }
        match self.url.strip_prefix("file:") {
            Some(folder) => Ok(Some(Arc::new(Folder::new(folder_of(folder)?)))),
            None => self.in_bucket().map(Some),
        }
    }

    /// The same place as one of `[store]` would be.
    fn as_store(&self) -> StoreConfig {
        StoreConfig {
            url: self.url.clone(),
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            path_style: self.path_style,
            allow_http: self.allow_http,
            credentials: self.credentials.clone(),
        }
    }

    #[cfg(not(feature = "archive-s3"))]
    fn in_bucket(&self) -> anyhow::Result<Arc<dyn ColdStore>> {
        bail!("this program was built without archives in buckets; build it with `--features archive-s3`")
    }

    #[cfg(feature = "archive-s3")]
    fn in_bucket(&self) -> anyhow::Result<Arc<dyn ColdStore>> {
        use flywheel_archive_s3::{S3Archive, S3Settings};

        let s3 = self.as_store().s3().map_err(|error| anyhow::Error::msg(of_archive(&format!("{error:#}"))))?;
        let named = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let transition = (self.transition_days > 0).then(|| (self.transition_days, self.transition_class.clone()));
        Ok(Arc::new(S3Archive::new(S3Settings {
            bucket: s3.bucket,
            prefix: s3.prefix.to_string(),
            endpoint: named(self.endpoint.trim_end_matches('/')),
            region: s3.region,
            path_style: self.path_style,
            class: named(&self.storage_class),
            transition,
            tier: self.thaw_tier.clone(),
            keys: Arc::new(keys::Of(s3.client)),
            keys_from: of_archive(s3.credentials.source()),
        })))
    }
}

/// The keys that the client of the tables would use: it knows environments, files, roles and containers.
#[cfg(feature = "archive-s3")]
mod keys {
    use flywheel_archive_s3::{KeySource, Keys};
    use object_store::aws::AmazonS3;

    #[derive(Debug)]
    pub struct Of(pub AmazonS3);

    #[async_trait::async_trait]
    impl KeySource for Of {
        async fn keys(&self) -> Result<Keys, Box<dyn std::error::Error + Send + Sync>> {
            let found = self.0.credentials().get_credential().await?;
            Ok(Keys { id: found.key_id.clone(), secret: found.secret_key.clone(), token: found.token.clone() })
        }
    }
}

/// A message about `[store]`, about `[archive]`.
fn of_archive(message: &str) -> String {
    message.replace("`store.", "`archive.").replace("use `file:` for the data folder or", "use `file:///folder` or")
}

fn folder_of(path: &str) -> anyhow::Result<PathBuf> {
    // `file:///folder` and `file:/folder` are the same; a host is none of ours.
    let path = path.strip_prefix("//").unwrap_or(path);
    if !path.starts_with('/') || path.trim_matches('/').is_empty() {
        bail!("`archive.url` is `file:{path}`; a folder looks like `file:///mnt/cold/flywheel`");
    }
    Ok(PathBuf::from(path))
}

pub(crate) const CLAIM: &str = "index/claim.json";
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Claim {
    format: u32,
    /// The tables that are archived there.
    owner: String,
}

/// Says that `owner` archives there, or sees that it does. Two of them would take each other's manifests and offsets for
/// their own.
pub(crate) async fn claim(store: &dyn ColdStore, owner: &str) -> Result<(), ArchiveError> {
    let refused = |why: String| ArchiveError::new(ArchiveErrorKind::Refused, "opening the archive", store.place(), why);
    let ours = serde_json::to_vec(&Claim { format: FORMAT, owner: owner.to_owned() })
        .map_err(|error| refused(format!("encoding the claim: {error}")))?;
    match keep(store, CLAIM, ours.into(), Temper::Warm).await {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == ArchiveErrorKind::Corrupt => {}
        Err(error) => return Err(ArchiveError::new(error.kind(), "opening the archive", store.place(), error)),
    }
    let found = store.get(CLAIM).await?;
    let claim: Claim = serde_json::from_slice(&found).map_err(|error| {
        refused(format!("`{CLAIM}` is none of ours ({error}); name another prefix with `archive.url`"))
    })?;
    if claim.format > FORMAT {
        return Err(refused(format!("it was written by a newer program (format {}); use that one", claim.format)));
    }
    if claim.owner == owner {
        return Ok(());
    }
    Err(refused(format!(
        "it is the archive of other tables ({}, not {owner}); name another prefix with `archive.url`",
        claim.owner
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str) -> ArchiveConfig {
        ArchiveConfig { url: url.into(), ..ArchiveConfig::default() }
    }

    #[test]
    fn a_folder_or_a_bucket_is_taken_and_the_default_is_nowhere() {
        assert!(ArchiveConfig::default().cold_store().unwrap().is_none());
        for url in ["file:///mnt/cold", "file:/mnt/cold", "s3://bucket/prefix"] {
            assert_eq!(at(url).problems(), Vec::<String>::new(), "{url}");
        }
        assert_eq!(at("file:///mnt/cold").cold_store().unwrap().unwrap().place(), "file:/mnt/cold");
    }

    #[test]
    fn each_setting_that_does_not_fit_is_named_as_one_of_the_archive() {
        let with = |change: fn(&mut ArchiveConfig)| {
            let mut config = at("s3://bucket/prefix");
            change(&mut config);
            config
        };
        for (config, telling) in [
            (at("nonsense"), "`archive.url` is not a URL; use `file:///folder` or"),
            (at("gs://bucket"), "`archive.url`"),
            (at("file:relative"), "`archive.url`"),
            (at("file:///"), "`archive.url`"),
            (at("s3://id:topsecret@bucket/x"), "`archive.credentials.file`"),
            (with(|c| c.endpoint = "http://h".into()), "`archive.allow_http = true`"),
            (with(|c| c.after_days = 0), "`archive.after_days` is 0"),
            (with(|c| c.thaw_tier = "soon".into()), "`archive.thaw_tier`"),
            (with(|c| c.storage_class = "COLD".into()), "GLACIER_IR"),
            (with(|c| c.transition_days = 30), "`archive.transition_class` is not"),
            (ArchiveConfig { storage_class: "GLACIER".into(), ..at("file:///x") }, "means nothing to a folder"),
        ] {
            let problems = config.problems();
            assert_eq!(problems.len(), 1, "{config:?}: {problems:?}");
            assert!(problems[0].contains(telling) && !problems[0].contains("topsecret"), "{problems:?}");
        }
    }

    #[tokio::test]
    async fn an_archive_belongs_to_one_set_of_tables() {
        let dir = tempfile::tempdir().unwrap();
        let store = Folder::new(dir.path());
        claim(&store, "one").await.unwrap();
        claim(&store, "one").await.unwrap();
        let error = claim(&store, "two").await.unwrap_err().to_string();
        assert!(error.contains("other tables (one, not two)") && error.contains("`archive.url`"), "{error}");
    }
}
