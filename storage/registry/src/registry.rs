//! Publish, fetch, resolve, promote.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use flywheel_events::{BaseKey, ModelRef, ModelVersion};
use flywheel_log::EventLog;
use flywheel_policy::Network;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, path::Path};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use tracing::info;

use crate::{
    AliasState, Card, NewVersion, RegistryError, RegistryErrorKind,
    objects::{Objects, numbered},
    watch::Watches,
};

/// Times that a racing publisher tries the next number.
const ATTEMPTS: usize = 64;
/// Cards that are read at once.
const READS: usize = 16;
const CHAMPION: &str = "champion";
const PREVIOUS: &str = "previous";
const CANDIDATE: &str = "candidate";

/// All versions of all models.
#[derive(Debug)]
pub struct Registry {
    objects: Objects,
    pub(crate) hints: Option<Arc<dyn EventLog>>,
    pub(crate) watches: Arc<Watches>,
    /// The newest state seen of each alias. Moves are numbered without gaps and never removed, so that what came
    /// after it is found by asking for the next number instead of listing them all.
    seen: Mutex<HashMap<(BaseKey, String), AliasState>>,
}

/// What makes two writers' bytes differ even if all else is equal.
#[derive(Serialize)]
struct Written<'a, T> {
    #[serde(flatten)]
    value: &'a T,
    nonce: String,
}

pub(crate) fn written<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(&Written { value, nonce: uuid::Uuid::new_v4().simple().to_string() })
        .expect("cards and aliases serialise")
        .into()
}

/// Which moves of an alias are wanted.
#[derive(Clone, Copy)]
enum Move {
    /// From this revision; from any if `None`.
    From(Option<u64>),
    /// Only to a newer version than it names.
    Forward,
}

pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

impl Registry {
    /// Weights without a card are left alone for so long: no publish, from writing them to the card, takes longer.
    pub const GC_AGE: Duration = Duration::from_secs(3600);

    /// Opens the registry below `prefix`; `hints` is a log that tells other processes of moves.
    pub fn open(store: Arc<dyn ObjectStore>, prefix: &str, hints: Option<Arc<dyn EventLog>>) -> Self {
        Self { objects: Objects::new(store, prefix), hints, watches: Arc::default(), seen: Mutex::default() }
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
        // Forward: of two that publish at once, the slower must not move it back to its older version.
        self.move_alias(&card.base_key, CANDIDATE, card.version, Move::Forward, "published").await?;
        Ok(card)
    }

