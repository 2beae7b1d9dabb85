//! The client against real doors over a log in memory, and a model server that answers as it is told.

mod emitting;
mod following;
mod playing;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use flywheel_client::Network;
use flywheel_ingest::{Door, IngestConfig};
use flywheel_log::{EventLog, MemoryLog, Position, ReadLimit};
use flywheel_policy::NetworkSpec;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_util::sync::CancellationToken;

pub const PATIENCE: Duration = Duration::from_secs(60);
pub const SPEC: (usize, usize) = (108, 10);

/// What the servers of one test share; it outlives each of them.
#[derive(Default)]
pub struct World {
    /// Answers of the doors that are lost on their way back.
    pub lost_answers: Mutex<usize>,
    /// What a proxy before the doors answers instead of them.
    pub proxy_answers: Mutex<VecDeque<(u16, String)>>,
    /// Statuses with which the models answer first.
    pub model_statuses: Mutex<VecDeque<u16>>,
    /// Weights, and what their card says is the hash.
    pub versions: Mutex<BTreeMap<u64, (Vec<u8>, String)>>,
    /// Revision and version of `champion`; 0 while there is none.
    pub champion: Mutex<(u64, u64)>,
    pub asked: Mutex<Vec<String>>,
    /// What the requests of the doors said of who asks.
    pub who: Mutex<BTreeSet<Option<String>>>,
}

impl World {
    pub fn requests(&self, what: &str) -> usize {
        self.asked.lock().iter().filter(|path| path.contains(what)).count()
    }

    pub fn publish(&self, version: u64, weights: Vec<u8>) {
        use sha2::{Digest, Sha256};
        let hash = hex::encode(Sha256::digest(&weights));
        self.versions.lock().insert(version, (weights, hash));
    }

    pub fn promote(&self, version: u64) {
        let mut champion = self.champion.lock();
        *champion = (champion.0 + 1, version);
    }
}

/// A network that always takes `action`.
pub fn always(action: usize) -> Network {
    let spec = NetworkSpec::new(SPEC.0, [], SPEC.1);
    let mut bias = vec![0.0; SPEC.1];
    bias[action] = 1.0;
    let tensors = spec.tensors().into_iter().map(|(name, shape)| {
        let data = if name.ends_with("bias") { bias.clone() } else { vec![0.0; shape.iter().product()] };
        flywheel_policy::Tensor::new(name, shape, data)
    });
    Network::from_tensors(&spec, tensors.collect()).unwrap()
}

/// A loop of its own for one test, on a port of the system's choice, that can die and come back there.
pub struct Server {
    pub world: Arc<World>,
    pub log: Arc<MemoryLog>,
    pub address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Server {
    pub fn start() -> Self {
        let address = ([127, 0, 0, 1], 0).into();
        let mut server = Self { world: Arc::default(), log: MemoryLog::new(), address, runtime: None };
        server.restart();
        server
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every connection breaks, as when a process is killed.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }

    pub fn restart(&mut self) {
        self.kill();
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind(self.address)).unwrap();
        self.address = listener.local_addr().unwrap();
        let log: Arc<dyn EventLog> = self.log.clone();
        let doors = flywheel_ingest::router(Door::new(log, IngestConfig::default(), CancellationToken::new()));
        let app = Router::new()
            .route("/v1/models", get(async || Json(json!({"items": [{"model_key": "bot", "version": 1}]}))))
            .route("/v1/models/{model}/{alias}", get(alias))
            .route("/v1/models/{model}/versions/{version}/weights", get(weights))
            .with_state(self.world.clone())
            .merge(doors.layer(from_fn_with_state(self.world.clone(), lose)))
            .layer(from_fn_with_state(self.world.clone(), note));
        runtime.spawn(async move { axum::serve(listener, app).await });
        self.runtime = Some(runtime);
    }

    /// Each `seq` of a game in the order of the log, with repeats.
    pub fn seqs(&self, game: &str) -> Vec<u64> {
        self.events(game).iter().map(|event| event["seq"].as_u64().unwrap()).collect()
    }

    pub fn events(&self, game: &str) -> Vec<Value> {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let mut events = Vec::new();
            for (topic, partitions) in self.log.topics().await.unwrap() {
                for partition in 0..partitions {
                    let limit = ReadLimit { max_records: 1_000_000, max_bytes: usize::MAX, ..ReadLimit::default() };
                    let records = self.log.read(&topic.partition(partition), Position::Start, limit).await.unwrap();
                    events.extend(records.iter().map(|record| serde_json::from_slice(&record.value).unwrap()));
                }
            }
            events.retain(|event: &Value| event["game_id"] == game);
            events
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn note(State(world): State<Arc<World>>, request: Request, next: Next) -> Response {
    world.asked.lock().push(request.uri().path().to_owned());
    let who = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
    if request.uri().path().ends_with("/events") {
        world.who.lock().insert(who);
    } else {
        assert_eq!(who, None, "the key is for the doors alone");
    }
    next.run(request).await
}

/// The doors do their work, and the answer never arrives; or something before them has an opinion.
async fn lose(State(world): State<Arc<World>>, request: Request, next: Next) -> Response {
    if let Some((status, body)) = world.proxy_answers.lock().pop_front() {
        return (StatusCode::from_u16(status).unwrap(), body).into_response();
    }
    let answer = next.run(request).await;
    let mut lost = world.lost_answers.lock();
    if *lost == 0 {
        return answer;
    }
    *lost -= 1;
    StatusCode::BAD_GATEWAY.into_response()
}

fn next_status(world: &World) -> Option<Response> {
    let status = world.model_statuses.lock().pop_front()?;
    let problem = json!({"status": status, "detail": "told so"});
    Some((StatusCode::from_u16(status).unwrap(), Json(problem)).into_response())
}

async fn alias(
    State(world): State<Arc<World>>,
    Path((model, alias)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    if let Some(answer) = next_status(&world) {
        return answer;
    }
    let (revision, version) = *world.champion.lock();
    let hash = world.versions.lock().get(&version).map(|(_, hash)| hash.clone());
    let Some(hash) = hash.filter(|_| (model.as_str(), alias.as_str()) == ("bot", "champion")) else {
        return (StatusCode::NOT_FOUND, Json(json!({"status": 404, "detail": "it names nothing"}))).into_response();
    };
    let tag = format!("W/\"{revision}-{version}-{hash}\"");
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known == tag.as_str()) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    let card = json!({"model_key": "bot", "version": version, "sha256": hash, "size_bytes": 1});
    let named = json!({"name": format!("bot@{version}"), "alias": alias, "revision": revision, "card": card});
    ([(header::ETAG, tag)], Json(named)).into_response()
}

async fn weights(State(world): State<Arc<World>>, Path((_, version)): Path<(String, u64)>) -> Response {
    match world.versions.lock().get(&version) {
        Some((weights, _)) => weights.clone().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
