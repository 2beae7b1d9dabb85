//! Publish, fetch, resolve, promote.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flywheel_events::{BaseKey, ModelRef, ModelVersion};
use flywheel_log::EventLog;
use flywheel_policy::Network;
use object_store::{ObjectStore, path::Path};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tracing::info;

use crate::{
    AliasState, Card, NewVersion, RegistryError, RegistryErrorKind,
    objects::{Objects, numbered},
    watch::Watches,
};

/// Times that a racing publisher tries the next number.
const ATTEMPTS: usize = 64;

/// All versions of all models.
#[derive(Debug)]
pub struct Registry {
    objects: Objects,
    pub(crate) hints: Option<Arc<dyn EventLog>>,
    pub(crate) watches: Arc<Watches>,
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

impl Registry {
    /// Opens the registry below `prefix`; `hints` is a log that tells other processes of moves.
    pub fn open(store: Arc<dyn ObjectStore>, prefix: &str, hints: Option<Arc<dyn EventLog>>) -> Self {
        Self { objects: Objects::new(store, prefix), hints, watches: Arc::default() }
    }

    fn versions(&self, base: &BaseKey) -> Path {
        self.objects.path(&["models", base.as_str(), "versions"])
    }

    fn alias(&self, base: &BaseKey, alias: &str) -> Path {
        self.objects.path(&["models", base.as_str(), "aliases", alias])
    }

    /// Publishes a version: blob, read back and checked, then card, then the alias `candidate`.
    ///
    /// # Errors
    /// `Corrupt` if the weights are not a sound network or do not read back as written. Killed or failed anywhere,
    /// it leaves no version or a whole one.
    pub async fn publish(&self, new: NewVersion) -> Result<Card, RegistryError> {
        let card = self.register(new).await?;
        self.move_alias(&card.base_key, "candidate", card.version, None, "published").await?;
        Ok(card)
    }

    /// Publishes a version without making it the candidate.
    ///
    /// # Errors
    /// Like [`Registry::publish`].
    pub async fn register(&self, new: NewVersion) -> Result<Card, RegistryError> {
        const OPERATION: &str = "publishing";
        let network = Network::from_safetensors(&new.weights)
            .map_err(|error| RegistryError::new(RegistryErrorKind::Corrupt, OPERATION, &new.base_key, error))?;
        let (sha256, size_bytes) = (sha256(&new.weights), new.weights.len() as u64);
        let blob = self.blob(&sha256);
        self.objects.create(OPERATION, &blob, new.weights.into()).await?;
        // Whoever sees the card can read the blob: it is read back before there is a card.
        self.read_blob(OPERATION, &sha256).await?;
        let mut card = Card {
            base_key: new.base_key,
            version: ModelVersion(0),
            format: "safetensors".to_owned(),
            sha256,
            size_bytes,
            parent_version: new.parent,
            train_job_id: new.train_job_id,
            data_range: new.data_range,
            metrics: new.metrics,
            published_at_ms: now_ms(),
            status: "candidate".to_owned(),
            metadata: new.metadata,
            network: network.spec().clone(),
        };
        let folder = self.versions(&card.base_key);
        let newest = self.objects.numbers(OPERATION, &folder).await?.pop().unwrap_or(0);
        for version in newest + 1..=newest + ATTEMPTS as u64 {
            card.version = ModelVersion(version);
            let bytes = serde_json::to_vec_pretty(&card).expect("a card serialises");
            if self.objects.create(OPERATION, &folder.clone().join(numbered(version)), bytes.into()).await? {
                info!(base_key = %card.base_key, version, sha256 = %card.sha256, "published");
                return Ok(card);
            }
        }
        Err(RegistryError::new(
            RegistryErrorKind::Conflict,
            OPERATION,
            &card.base_key,
            "too many publish at once; try again",
        ))
    }

    fn blob(&self, sha256: &str) -> Path {
        self.objects.path(&["blobs", sha256])
    }

    async fn read_blob(&self, operation: &'static str, expected: &str) -> Result<bytes::Bytes, RegistryError> {
        let path = self.blob(expected);
        let bytes = self.objects.get(operation, &path).await?;
        let bytes = bytes.ok_or_else(|| {
            RegistryError::new(RegistryErrorKind::Corrupt, operation, &path, "the weights are missing")
        })?;
        let found = sha256(&bytes);
        if found == expected {
            return Ok(bytes);
        }
        Err(RegistryError::new(
            RegistryErrorKind::Corrupt,
            operation,
            &path,
            format!("its sha256 is {found}; the file is damaged"),
        ))
    }

    /// Card and weights of a version, checked: hash, shape, finite numbers.
    ///
    /// # Errors
    /// `NotFound`, or `Corrupt` with what is wrong.
    pub async fn fetch(&self, model: &ModelRef) -> Result<(Card, Network), RegistryError> {
        const OPERATION: &str = "fetching";
        let card = self.card(model).await?;
        let bytes = self.read_blob(OPERATION, &card.sha256).await?;
        let network = Network::from_safetensors(&bytes)
            .map_err(|error| RegistryError::new(RegistryErrorKind::Corrupt, OPERATION, model, error))?;
        if *network.spec() != card.network {
            let why = format!("the weights have shape {}, the card says {}", network.spec(), card.network);
            return Err(RegistryError::new(RegistryErrorKind::Corrupt, OPERATION, model, why));
        }
        Ok((card, network))
    }

    /// # Errors
    /// `NotFound` if there is no such version.
    pub async fn card(&self, model: &ModelRef) -> Result<Card, RegistryError> {
        let path = self.versions(&model.base_key).join(numbered(model.version.0));
        let card = self.object("reading the card", &path).await?;
        card.ok_or_else(|| {
            RegistryError::new(RegistryErrorKind::NotFound, "reading the card of", model, "there is no such version")
        })
    }

