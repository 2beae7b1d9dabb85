//! The model store over HTTP: tank spec, section 6.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flywheel_events::{BaseKey, ModelVersion};
use flywheel_policy::{Network, NetworkSpec};
use flywheel_registry::{NewVersion, Registry};
use flywheel_tank_server::{ModelPayload, ModelStore};
use object_store::memory::InMemory;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

struct Store {
    registry: Arc<Registry>,
    url: String,
    http: reqwest::Client,
    _stop: DropGuard,
}

impl Store {
    async fn new() -> Self {
        Self::over(Arc::new(Registry::open(Arc::new(InMemory::new()), "registry", None))).await
    }

    async fn over(registry: Arc<Registry>) -> Self {
        let stop = CancellationToken::new();
        let serving = ModelStore::start(([127, 0, 0, 1], 0).into(), registry.clone(), stop.clone()).await.unwrap();
        let url = format!("http://{}", serving.address);
        Self { registry, url, http: reqwest::Client::new(), _stop: stop.drop_guard() }
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.unwrap();
        assert_eq!(answer.headers()["access-control-allow-origin"], "*");
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = self.http.post(format!("{}{path}", self.url)).body(body.to_string());
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
    }

    async fn save(&self, key: &str, map: &str, seed: u64) -> Network {
        let (network, payload) = model(map, seed);
        let (status, answer) = self.post(&format!("/api/rl-model/{key}"), &payload).await;
        assert_eq!((status, &answer["ok"]), (200, &json!(true)), "{answer}");
        assert!(answer["updatedAt"].is_i64());
        network
    }
}

fn model(map: &str, seed: u64) -> (Network, Value) {
    let network = Network::random(&NetworkSpec::new(108, [64], 10), seed, 0.1).unwrap();
    let mut payload = ModelPayload::from_network(&network);
    payload.training_config = Some(json!({"gamma": 0.95}));
    payload.user_defined_metadata = Some(json!({"mapKey": map, "steps": 12}));
    (network, serde_json::to_value(payload).unwrap())
}

#[tokio::test]
async fn what_was_saved_is_answered_with_its_metadata_and_listed_by_map() {
    let store = Store::new().await;
    assert_eq!(store.get("/health").await, (200, json!({"ok": true})));
    let network = store.save("tank-ai-dqn-stage03-1763700000001", "stage03", 1).await;
    store.save("tank-ai-dqn-stage01-1763700000002", "stage01", 2).await;
    let (status, payload) = store.get("/api/rl-model/tank-ai-dqn-stage03-1763700000001").await;
    assert_eq!(status, 200);
    assert!(payload["updatedAt"].is_i64());
    assert_eq!(
        payload["modelTopology"],
        json!({"format": "mlp-q", "stateSize": 108, "actionSize": 10, "hiddenSize": 64})
    );
    assert_eq!(payload["userDefinedMetadata"], json!({"mapKey": "stage03", "steps": 12}));
    assert_eq!(payload["trainingConfig"], json!({"gamma": 0.95}));
    assert_eq!(ModelPayload::from_value(payload).unwrap().to_network().unwrap(), network);
    let (_, all) = store.get("/api/rl-model-keys").await;
    assert_eq!(all["models"].as_array().unwrap().len(), 2);
    let (_, some) = store.get("/api/rl-model-keys?mapKey=stage01").await;
    assert_eq!(some["models"][0]["modelKey"], "tank-ai-dqn-stage01-1763700000002");
    assert_eq!(some["models"][0]["mapKey"], "stage01");
    assert_eq!(store.get("/api/rl-model/nobody").await, (404, json!({"error": "Model not found"})));
}