    /// Publishes a version without making it the candidate.
    ///
    /// # Errors
    /// Like [`Registry::publish`].
    pub async fn register(&self, new: NewVersion) -> Result<Card, RegistryError> {
        const OPERATION: &str = "publishing";
        let weights = Bytes::from(new.weights);
        let checked = weights.clone();
        let (network, sha256) = blocking(move || Ok((Network::from_safetensors(&checked)?, sha256(&checked))))
            .await
            .map_err(|error| RegistryError::new(RegistryErrorKind::Corrupt, OPERATION, &new.base_key, error))?;
        let size_bytes = weights.len() as u64;
        // Named by their contents, so writing them again is harmless; it heals a damaged copy, and keeps one that a
        // killed publisher left from being collected just now.
        let blob = self.blob(&sha256);
        self.objects.put(OPERATION, &blob, weights.clone()).await?;
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
            if self.objects.create(OPERATION, &folder.clone().join(numbered(version)), written(&card)).await? {
                // A collector that had found an old left-over of just these weights may have removed them since. It
                // looks for a card after it has removed, we look for the weights after the card is written: one of
                // the two sees the other and puts them back.
                // (If the store does not answer, the version is published all the same.)
                if matches!(self.objects.is_there(OPERATION, &blob).await, Ok(false)) {
                    self.objects.put(OPERATION, &blob, weights).await?;
                }
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
        let hashed = bytes.clone();
        let found = blocking(move || Ok(sha256(&hashed))).await;
        let found = found.map_err(|error| RegistryError::new(RegistryErrorKind::Corrupt, operation, &path, error))?;
        if found == expected {
            return Ok(bytes);
        }
        let why = format!("its sha256 is {found}; the file is damaged. Publish the version again, or roll back");
        Err(RegistryError::new(RegistryErrorKind::Corrupt, operation, &path, why))
    }

    /// Card and weights of a version, checked: hash, shape, finite numbers.
    ///
    /// # Errors
    /// `NotFound`, or `Corrupt` with what is wrong.
    pub async fn fetch(&self, model: &ModelRef) -> Result<(Card, Network), RegistryError> {
        const OPERATION: &str = "fetching";
        let card = self.card(model).await?;
        let bytes = self.read_blob(OPERATION, &card.sha256).await?;
        let network = blocking(move || Network::from_safetensors(&bytes))
            .await
            .map_err(|error| RegistryError::new(RegistryErrorKind::Corrupt, OPERATION, model, error))?;
        if *network.spec() != card.network {
            let why = format!("the weights have shape {}, the card says {}", network.spec(), card.network);
            return Err(RegistryError::new(RegistryErrorKind::Corrupt, OPERATION, model, why));
        }
        Ok((card, network))
    }

    /// Card and weight file of a version, its hash checked, to be handed on as it is.
    ///
    /// # Errors
    /// `NotFound`, or `Corrupt` with what is wrong.
    pub async fn weights(&self, model: &ModelRef) -> Result<(Card, Bytes), RegistryError> {
        let card = self.card(model).await?;
        let bytes = self.read_blob("reading the weights of", &card.sha256).await?;
        Ok((card, bytes))
    }

    /// # Errors
    /// `NotFound` if there is no such version.
    pub async fn card(&self, model: &ModelRef) -> Result<Card, RegistryError> {
        const OPERATION: &str = "reading the card of";
        let path = self.versions(&model.base_key).join(numbered(model.version.0));
        let card: Option<Card> = self.object(OPERATION, &path).await?;
        let card = card.ok_or_else(|| {
            RegistryError::new(RegistryErrorKind::NotFound, OPERATION, model, "there is no such version")
        })?;
        if card.base_key == model.base_key && card.version == model.version {
            return Ok(card);
        }
        let why = format!("it is the card of {}@{}", card.base_key, card.version);
        Err(RegistryError::new(RegistryErrorKind::Corrupt, OPERATION, model, why))
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
        let numbers = self.objects.numbers("listing", &self.versions(base)).await?;
        let card = |version| async move { self.card(&ModelRef::new(base.clone(), ModelVersion(version))).await };
        futures::stream::iter(numbers.into_iter().rev().take(n)).map(card).buffered(READS).try_collect().await
    }

    /// # Errors
    /// If the store cannot be listed.
    pub async fn base_keys(&self) -> Result<Vec<BaseKey>, RegistryError> {
        let folders = self.objects.folders("listing", &self.objects.path(&["models"])).await?;
        Ok(folders.iter().filter_map(|name| BaseKey::new(name).ok()).collect())
    }

    /// What an alias names now. `previous` is what `champion` named before.
    ///
    /// # Errors
    /// If the store cannot be read, or the name is not that of an alias.
    pub async fn resolve(&self, base: &BaseKey, alias: &str) -> Result<Option<AliasState>, RegistryError> {
        if alias == PREVIOUS {
            let champion = self.newest(base, CHAMPION).await?;
            return Ok(champion.and_then(|state| {
                let version = state.previous?;
                Some(AliasState { alias: PREVIOUS.to_owned(), version, previous: None, ..state })
            }));
        }
        self.newest(base, alias).await
    }

    /// The moves of an alias after revision `after`, oldest first; 0 for all there ever were.
    ///
    /// # Errors
    /// If one of them cannot be read, or the name is not that of an alias that moves by itself.
    pub async fn moves(&self, base: &BaseKey, alias: &str, after: u64) -> Result<Vec<AliasState>, RegistryError> {
        const OPERATION: &str = "reading the moves of";
        check_alias(OPERATION, alias)?;
        let folder = self.alias(base, alias);
        let numbers = self.objects.numbers(OPERATION, &folder).await?;
        let read = |number| {
            let path = folder.clone().join(numbered(number));
            async move { self.object(OPERATION, &path).await }
        };
        let moves = futures::stream::iter(numbers.into_iter().filter(|number| *number > after));
        moves.map(read).buffered(READS).try_filter_map(|state| async { Ok(state) }).try_collect().await
    }

    async fn newest(&self, base: &BaseKey, alias: &str) -> Result<Option<AliasState>, RegistryError> {
        const OPERATION: &str = "resolving";
        check_alias(OPERATION, alias)?;
        let (folder, key) = (self.alias(base, alias), (base.clone(), alias.to_owned()));
        let known = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let mut newest: Option<AliasState> = match known {
            Some(known) => Some(known),
            None => match self.objects.numbers(OPERATION, &folder).await?.pop() {
                Some(number) => self.object(OPERATION, &folder.clone().join(numbered(number))).await?,
                None => return Ok(None),
            },
        };
        while let Some(state) = &newest {
            let next = folder.clone().join(numbered(state.revision + 1));
            match self.object(OPERATION, &next).await? {
                Some(later) => newest = Some(later),
                None => break,
            }
        }
        if let Some(state) = &newest {
            self.saw(key, state);
        }
        Ok(newest)
    }

    fn saw(&self, key: (BaseKey, String), state: &AliasState) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.entry(key).or_insert_with(|| state.clone());
        if state.revision > known.revision {
            known.clone_from(state);
        }
    }

