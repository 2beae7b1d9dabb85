//! Saves to the model store, on a thread of their own. The game loop hands a payload over and goes on.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use flywheel_events::{BaseKey, ModelRef, ModelVersion, kinds, tank as payload};
use flywheel_kit::GameEvents;
use parking_lot::{Condvar, Mutex};
use serde_json::Value;
use tracing::warn;

use crate::{AgentConfig, AgentError, metrics as names, stats::Counters};

/// One payload on its way to the store.
#[derive(Debug)]
pub struct Save {
    pub key: String,
    pub body: Vec<u8>,
    pub base_key: String,
    pub steps: u64,
    pub epsilon: f32,
    /// Where `tank.model.saved` goes.
    pub events: Option<GameEvents>,
    /// Where the version that it got is left.
    pub registered: Arc<Mutex<Option<ModelRef>>>,
}

/// Waiting saves: at most one per key, in order of first arrival.
#[derive(Debug, Default)]
struct Queue {
    order: VecDeque<String>,
    waiting: HashMap<String, Save>,
    /// A save is on its way.
    busy: bool,
}

impl Queue {
    /// Whether an older payload of the same key gave way.
    fn put(&mut self, save: Save) -> bool {
        let key = save.key.clone();
        let replaced = self.waiting.insert(key.clone(), save).is_some();
        if !replaced {
            self.order.push_back(key);
        }
        replaced
    }

    fn take(&mut self) -> Option<Save> {
        let key = self.order.pop_front()?;
        self.waiting.remove(&key)
    }
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    closing: AtomicBool,
}

/// The persistence thread.
#[derive(Debug)]
pub struct Saver {
    shared: Arc<Shared>,
    stats: Arc<Counters>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    drain: Duration,
}

impl Saver {
    /// # Errors
    /// If the thread cannot be started.
    pub(crate) fn start(store_url: String, config: &AgentConfig, stats: Arc<Counters>) -> Result<Self, AgentError> {
        let shared = Arc::new(Shared::default());
        let worker = Worker {
            shared: shared.clone(),
            stats: stats.clone(),
            store_url,
            timeout: config.save_timeout,
            pauses: config.save_pauses.clone(),
        };
        let thread = thread::Builder::new()
            .name("agent-saves".to_owned())
            .spawn(move || worker.run())
            .map_err(AgentError::Thread)?;
        Ok(Self { shared, stats, thread: Mutex::new(Some(thread)), drain: config.drain })
    }

    /// Queues a payload; a waiting one of the same key gives way. Never waits.
    pub fn put(&self, save: Save) {
        if self.shared.queue.lock().put(save) {
            self.stats.add(&self.stats.saves_superseded, 1);
        }
        self.shared.changed.notify_all();
    }

    /// Waits until everything is saved or given up, for as long as the settings allow. Blocks: not for async code.
    /// Says how many saves were left behind.
    pub fn close(&self) -> usize {
        let until = Instant::now() + self.drain;
        let mut queue = self.shared.queue.lock();
        while queue.busy || !queue.order.is_empty() {
            if self.shared.changed.wait_until(&mut queue, until).timed_out() {
                break;
            }
        }
        let left = queue.order.len() + usize::from(queue.busy);
        drop(queue);
        self.shared.closing.store(true, Ordering::Release);
        self.shared.changed.notify_all();
        if left > 0 {
            warn!(left, "saves were left behind at shutdown");
        } else if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
        left
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.changed.notify_all();
    }
}

struct Worker {
    shared: Arc<Shared>,
    stats: Arc<Counters>,
    store_url: String,
    timeout: Duration,
    pauses: Vec<Duration>,
}

impl Worker {
    fn run(self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let client = reqwest::Client::builder().timeout(self.timeout).no_proxy().build();
        let (Ok(runtime), Ok(client)) = (runtime, client) else {
            warn!("models cannot be saved: the HTTP client did not start");
            return;
        };
        while let Some(save) = self.next() {
            runtime.block_on(self.save(&client, &save));
            self.shared.queue.lock().busy = false;
            self.shared.changed.notify_all();
        }
    }