#[tokio::test]
async fn a_linear_model_of_the_reference_is_taken_as_it_is() {
    let store = Store::new().await;
    let weights: Vec<u8> = (0..3 * 2 + 3).flat_map(|i| (i as f32 / 4.0).to_le_bytes()).collect();
    let payload = json!({
        "modelTopology": {"format": "linear-q", "stateSize": 2, "actionSize": 3},
        "weightSpecs": [{"name": "kernel", "shape": [3, 2], "dtype": "float32"}, {"name": "bias", "shape": [3], "dtype": "float32"}],
        "weightDataBase64": STANDARD.encode(&weights),
    });
    assert_eq!(store.post("/api/rl-model/lin-1763700000001", &payload).await.0, 200);
    let (_, back) = store.get("/api/rl-model/lin-1763700000001").await;
    for field in ["modelTopology", "weightSpecs", "weightDataBase64"] {
        assert_eq!(back[field], payload[field], "{field}");
    }
}

#[tokio::test]
async fn each_save_is_a_new_version_and_no_alias_moves() {
    let store = Store::new().await;
    let key = "tank-ai-dqn-stage03-1763700000001";
    store.save(key, "stage03", 1).await;
    let second = store.save(key, "stage03", 2).await;
    let base = BaseKey::new("tank-ai-dqn-stage03").unwrap();
    let cards = store.registry.list(&base).await.unwrap();
    assert_eq!(cards.iter().map(|c| c.version.0).collect::<Vec<_>>(), [2, 1]);
    assert_eq!((cards[0].metadata["modelKey"].as_str(), cards[0].status.as_str()), (Some(key), "candidate"));
    for alias in ["champion", "candidate", "previous"] {
        assert!(store.registry.resolve(&base, alias).await.unwrap().is_none(), "{alias}");
    }
    let (_, payload) = store.get(&format!("/api/rl-model/{key}")).await;
    assert_eq!(ModelPayload::from_value(payload).unwrap().to_network().unwrap(), second);
}

#[tokio::test]
async fn a_base_key_answers_with_its_champion() {
    let store = Store::new().await;
    let base = BaseKey::new("tank-ai-dqn-stage03").unwrap();
    store.save("tank-ai-dqn-stage03-1763700000001", "stage03", 1).await;
    assert_eq!(store.get("/api/rl-model/tank-ai-dqn-stage03").await.0, 404);
    let spec = NetworkSpec::new(108, [32, 16], 10).dueling();
    let deep = Network::random(&spec, 5, 0.1).unwrap();
    let new = NewVersion {
        base_key: base.clone(),
        weights: deep.to_safetensors(),
        parent: Some(ModelVersion(1)),
        train_job_id: "t".to_owned(),
        data_range: None,
        metrics: json!({}),
        metadata: json!({}),
    };
    let card = store.registry.publish(new).await.unwrap();
    store.registry.promote(&base, "champion", card.version, None, "test").await.unwrap();
    let (status, payload) = store.get("/api/rl-model/tank-ai-dqn-stage03").await;
    assert_eq!(status, 200);
    assert_eq!(ModelPayload::from_value(payload).unwrap().to_network().unwrap(), deep);
}