    /// Moves an alias; what `champion` named before is then `previous`, by the same write. Moving it to where it
    /// is writes nothing.
    ///
    /// `expected` is the revision that the caller has seen (0: there is none yet), `None` if it does not care.
    ///
    /// # Errors
    /// `Conflict` if the alias moved since, `NotFound` if there is no such version or alias. After `Unavailable`
    /// the alias may or may not have moved; resolve it.
    pub async fn promote(
        &self,
        base: &BaseKey,
        alias: &str,
        to: ModelVersion,
        expected: Option<u64>,
        reason: &str,
    ) -> Result<AliasState, RegistryError> {
        if alias == PREVIOUS {
            let why = "it follows `champion` and is not moved by itself";
            return Err(RegistryError::new(RegistryErrorKind::Conflict, "moving the alias", PREVIOUS, why));
        }
        check_alias("moving the alias", alias)?;
        self.card(&ModelRef::new(base.clone(), to)).await?;
        self.move_alias(base, alias, to, Move::From(expected), reason).await
    }

    async fn move_alias(
        &self,
        base: &BaseKey,
        alias: &str,
        to: ModelVersion,
        wanted: Move,
        reason: &str,
    ) -> Result<AliasState, RegistryError> {
        const OPERATION: &str = "moving the alias";
        let target = format!("{base}@{alias}");
        for _ in 0..ATTEMPTS {
            let known = self.newest(base, alias).await?;
            let revision = known.as_ref().map_or(0, |state| state.revision);
            #[cfg(flywheel_bug)]
            let wanted = if crate::seeded_bug("alias-without-compare") { Move::From(None) } else { wanted };
            if let Move::From(Some(expected)) = wanted
                && expected != revision
            {
                let why = format!("it is at revision {revision}, not at {expected}; look again");
                return Err(RegistryError::new(RegistryErrorKind::Conflict, OPERATION, target, why));
            }
            if let Some(known) = &known
                && (known.version == to || matches!(wanted, Move::Forward) && known.version > to)
            {
                return Ok(known.clone());
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
            if self.objects.create(OPERATION, &path, written(&state)).await? {
                self.saw((base.clone(), alias.to_owned()), &state);
                info!(%base, alias, version = to.0, revision = state.revision, reason, "moved the alias");
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
        let champion = self.newest(base, CHAMPION).await?.ok_or_else(|| missing("there is no champion"))?;
        let to = to.or(champion.previous).ok_or_else(|| missing("the champion has no predecessor"))?;
        // What cannot be loaded is no place to go back to.
        self.fetch(&ModelRef::new(base.clone(), to)).await?;
        self.promote(base, CHAMPION, to, Some(champion.revision), "rolled back").await
    }

    /// Removes weights that no card names and that were written longer than `age` ago: what killed publishers
    /// left. `age` must exceed what a publish takes; [`Registry::GC_AGE`] is plenty. Returns how many.
    ///
    /// # Errors
    /// If the store cannot be listed or written.
    pub async fn gc(&self, age: Duration) -> Result<usize, RegistryError> {
        const OPERATION: &str = "collecting";
        let old = |written_ms: i64| now_ms() - written_ms >= age.as_millis() as i64;
        // Blobs first: a card that comes later names a blob that was written again later, see `register`.
        let blobs = self.objects.files(OPERATION, &self.objects.path(&["blobs"])).await?;
        let named = self.named().await?;
        let mut removed = 0;
        for blob in blobs {
            let name = blob.location.filename().unwrap_or_default();
            if old(blob.last_modified.timestamp_millis())
                && !named.contains(name)
                && old(self.objects.written_ms(OPERATION, &blob.location).await?)
            {
                let weights = self.objects.get(OPERATION, &blob.location).await?;
                self.objects.delete(OPERATION, &blob.location).await?;
                // Published meanwhile by somebody with the very same weights, see `register`.
                match weights {
                    Some(weights) if self.named().await?.contains(name) => {
                        self.objects.put(OPERATION, &blob.location, weights).await?;
                    }
                    _ => removed += 1,
                }
            }
        }
        if removed > 0 {
            info!(removed, "removed weights that killed publishers left");
        }
        Ok(removed)
    }

    /// What the weights of all versions are called.
    async fn named(&self) -> Result<HashSet<String>, RegistryError> {
        let mut named = HashSet::new();
        for base in self.base_keys().await? {
            named.extend(self.list(&base).await?.into_iter().map(|card| card.sha256));
        }
        Ok(named)
    }
}

/// Arithmetic over whole files does not run on the threads that do I/O.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, flywheel_policy::PolicyError> + Send + 'static,
) -> Result<T, Box<dyn std::error::Error + Send + Sync>> {
    Ok(tokio::task::spawn_blocking(work).await??)
}

fn check_alias(operation: &'static str, alias: &str) -> Result<(), RegistryError> {
    let fits = (1..=64).contains(&alias.len()) && alias.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if fits {
        return Ok(());
    }
    let shown: String = alias.chars().take(64).collect();
    let why = "that is not the name of an alias: 1 to 64 letters, digits and `-`";
    Err(RegistryError::new(RegistryErrorKind::NotFound, operation, shown, why))
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
