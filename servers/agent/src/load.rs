//! Start-up: the models that the store keeps go into the pool (tank spec, 10.2).

use std::time::Duration;

use flywheel_tank_server::{ModelPayload, base_of};
use serde_json::Value;
use tracing::{info, warn};

use crate::{
    AgentConfig, AgentError,
    gbe::{encode, get},
    model::{Model, fits},
    pool::Pool,
    stats::Counters,
};

/// Models loaded at most; the newest are taken.
const MAX_MODELS: usize = 1024;

/// Loads every model of the store into the pool. One that cannot be used is replaced by a fresh one.
///
/// # Errors
/// If the list of keys cannot be had. A single model that cannot be had is left out.
pub(crate) async fn load(
    client: &reqwest::Client,
    store_url: &str,
    config: &AgentConfig,
    pool: &Pool,
    stats: &Counters,
    seed: u64,
) -> Result<(), AgentError> {
    let store_url = store_url.trim_end_matches('/');
    let timeout = Duration::from_secs(5);
    let list = get(client, &format!("{store_url}/api/rl-model-keys"), "listing models", timeout).await?;
    let mut keys: Vec<(i64, String)> = list["models"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| Some((updated_at(&entry["updatedAt"]), entry["modelKey"].as_str()?.to_owned())))
        .collect();
    keys.sort();
    let mut models = Vec::new();
    for (_, key) in keys.iter().skip(keys.len().saturating_sub(MAX_MODELS)) {
        let url = format!("{store_url}/api/rl-model/{}", encode(key));
        match get(client, &url, "loading a model", timeout).await {
            Ok(value) => models.push(read(key, value, config, stats, seed)),
            Err(error) => warn!(key, %error, "a model was left out"),
        }
    }
    info!(n = models.len(), "models loaded");
    stats.add(&stats.models_loaded, models.len() as u64);
    pool.fill(models);
    Ok(())
}

/// `updatedAt` as a number, or as text that sorts like one.
fn updated_at(value: &Value) -> i64 {
    value.as_i64().or_else(|| value.as_f64().map(|v| v as i64)).unwrap_or_default()
}

fn read(key: &str, value: Value, config: &AgentConfig, stats: &Counters, seed: u64) -> Model {
    let metadata = value["userDefinedMetadata"].clone();
    let base = metadata["baseKey"].as_str().map_or_else(|| base_of(key).to_owned(), str::to_owned);
    let network = ModelPayload::from_value(value).map_err(|e| e.to_string()).and_then(|payload| {
        let network = payload.to_network().map_err(|e| e.to_string())?;
        if fits(network.spec()) {
            return Ok(network);
        }
        Err(format!("its shape is {}; this game needs 108 inputs and 10 actions", network.spec()))
    });
    match network {
        Ok(network) => {
            let epsilon = metadata["epsilon"].as_f64().map(|e| e as f32).filter(|e| (0.0..=1.0).contains(e));
            let epsilon = epsilon.unwrap_or(config.epsilon_start).max(config.epsilon_min);
            let mut model = Model::new(key.to_owned(), base, network, epsilon, config.online_learning);
            model.steps = metadata["steps"].as_u64().unwrap_or(0);
            model.episodes = metadata["episodes"].as_u64().unwrap_or(0);
            model
        }
        Err(reason) => {
            warn!(key, reason, "a model was replaced by a fresh one");
            stats.add(&stats.models_refused, 1);
            let (hidden, epsilon) = (config.hidden, config.epsilon_start);
            let mut model = Model::fresh(key.to_owned(), base, hidden, seed, epsilon, config.online_learning);
            model.stands_in = Some(reason);
            model
        }
    }
}
