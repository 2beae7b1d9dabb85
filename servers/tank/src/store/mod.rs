//! The RL model store (tank spec, section 6): a face of the model registry.
//!
//! Each `POST` registers a new version of the key's base key, with the key in its metadata; nothing is overwritten
//! and no alias is moved. A base key answers with its champion.

mod http;
mod index;
mod pools;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::Router;
use flywheel_events::{BaseKey, ModelRef, ModelVersion};
use flywheel_kit::{ServeConfig, serve};
use flywheel_registry::{Card, NewVersion, Registry, RegistryError};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{ModelPayload, PayloadError, TankServerError, base_of, metrics};
use index::{Entry, Index};
use pools::{Allocation, Pools};

/// The map key of models that name none.
const NO_MAP: &str = "default";

/// A model store over a registry.
#[derive(Debug)]
pub struct ModelStore {
    registry: Arc<Registry>,
    index: Mutex<Index>,
    pools: Mutex<Pools>,
}

/// A model store that listens.
#[derive(Debug)]
pub struct ServingModelStore {
    pub store: Arc<ModelStore>,
    pub address: SocketAddr,
    /// Ends after the token is cancelled.
    pub task: JoinHandle<()>,
}

/// Why a call got nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("Model not found")]
    NotFound,
    #[error("`{key}` is not a model key: {reason}")]
    BadKey { key: String, reason: String },
    #[error(transparent)]
    Payload(#[from] PayloadError),
    #[error("the registry does not answer: {0}")]
    Registry(RegistryError),
}

impl ModelStore {
    /// Reads the keys that the registry holds, and puts them into the pools of their maps.
    ///
    /// # Errors
    /// If the registry cannot be read.
    pub async fn open(registry: Arc<Registry>) -> Result<Arc<Self>, TankServerError> {
        let failed = |error: RegistryError| TankServerError::Registry(error.to_string());
        let mut index = Index::default();
        for base in registry.base_keys().await.map_err(failed)? {
            for card in registry.list(&base).await.map_err(failed)?.into_iter().rev() {
                if let Some((key, entry)) = entry_of(&card) {
                    index.put(key, entry);
                }
            }
        }
        let mut pools = Pools::default();
        for (key, entry) in index.oldest_first() {
            pools.add(&entry.map_key, key);
        }
        info!(n = index.len(), "model store opened");
        Ok(Arc::new(Self { registry, index: Mutex::new(index), pools: Mutex::new(pools) }))
    }

    /// The calls of the spec, to be served.
    pub fn router(self: &Arc<Self>) -> Router {
        http::router(self.clone())
    }

    /// Opens the store and listens.
    ///
    /// # Errors
    /// If the registry cannot be read or the address is taken.
    pub async fn start(
        listen: SocketAddr,
        registry: Arc<Registry>,
        stop: CancellationToken,
    ) -> Result<ServingModelStore, TankServerError> {
        metrics::describe();
        let store = Self::open(registry).await?;
        let refused = |source| TankServerError::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let app = store.router();
        let task = tokio::spawn(async move {
            if let Err(error) = serve(listener, app, ServeConfig::default(), stop).await {
                warn!(%error, "the model store's listener failed");
            }
        });
        Ok(ServingModelStore { store, address, task })
    }

    /// Every model key, or those of one map.
    pub(crate) fn keys(&self, map_key: Option<&str>) -> Vec<Value> {
        let index = self.index.lock();
        index
            .oldest_first()
            .into_iter()
            .filter(|(_, entry)| map_key.is_none_or(|wanted| wanted == entry.map_key))
            .map(|(key, e)| json!({"modelKey": key, "mapKey": e.map_key, "updatedAt": e.updated_at}))
            .collect()
    }

    /// The payload of a model key; for a base key that of its champion.
    pub(crate) async fn get(&self, key: &str) -> Result<ModelPayload, StoreError> {
        if let Ok(base) = BaseKey::new(key)
            && let Some(champion) = self.registry.resolve(&base, "champion").await.map_err(StoreError::Registry)?
        {
            return self.payload(&ModelRef::new(base, champion.version)).await;
        }
        let model = self.index.lock().get(key).map(|entry| entry.model.clone());
        self.payload(&model.ok_or(StoreError::NotFound)?).await
    }

