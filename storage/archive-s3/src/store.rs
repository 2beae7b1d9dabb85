use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedCredentialsProvider,
        retry::RetryConfig, timeout::TimeoutConfig,
    },
    operation::head_object::HeadObjectOutput,
    primitives::ByteStream,
    types::{ChecksumAlgorithm, ChecksumMode, GlacierJobParameters, RestoreRequest, StorageClass, Tier},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use flywheel_archive::{ArchiveError, ArchiveErrorKind, ColdStore, Held, Pieces, Put, Readiness, Temper};
use futures::StreamExt;

use crate::{S3Settings, error::answer, keys::Provider};

/// Longest wait for a connection, for the next bytes of an answer, and for one whole attempt.
const CONNECT: Duration = Duration::from_secs(5);
const READ: Duration = Duration::from_secs(30);
const ATTEMPT: Duration = Duration::from_secs(300);
/// Attempts of one request before the caller is told.
const ATTEMPTS: u32 = 4;

/// An archive below a prefix of a bucket. Clones share their connections.
#[derive(Debug, Clone)]
pub struct S3Archive {
    pub(crate) client: Client,
    pub(crate) settings: Arc<S3Settings>,
}

impl S3Archive {
    /// Nothing is asked of the store yet.
    pub fn new(settings: S3Settings) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .read_timeout(READ)
            .operation_attempt_timeout(ATTEMPT)
            .build();
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(settings.region.clone()))
            .force_path_style(settings.path_style)
            .credentials_provider(SharedCredentialsProvider::new(Provider(Arc::clone(&settings.keys))))
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            // We bring the checksum ourselves, as a header: not every server takes it as a trailer.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if let Some(endpoint) = &settings.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Self { client: Client::from_conf(config.build()), settings: Arc::new(settings) }
    }

    async fn look(&self, operation: &'static str, name: &str) -> Result<Option<HeadObjectOutput>, ArchiveError> {
        let request = self.client.head_object().bucket(&self.settings.bucket).key(self.settings.key(name));
        match request.checksum_mode(ChecksumMode::Enabled).send().await {
            Ok(found) => Ok(Some(found)),
            Err(error) if answer(&error).1 == 404 => Ok(None),
            Err(error) => Err(self.settings.failed(operation, name, &error)),
        }
    }
}

/// Whether an object of this class, with this `x-amz-restore`, can be read now.
fn readiness(found: &HeadObjectOutput) -> Readiness {
    let frozen = matches!(found.storage_class, Some(StorageClass::Glacier | StorageClass::DeepArchive))
        || found.archive_status.is_some();
    match found.restore.as_deref() {
        _ if !frozen => Readiness::Ready,
        None => Readiness::Frozen,
        Some(restore) if restore.contains("ongoing-request=\"true\"") => Readiness::Thawing,
        Some(_) => Readiness::Ready,
    }
}

#[async_trait]
impl ColdStore for S3Archive {
    async fn put(&self, name: &str, bytes: Bytes, sha256: &str, temper: Temper) -> Result<Put, ArchiveError> {
        let sum = hex::decode(sha256).map_err(|e| ArchiveError::new(ArchiveErrorKind::Internal, "writing", name, e))?;
        let class = if temper == Temper::Cold { self.settings.storage_class() } else { None };
        let mut conflicts = 0;
        loop {
            let put = self
                .client
                .put_object()
                .bucket(&self.settings.bucket)
                .key(self.settings.key(name))
                .if_none_match("*")
                .checksum_algorithm(ChecksumAlgorithm::Sha256)
                .checksum_sha256(BASE64_STANDARD.encode(&sum))
                .set_storage_class(class.clone())
                .body(ByteStream::from(bytes.clone()))
                .send()
                .await;
            let Err(error) = put else { return Ok(Put::Done) };
            match answer(&error) {
                (_, 412) => return Ok(Put::There),
                // Another put of this name was under way: nobody says whether it came through.
                (_, 409) if conflicts < ATTEMPTS => {
                    conflicts += 1;
                    if self.look("writing", name).await?.is_some() {
                        return Ok(Put::There);
                    }
                    tokio::time::sleep(Duration::from_millis(50 << conflicts)).await;
                }
                _ => return Err(self.settings.failed("writing", name, &error)),
            }
        }
    }

