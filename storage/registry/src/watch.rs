//! Following an alias: hints wake, the alias is the truth.

use std::{collections::HashMap, sync::Arc, time::Duration};

use flywheel_events::BaseKey;
use flywheel_log::{EventLog, LogErrorKind, Position, ReadLimit, Record, Topic};
use tokio::sync::{Mutex, Notify, watch};
use tracing::{debug, warn};

use crate::{AliasState, Registry, RegistryError};

/// Without a hint, an alias is looked at this often.
const POLL: Duration = Duration::from_secs(1);
const TOPIC: &str = "fw.models";

type Watched = HashMap<(BaseKey, String), watch::Sender<Option<AliasState>>>;

/// Everybody who waits for an alias in this process.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    watched: Mutex<Watched>,
    hint: Notify,
    running: std::sync::OnceLock<()>,
}

impl Registry {
    /// The alias now and whenever it moves. Moves by this process are seen at once, those of others when the hint
    /// of the log arrives or, without one, within a second.
    ///
    /// # Errors
    /// If the alias cannot be read now.
    pub async fn watch(
        self: &Arc<Self>,
        base: &BaseKey,
        alias: &str,
    ) -> Result<watch::Receiver<Option<AliasState>>, RegistryError> {
        let key = (base.clone(), alias.to_owned());
        let mut watched = self.watches.watched.lock().await;
        if let Some(sender) = watched.get(&key) {
            return Ok(sender.subscribe());
        }
        let sender = watch::Sender::new(self.resolve(base, alias).await?);
        let receiver = sender.subscribe();
        watched.insert(key, sender);
        drop(watched);
        self.watches.running.get_or_init(|| {
            tokio::spawn(poll(Arc::downgrade(self)));
            if let Some(log) = &self.hints {
                tokio::spawn(listen(Arc::downgrade(self), Arc::clone(log)));
            }
        });
        Ok(receiver)
    }

    /// Tells watchers of this process at once, those of others through the log.
    pub(crate) async fn notify(&self, base: &BaseKey, state: &AliasState) {
        if let Some(sender) = self.watches.watched.lock().await.get(&(base.clone(), state.alias.clone())) {
            advance(sender, Some(state.clone()));
        }
        let Some(log) = &self.hints else { return };
        let record = Record::new(base.as_str().to_owned(), serde_json::to_vec(state).expect("an alias serialises"));
        // A log that hangs must not hold up a move that is already made.
        match tokio::time::timeout(POLL, log.append(&Topic::new(TOPIC).partition(0), vec![record])).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => debug!(%error, "no hint could be sent; others see the move when they poll"),
            Err(_) => debug!("the log did not answer; others see the move when they poll"),
        }
    }

    async fn refresh(&self) {
        let keys: Vec<_> = self.watches.watched.lock().await.keys().cloned().collect();
        for (base, alias) in keys {
            match self.resolve(&base, &alias).await {
                Ok(state) => {
                    if let Some(sender) = self.watches.watched.lock().await.get(&(base, alias)) {
                        advance(sender, state);
                    }
                }
                Err(error) => warn!(%error, %base, alias, "looking at an alias"),
            }
        }
    }
}

/// Never back to an older revision: a slow read must not undo a newer hint.
fn advance(sender: &watch::Sender<Option<AliasState>>, state: Option<AliasState>) {
    sender.send_if_modified(|known| {
        let revision = |state: &Option<AliasState>| state.as_ref().map_or(0, |state| state.revision);
        let newer = revision(&state) > revision(known);
        if newer {
            *known = state;
        }
        newer
    });
}

async fn poll(registry: std::sync::Weak<Registry>) {
    loop {
        let Some(registry) = registry.upgrade() else { return };
        registry.refresh().await;
        let watches = Arc::clone(&registry.watches);
        drop(registry);
        // A hint or a second, whatever comes first.
        let _hinted = tokio::time::timeout(POLL, watches.hint.notified()).await;
    }
}

async fn listen(registry: std::sync::Weak<Registry>, log: Arc<dyn EventLog>) {
    let (topic, mut position) = (Topic::new(TOPIC), None);
    loop {
        let Some(registry) = registry.upgrade() else { return };
        let watches = Arc::clone(&registry.watches);
        drop(registry);
        let lane = topic.partition(0);
        let read = async {
            let from = match position {
                Some(position) => position,
                None => {
                    log.create_topic(&topic, 1).await?;
                    log.bounds(&lane).await?.last.map_or(Position::Start, Position::After)
                }
            };
            Ok::<_, flywheel_log::LogError>((from, log.read(&lane, from, ReadLimit::waiting(POLL)).await?))
        };
        match read.await {
            Ok((from, records)) => {
                position = Some(records.last().map_or(from, |record| Position::After(record.offset)));
                if !records.is_empty() {
                    watches.hint.notify_one();
                }
            }
            Err(error) => {
                if error.kind() == LogErrorKind::Trimmed {
                    position = None;
                }
                debug!(%error, "no hints for now; polling goes on");
                tokio::time::sleep(POLL).await;
            }
        }
    }
}