#[tokio::test]
async fn bad_payloads_are_refused_with_400_or_422_and_nothing_is_written() {
    let store = Store::new().await;
    type Change = fn(&mut Value);
    let cases: [(u16, Change); 12] = [
        (400, |p| drop(p.as_object_mut().unwrap().remove("modelTopology"))),
        (400, |p| p["weightSpecs"] = json!([])),
        (400, |p| p["weightDataBase64"] = json!("")),
        (400, |p| *p = json!(null)),
        (422, |p| p["modelTopology"]["format"] = json!("cnn")),
        (422, |p| p["modelTopology"]["stateSize"] = json!(0)),
        (422, |p| p["modelTopology"]["hiddenSize"] = json!(u64::MAX)),
        (422, |p| p["weightSpecs"][0]["shape"] = json!([64, 107])),
        (422, |p| p["weightSpecs"][1]["dtype"] = json!("float16")),
        (422, |p| p["weightDataBase64"] = json!("AACAPw==")),
        (422, |p| p["weightDataBase64"] = json!("not base64")),
        (422, |p| {
            let mut bytes = STANDARD.decode(p["weightDataBase64"].as_str().unwrap()).unwrap();
            bytes[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
            p["weightDataBase64"] = STANDARD.encode(bytes).into();
        }),
    ];
    for (i, (wanted, change)) in cases.into_iter().enumerate() {
        let (_, mut payload) = model("stage03", 1);
        change(&mut payload);
        let (status, answer) = store.post("/api/rl-model/k-1763700000001", &payload).await;
        assert_eq!(status, wanted, "case {i}: {answer}");
        if wanted == 400 {
            assert_eq!(answer["error"], "Missing model data", "case {i}");
        }
        assert!(answer["error"].is_string(), "case {i}: {answer}");
    }
    assert!(store.registry.base_keys().await.unwrap().is_empty());
    let (_, payload) = model("stage03", 1);
    assert_eq!(store.post("/api/rl-model/..%2Fetc", &payload).await.0, 400);
    let raw = store.http.post(format!("{}/api/rl-model/k", store.url));
    assert_eq!(raw.body("{").send().await.unwrap().status(), 400);
    let raw = store.http.post(format!("{}/api/rl-model/k", store.url)).body(vec![b' '; (8 << 20) + 1]);
    assert_eq!(raw.send().await.unwrap().status(), 413);
}

#[tokio::test]
async fn keys_are_allocated_released_and_copied_as_the_spec_says() {
    let store = Store::new().await;
    let first = "tank-ai-dqn-stage03-1763700000001";
    let network = store.save(first, "stage03", 1).await;
    // The pool is that of the map in the metadata, not of what the key looks like.
    let (_, other) = store.get("/api/rl-allocate/1763700000001?baseKey=tank-ai-dqn").await;
    assert_eq!(other["isNew"], true);
    let (_, a) = store.get("/api/rl-allocate/stage03?baseKey=tank-ai-dqn").await;
    assert_eq!(a, json!({"modelKey": first, "isNew": false}));
    let (_, b) = store.get("/api/rl-allocate/stage03?baseKey=tank-ai-dqn").await;
    assert_eq!((&b["isNew"], &b["copiedFrom"]), (&json!(true), &json!(first)));
    let copy = b["modelKey"].as_str().unwrap();
    assert!(copy.starts_with("tank-ai-dqn-stage03-") && copy != first);
    let (_, payload) = store.get(&format!("/api/rl-model/{copy}")).await;
    assert_eq!(ModelPayload::from_value(payload).unwrap().to_network().unwrap(), network);
    for key in [first, first, copy] {
        assert_eq!(store.post("/api/rl-release/stage03", &json!({"modelKey": key})).await, (200, json!({"ok": true})));
    }
    assert_eq!(store.post("/api/rl-release/stage03", &json!({})).await.0, 400);
    let (_, a) = store.get("/api/rl-allocate/stage03?baseKey=tank-ai-dqn").await;
    let (_, b) = store.get("/api/rl-allocate/stage03?baseKey=tank-ai-dqn").await;
    assert_eq!((&a["modelKey"], &b["modelKey"]), (&json!(first), &json!(copy)));
}

#[tokio::test]
async fn a_store_opened_anew_knows_what_was_saved() {
    let store = Store::new().await;
    store.save("tank-ai-dqn-stage03-1763700000001", "stage03", 1).await;
    let again = Store::over(store.registry.clone()).await;
    let (_, allocated) = again.get("/api/rl-allocate/stage03").await;
    assert_eq!(allocated, json!({"modelKey": "tank-ai-dqn-stage03-1763700000001", "isNew": false}));
}

#[tokio::test]
async fn whatever_is_wrong_with_a_request_the_answer_is_json() {
    let store = Store::new().await;
    for (wanted, path) in [
        (400, "/api/rl-model/%ff"),
        (400, "/api/rl-allocate/%ff?baseKey=a"),
        (400, "/api/rl-allocate/stage03?baseKey=a&baseKey=b"),
        (400, "/api/rl-allocate/stage03?baseKey=..%2Fetc"),
        (400, "/api/rl-allocate/sta%20ge"),
        (404, "/api"),
        (405, "/api/rl-release/stage03"),
    ] {
        let (status, answer) = store.get(path).await;
        assert_eq!(status, wanted, "{path}: {answer}");
        assert!(answer["error"].as_str().is_some_and(|e| !e.is_empty()), "{path}: {answer}");
    }
}