    async fn head(&self, name: &str) -> Result<Option<Held>, ArchiveError> {
        let Some(found) = self.look("looking at", name).await? else { return Ok(None) };
        let sum = found.checksum_sha256.as_deref().and_then(|sum| BASE64_STANDARD.decode(sum).ok());
        Ok(Some(Held {
            bytes: found.content_length.and_then(|len| u64::try_from(len).ok()).unwrap_or_default(),
            // The sum of a multipart object is one over sums, and longer in its text; ours are never that.
            sha256: sum.filter(|sum| sum.len() == 32).map(hex::encode),
            readiness: readiness(&found),
            class: found.storage_class.map(|class| class.as_str().to_owned()),
        }))
    }

    async fn stream(&self, name: &str) -> Result<Pieces, ArchiveError> {
        let request = self.client.get_object().bucket(&self.settings.bucket).key(self.settings.key(name));
        let found = request.send().await.map_err(|error| self.settings.failed("reading", name, &error))?;
        let pieces = futures::stream::unfold((found.body, name.to_owned()), |(mut body, name)| async move {
            let piece = body.next().await?;
            let piece = piece.map_err(|e| ArchiveError::new(ArchiveErrorKind::Unavailable, "reading", &name, e));
            Some((piece, (body, name)))
        });
        Ok(pieces.boxed())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, ArchiveError> {
        let request = self.client.list_objects_v2().bucket(&self.settings.bucket).prefix(self.settings.key(prefix));
        let mut pages = request.into_paginator().send();
        let mut names = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.settings.failed("listing", prefix, &error))?;
            let keys = page.contents.unwrap_or_default().into_iter().filter_map(|object| object.key);
            names.extend(keys.filter_map(|key| self.settings.name(&key)));
        }
        names.sort_unstable();
        Ok(names)
    }

    async fn thaw(&self, name: &str, days: u32) -> Result<Readiness, ArchiveError> {
        let Some(found) = self.look("thawing", name).await? else {
            return Err(ArchiveError::new(ArchiveErrorKind::NotFound, "thawing", name, "there is no such object"));
        };
        let state = readiness(&found);
        if state != Readiness::Frozen {
            return Ok(state);
        }
        let tier = GlacierJobParameters::builder().tier(Tier::from(self.settings.tier.as_str())).build();
        let tier = tier.map_err(|e| ArchiveError::new(ArchiveErrorKind::Internal, "thawing", name, e))?;
        let days = i32::try_from(days).unwrap_or(i32::MAX);
        let request = RestoreRequest::builder().days(days).glacier_job_parameters(tier).build();
        let asked = self
            .client
            .restore_object()
            .bucket(&self.settings.bucket)
            .key(self.settings.key(name))
            .restore_request(request)
            .send()
            .await;
        match asked {
            Ok(_) => match self.look("thawing", name).await?.map_or(Readiness::Thawing, |found| readiness(&found)) {
                // It was asked for this moment; the store has not noted it yet.
                Readiness::Frozen => Ok(Readiness::Thawing),
                state => Ok(state),
            },
            Err(error) => match answer(&error).0 {
                "RestoreAlreadyInProgress" => Ok(Readiness::Thawing),
                "ObjectAlreadyInActiveTierError" => Ok(Readiness::Ready),
                _ => Err(self.settings.failed("thawing", name, &error)),
            },
        }
    }

    async fn prepare(&self) -> Result<Vec<String>, ArchiveError> {
        let request = self.client.list_objects_v2().bucket(&self.settings.bucket).max_keys(1);
        let reached = request.prefix(self.settings.key("")).send().await;
        reached.map_err(|error| self.settings.failed("opening", "", &error))?;
        self.see_to_lifecycle().await
    }

    fn place(&self) -> String {
        self.settings.place()
    }
}