    fn next(&self) -> Option<Save> {
        let mut queue = self.shared.queue.lock();
        loop {
            if let Some(save) = queue.take() {
                queue.busy = true;
                return Some(save);
            }
            if self.shared.closing.load(Ordering::Acquire) {
                return None;
            }
            self.shared.changed.wait(&mut queue);
        }
    }

    async fn save(&self, client: &reqwest::Client, save: &Save) {
        for (attempt, pause) in self.pauses.iter().enumerate() {
            let began = Instant::now();
            match self.post(client, save).await {
                Ok(version) => {
                    let took = began.elapsed();
                    self.stats.add(&self.stats.saves, 1);
                    self.stats.last_save_ms.store(took.as_millis() as u64, Ordering::Relaxed);
                    self.stats.save.record(took);
                    metrics::counter!(names::SAVES, "outcome" => "saved").increment(1);
                    metrics::histogram!(names::SAVE_SECONDS).record(took.as_secs_f64());
                    self.saved(save, version);
                    return;
                }
                Err(failure) => {
                    self.stats.add(&self.stats.save_failures, 1);
                    metrics::counter!(names::SAVES, "outcome" => "failed").increment(1);
                    warn!(key = save.key, attempt = attempt + 1, reason = failure.reason, "a save failed");
                    // What the store has refused it will refuse again.
                    if failure.is_final || self.shared.closing.load(Ordering::Acquire) {
                        break;
                    }
                }
            }
            // A newer payload of this key makes this one pointless.
            if self.shared.queue.lock().waiting.contains_key(&save.key) {
                return;
            }
            tokio::time::sleep(*pause).await;
        }
        self.stats.add(&self.stats.saves_lost, 1);
    }

    async fn post(&self, client: &reqwest::Client, save: &Save) -> Result<Option<ModelRef>, Failure> {
        let url = format!("{}/api/rl-model/{}", self.store_url.trim_end_matches('/'), crate::gbe::encode(&save.key));
        let request = client.post(url).header("content-type", "application/json").body(save.body.clone());
        let answer = request.send().await.map_err(|error| Failure { reason: error.to_string(), is_final: false })?;
        let status = answer.status();
        let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap_or_default()).unwrap_or_default();
        if !status.is_success() {
            let reason = format!("{status}: {}", body["error"].as_str().unwrap_or("no reason given"));
            return Err(Failure { reason, is_final: status.is_client_error() });
        }
        let base = body["baseKey"].as_str().and_then(|key| BaseKey::new(key).ok());
        let version = body["version"].as_u64().map(ModelVersion);
        Ok(base.zip(version).map(|(base, version)| ModelRef::new(base, version)))
    }

    fn saved(&self, save: &Save, version: Option<ModelRef>) {
        if version.is_some() {
            save.registered.lock().clone_from(&version);
        }
        let Some(events) = &save.events else { return };
        let change = payload::ModelChange {
            model_key: save.key.clone(),
            base_key: version.as_ref().map_or_else(|| save.base_key.clone(), |v| v.base_key.to_string()),
            version: version.as_ref().map_or(0, |v| v.version.0),
            steps: save.steps,
            epsilon: save.epsilon,
            from_version: None,
        };
        events.emit(kinds::TANK_MODEL_SAVED, Some("controller"), version.as_ref(), &change);
    }
}

struct Failure {
    reason: String,
    is_final: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(key: &str, steps: u64) -> Save {
        Save {
            key: key.to_owned(),
            body: Vec::new(),
            base_key: "b".to_owned(),
            steps,
            epsilon: 0.1,
            events: None,
            registered: Arc::default(),
        }
    }

    #[test]
    fn the_queue_holds_one_payload_per_key_and_the_newer_one_wins() {
        let mut queue = Queue::default();
        assert!(!queue.put(save("a", 300)));
        assert!(!queue.put(save("b", 300)));
        assert!(queue.put(save("a", 600)));
        let order: Vec<_> = std::iter::from_fn(|| queue.take()).map(|s| (s.key, s.steps)).collect();
        assert_eq!(order, [("a".to_owned(), 600), ("b".to_owned(), 300)]);
    }
}
