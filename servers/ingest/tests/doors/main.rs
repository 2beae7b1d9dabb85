//! Every row of what the doors promise, over real HTTP on loopback.

mod bounds;
mod clocks;
mod disk;
mod formats;
mod keys;
mod schemas;
mod sequence;
mod socket;
mod spool;

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use flywheel_events::{Event, GameId, System};
use flywheel_ingest::{Door, IngestConfig, SpoolConfig, router};
use flywheel_log::{EventLog, MemoryLog, Position, ReadLimit, Topic};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// A server with the doors alone.
pub struct Server {
    pub addr: SocketAddr,
    pub log: Arc<dyn EventLog>,
    pub door: Arc<Door>,
    pub stop: CancellationToken,
    pub client: reqwest::Client,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub retry_after: Option<String>,
    pub content_type: String,
    pub json: Value,
}

impl Server {
    pub async fn new() -> Self {
        Self::with(MemoryLog::new(), IngestConfig::default()).await
    }

    pub async fn with(log: Arc<dyn EventLog>, config: IngestConfig) -> Self {
        let stop = CancellationToken::new();
        metrics();
        let door = Door::new(Arc::clone(&log), config, stop.clone());
        Self::of(log, door, stop).await
    }

    pub async fn spooling(log: Arc<dyn EventLog>, spool: &SpoolConfig) -> Self {
        let stop = CancellationToken::new();
        metrics();
        let door = Door::spooling(Arc::clone(&log), IngestConfig::default(), stop.clone(), spool).unwrap();
        Self::of(log, door, stop).await
    }

    pub async fn of(log: Arc<dyn EventLog>, door: Arc<Door>, stop: CancellationToken) -> Self {
        let listener = flywheel_kit::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let app = router(Arc::clone(&door));
        tokio::spawn(flywheel_kit::serve(listener, app, flywheel_kit::ServeConfig::default(), stop.clone()));
        Self { addr, log, door, stop, client: reqwest::Client::new() }
    }

    pub async fn post(&self, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut request = self.client.post(format!("http://{}/v1/events", self.addr));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request.body(reqwest::Body::from(body.into())).send().await.unwrap()).await
    }

    pub async fn post_json(&self, value: &Value) -> Answer {
        self.post(&[("content-type", "application/json")], value.to_string()).await
    }

    /// All events in the log, by partition and in their order.
    pub async fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (topic, partitions) in self.log.topics().await.unwrap() {
            for partition in 0..partitions {
                let lane = Topic::partition(&topic, partition);
                let limit = ReadLimit { max_records: 1_000_000, max_bytes: usize::MAX, ..ReadLimit::default() };
                let records = self.log.read(&lane, Position::Start, limit).await.unwrap();
                events.extend(records.into_iter().map(|record| Event::decode(&record.value).unwrap()));
            }
        }
        events
    }

    pub async fn seqs(&self, game: &str) -> Vec<u64> {
        let events = self.events().await;
        events.iter().filter(|event| event.game_id.as_str() == game).map(|event| event.seq).collect()
    }
}

fn metrics() -> &'static PrometheusHandle {
    static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
    METRICS.get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap())
}

/// What a line of the metrics says, over all doors of this process; 0 if it is not there.
pub fn counted(name: &str) -> f64 {
    let text = metrics().render();
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

pub async fn answer(response: reqwest::Response) -> Answer {
    let header = |name| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (status, retry_after) = (response.status().as_u16(), header("retry-after"));
    let content_type = header("content-type").unwrap_or_default();
    let text = response.text().await.unwrap();
    let json = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Answer { status, retry_after, content_type, json }
}

impl Answer {
    /// It is a problem of this status and reason.
    #[track_caller]
    pub fn refused(&self, status: u16, reason: &str) {
        assert_eq!((self.status, self.json["reason"].as_str()), (status, Some(reason)), "{self:?}");
        assert_eq!(self.content_type, "application/problem+json");
        assert_eq!(self.json["status"], status);
        assert!(self.json["type"].as_str().unwrap().starts_with("urn:flywheel:problem:"));
        assert!(self.json["title"].is_string() && self.json["detail"].is_string());
    }

    #[track_caller]
    pub fn took(&self, accepted: u64, repeated: u64) {
        let counts = (self.status, self.json["accepted"].as_u64(), self.json["repeated"].as_u64());
        assert_eq!(counts, (200, Some(accepted), Some(repeated)), "{self:?}");
    }
}

pub fn event(game: &str, seq: u64) -> Event {
    Event::new(System::Tank, "tank.tick", GameId::new(game).unwrap(), seq, 1_700_000_000_000)
        .actor("server")
        .payload(&json!({"tick": seq}))
}

pub fn value(game: &str, seq: u64) -> Value {
    serde_json::to_value(event(game, seq)).unwrap()
}

pub fn lines(game: &str, seqs: impl IntoIterator<Item = u64>) -> Vec<u8> {
    seqs.into_iter().flat_map(|seq| [event(game, seq).encode(), b"\n".to_vec()].concat()).collect()
}

pub const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");
pub const JSON: (&str, &str) = ("content-type", "application/json");