    async fn payload(&self, model: &ModelRef) -> Result<ModelPayload, StoreError> {
        let (card, network) =
            self.registry.fetch(model).await.map_err(|error| {
                if error.is_not_found() { StoreError::NotFound } else { StoreError::Registry(error) }
            })?;
        let mut payload = ModelPayload::from_network(&network);
        payload.updated_at = Some(card.published_at_ms);
        payload.training_config = Some(card.metadata["trainingConfig"].clone()).filter(|c| !c.is_null());
        payload.user_defined_metadata = Some(card.metadata["userDefinedMetadata"].clone()).filter(|m| !m.is_null());
        Ok(payload)
    }

    /// Registers a payload as a new version. The network is checked before anything is written.
    pub(crate) async fn put(&self, key: &str, payload: Value) -> Result<Card, StoreError> {
        let bad_key = |error: flywheel_events::IdError| StoreError::BadKey {
            key: key.chars().take(64).collect(),
            reason: error.to_string(),
        };
        BaseKey::new(key).map_err(bad_key)?;
        let payload = ModelPayload::from_value(payload)?;
        let network = payload.to_network()?;
        let base_key = BaseKey::new(base_of(key)).map_err(bad_key)?;
        let parent = payload.metadata("parent").and_then(|text| text.parse::<ModelRef>().ok());
        let new = NewVersion {
            parent: parent.filter(|parent| parent.base_key == base_key).map(|parent| parent.version),
            base_key,
            weights: network.to_safetensors(),
            train_job_id: format!("online/{key}"),
            data_range: None,
            metrics: json!({}),
            metadata: json!({
                "modelKey": key,
                "mapKey": payload.metadata("mapKey"),
                "trainingConfig": payload.training_config,
                "userDefinedMetadata": payload.user_defined_metadata,
            }),
        };
        // Registered, not published: what a session learned online does not compete for `candidate`.
        let card = self.registry.register(new).await.map_err(StoreError::Registry)?;
        if let Some((key, entry)) = entry_of(&card) {
            let map_key = entry.map_key.clone();
            self.pools.lock().add(&map_key, &key);
            self.index.lock().put(key, entry);
        }
        Ok(card)
    }

    /// A free key of the map's pool, or a new one with a copy of the last one popped.
    pub(crate) async fn allocate(&self, map_key: &str, base_key: &str) -> Result<Value, StoreError> {
        // A key that could not be saved under is not handed out.
        BaseKey::new(format!("{base_key}-{map_key}-{}", u64::MAX)).map_err(|error| StoreError::BadKey {
            key: base_key.chars().take(64).collect(),
            reason: error.to_string(),
        })?;
        let allocation = self.pools.lock().allocate(map_key);
        let last = match allocation {
            Allocation::Free(key) => return Ok(json!({"modelKey": key, "isNew": false})),
            Allocation::CopyOf(last) => last,
        };
        let stamp = self.pools.lock().stamp(now_ms());
        let key = format!("{base_key}-{map_key}-{stamp}");
        self.pools.lock().hold(&key);
        let Some(last) = last else { return Ok(json!({"modelKey": key, "isNew": true})) };
        let mut copy = match self.get(&last).await {
            Ok(payload) => payload,
            // A key that was handed out but never saved has nothing to copy.
            Err(StoreError::NotFound) => return Ok(json!({"modelKey": key, "isNew": true})),
            Err(error) => return Err(error),
        };
        let metadata = copy.user_defined_metadata.get_or_insert_with(|| json!({}));
        metadata["mapKey"] = map_key.into();
        copy.updated_at = None;
        self.put(&key, serde_json::to_value(copy).expect("a payload serialises")).await?;
        Ok(json!({"modelKey": key, "isNew": true, "copiedFrom": last}))
    }

    /// Puts a key back at the end of the map's pool, once.
    pub(crate) fn release(&self, map_key: &str, key: &str) {
        self.pools.lock().release(map_key, key);
    }
}

/// The model key of a card, if it has one.
fn entry_of(card: &Card) -> Option<(String, Entry)> {
    let key = card.metadata["modelKey"].as_str()?.to_owned();
    let map_key = card.metadata["mapKey"].as_str().filter(|key| !key.is_empty()).unwrap_or(NO_MAP);
    let model = ModelRef::new(card.base_key.clone(), ModelVersion(card.version.0));
    Some((key, Entry { model, map_key: map_key.to_owned(), updated_at: card.published_at_ms }))
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as u64
}
