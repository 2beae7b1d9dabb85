//! What the tests make and look for.

use std::sync::Arc;

use flywheel_events::{BaseKey, ModelRef, ModelVersion};
use flywheel_policy::{Network, NetworkSpec};
use flywheel_registry::{Card, NewVersion, Registry};
use object_store::ObjectStore;
use serde_json::json;

pub fn base() -> BaseKey {
    BaseKey::new("tank-ai-dqn").unwrap()
}

pub fn model(version: u64) -> ModelRef {
    ModelRef::new(base(), ModelVersion(version))
}

pub fn network(seed: u64) -> Network {
    Network::he(&NetworkSpec::new(6, [5], 3), seed).unwrap()
}

pub fn new_version(seed: u64) -> NewVersion {
    NewVersion {
        base_key: base(),
        weights: network(seed).to_safetensors(),
        parent: None,
        train_job_id: format!("train-{seed}"),
        data_range: Some(json!({"first": "fw.tank.events/0:1", "last": "fw.tank.events/0:9"})),
        metrics: json!({"loss": 0.5}),
        metadata: json!({"seed": seed}),
    }
}

pub fn open(store: &Arc<dyn ObjectStore>) -> Arc<Registry> {
    Arc::new(Registry::open(Arc::clone(store), "registry", None))
}

/// Everything that a reader can reach is whole.
pub async fn assert_whole(registry: &Registry) -> Vec<Card> {
    let cards = registry.list(&base()).await.unwrap();
    for card in &cards {
        let (fetched, network) = registry.fetch(&ModelRef::new(base(), card.version)).await.unwrap();
        assert_eq!((&fetched, network.spec()), (card, &card.network));
    }
    for alias in ["champion", "candidate", "previous"] {
        if let Some(state) = registry.resolve(&base(), alias).await.unwrap() {
            registry.fetch(&ModelRef::new(base(), state.version)).await.unwrap();
        }
    }
    cards
}