    async fn object<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        path: &Path,
    ) -> Result<Option<T>, RegistryError> {
        let Some(bytes) = self.objects.get(operation, path).await? else { return Ok(None) };
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Some).map_err(|error| RegistryError::new(RegistryErrorKind::Corrupt, operation, path, error))
    }

    /// Cards of all versions, newest first.
    ///
    /// # Errors
    /// If one of them cannot be read.
    pub async fn list(&self, base: &BaseKey) -> Result<Vec<Card>, RegistryError> {
        self.list_newest(base, usize::MAX).await
    }

    /// Cards of the newest `n` versions, newest first.
    ///
    /// # Errors
    /// If one of them cannot be read.
    pub async fn list_newest(&self, base: &BaseKey, n: usize) -> Result<Vec<Card>, RegistryError> {
        let mut cards = Vec::new();
        for version in self.objects.numbers("listing", &self.versions(base)).await?.into_iter().rev().take(n) {
            cards.push(self.card(&ModelRef::new(base.clone(), ModelVersion(version))).await?);
        }
        Ok(cards)
    }

    /// # Errors
    /// If the store cannot be listed.
    pub async fn base_keys(&self) -> Result<Vec<BaseKey>, RegistryError> {
        let folders = self.objects.folders("listing", &self.objects.path(&["models"])).await?;
        Ok(folders.iter().filter_map(|name| BaseKey::new(name).ok()).collect())
    }

    /// What an alias names now.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn resolve(&self, base: &BaseKey, alias: &str) -> Result<Option<AliasState>, RegistryError> {
        let folder = self.alias(base, alias);
        match self.objects.numbers("resolving", &folder).await?.pop() {
            Some(newest) => self.object("resolving", &folder.join(numbered(newest))).await,
            None => Ok(None),
        }
    }

    /// Moves an alias; moving `champion` also moves `previous` to what it was.
    ///
    /// `expected` is the revision that the caller has seen, `None` if it does not care.
    ///
    /// # Errors
    /// `Conflict` if the alias moved since, `NotFound` if there is no such version.
    pub async fn promote(
        &self,
        base: &BaseKey,
        alias: &str,
        to: ModelVersion,
        expected: Option<u64>,
        reason: &str,
    ) -> Result<AliasState, RegistryError> {
        self.card(&ModelRef::new(base.clone(), to)).await?;
        let state = self.move_alias(base, alias, to, expected, reason).await?;
        if alias == "champion"
            && let Some(before) = state.previous
        {
            self.move_alias(base, "previous", before, None, reason).await?;
        }
        Ok(state)
    }

    async fn move_alias(
        &self,
        base: &BaseKey,
        alias: &str,
        to: ModelVersion,
        expected: Option<u64>,
        reason: &str,
    ) -> Result<AliasState, RegistryError> {
        const OPERATION: &str = "moving the alias";
        let target = format!("{base}@{alias}");
        for _ in 0..ATTEMPTS {
            let known = self.resolve(base, alias).await?;
            let revision = known.as_ref().map_or(0, |state| state.revision);
            if expected.is_some_and(|expected| expected != revision) {
                let why = format!("it is at revision {revision}, not at {}; look again", expected.unwrap_or(0));
                return Err(RegistryError::new(RegistryErrorKind::Conflict, OPERATION, target, why));
            }
            let state = AliasState {
                alias: alias.to_owned(),
                version: to,
                previous: known.map(|state| state.version),
                revision: revision + 1,
                moved_at_ms: now_ms(),
                reason: reason.to_owned(),
            };
            let path = self.alias(base, alias).join(numbered(state.revision));
            let bytes = serde_json::to_vec(&state).expect("an alias serialises");
            if self.objects.create(OPERATION, &path, bytes.into()).await? {
                self.notify(base, &state).await;
                return Ok(state);
            }
            // Somebody was faster. With an expected revision that is a conflict, seen in the next round.
        }
        Err(RegistryError::new(RegistryErrorKind::Conflict, OPERATION, target, "too many move it at once; try again"))
    }

    /// Gives `champion` back to its predecessor, or to `to`.
    ///
    /// # Errors
    /// `NotFound` if there is no predecessor or no such version, `Conflict` if the champion moved meanwhile.
    pub async fn rollback(&self, base: &BaseKey, to: Option<ModelVersion>) -> Result<AliasState, RegistryError> {
        let missing = |why| RegistryError::new(RegistryErrorKind::NotFound, "rolling back", base, why);
        let champion = self.resolve(base, "champion").await?.ok_or_else(|| missing("there is no champion"))?;
        let to = to.or(champion.previous).ok_or_else(|| missing("the champion has no predecessor"))?;
        // What cannot be loaded is no place to go back to.
        self.fetch(&ModelRef::new(base.clone(), to)).await?;
        self.promote(base, "champion", to, Some(champion.revision), "rolled back").await
    }

    /// Removes weights that no card names and that are older than `age`: what killed publishers left. Returns how
    /// many.
    ///
    /// # Errors
    /// If the store cannot be listed or written.
    pub async fn gc(&self, age: Duration) -> Result<usize, RegistryError> {
        let mut named = std::collections::HashSet::new();
        for base in self.base_keys().await? {
            named.extend(self.list(&base).await?.into_iter().map(|card| card.sha256));
        }
        let mut removed = 0;
        for file in self.objects.files("collecting", &self.objects.path(&["blobs"])).await? {
            let name = file.location.filename().unwrap_or_default().to_owned();
            let old = now_ms() - file.last_modified.timestamp_millis() >= age.as_millis() as i64;
            if old && !named.contains(&name) {
                self.objects.delete("collecting", &file.location).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
