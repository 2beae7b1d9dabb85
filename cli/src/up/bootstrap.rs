//! The first version: random weights, so that live play, judge and trainer have something to start from.

use anyhow::Context;
use flywheel_events::{BaseKey, ModelRef, ModelVersion};
use flywheel_policy::{Network, NetworkSpec, VersionedNetwork};
use flywheel_registry::{NewVersion, Registry};
use serde_json::json;

/// Spread of the first weights (tank spec, 10.2).
const STD_DEV: f32 = 0.01;

/// The champion of `base`, published and promoted now if there is none yet.
///
/// # Errors
/// If the registry cannot be read or written, or holds a champion that does not load.
pub async fn champion(
    registry: &Registry,
    base: &BaseKey,
    spec: &NetworkSpec,
    seed: u64,
) -> anyhow::Result<VersionedNetwork> {
    if let Some(alias) = registry.resolve(base, "champion").await? {
        let model = ModelRef::new(base.clone(), alias.version);
        let (_, network) = registry.fetch(&model).await.with_context(|| {
            format!("loading the champion {model}; `flywheel model rollback` goes back to its predecessor")
        })?;
        return Ok(VersionedNetwork::new(model, network));
    }
    let version = match registry.list(base).await?.first() {
        // Killed between publishing and promoting.
        Some(card) => card.version,
        None => publish_first(registry, base, spec, seed).await?,
    };
    registry.promote(base, "champion", version, None, "the first version: random weights").await?;
    let model = ModelRef::new(base.clone(), version);
    let (_, network) = registry.fetch(&model).await?;
    Ok(VersionedNetwork::new(model, network))
}

async fn publish_first(
    registry: &Registry,
    base: &BaseKey,
    spec: &NetworkSpec,
    seed: u64,
) -> anyhow::Result<ModelVersion> {
    let network = Network::random(spec, seed, STD_DEV)?;
    let card = registry
        .publish(NewVersion {
            base_key: base.clone(),
            weights: network.to_safetensors(),
            parent: None,
            train_job_id: "bootstrap".to_owned(),
            data_range: None,
            metrics: json!({}),
            metadata: json!({"seed": seed, "std_dev": STD_DEV, "code": env!("CARGO_PKG_VERSION")}),
        })
        .await?;
    Ok(card.version)
}
