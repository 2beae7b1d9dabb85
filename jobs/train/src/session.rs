//! One run from its first row to its last step.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use flywheel_events::ModelVersion;
use flywheel_lake::Lake;
use flywheel_log::{EventLog, LogErrorKind, Offset, Position, Topic};
use flywheel_policy::{LearnErrorKind, Network};
use serde_json::{Value, json};
use tokio::{runtime::Handle, sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    Batch, Checkpoint, Checkpoints, Loaded, TrainError, TrainLearner, Trainer, follow::follow, load::load_table,
};

/// Rows are taken in slices of this length between two steps, so that neither waits for the other.
const INGEST_SLICE: Duration = Duration::from_millis(5);
/// With nothing to learn from, so long at a time is waited for rows.
const IDLE_WAIT: Duration = Duration::from_millis(20);
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// At the end, so long is waited for the object store; who asked for the end kills after ten seconds.
const STORED_WAIT: Duration = Duration::from_secs(8);
/// Losses that are not finite, one after the other, before the run gives up.
const NOT_FINITE_MAX: u32 = 12;

/// What a host answers to a sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    Continue,
    /// Checkpoint and end.
    Stop,
    /// The run belongs to somebody else now: end at once, write nothing.
    Fenced,
}

/// A network to be published, and where it came from.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub network: Network,
    pub steps: u64,
    pub parent: Option<ModelVersion>,
    pub metrics: Value,
    /// Table versions, rows, seed, configuration, code.
    pub metadata: Value,
    /// First and last positions of the data in the log.
    pub data_range: Value,
}

/// What a run needs from where it runs. All calls come from the run's own thread and may block for milliseconds.
pub trait Host {
    /// Reports progress and asks whether to go on. About once a second.
    fn beat(&mut self, progress: &Value) -> Beat;

    /// Is the run still ours? Asked before a checkpoint is written.
    fn confirm(&mut self) -> Beat;

    /// A checkpoint is there whole, where whoever goes on with the run finds it.
    fn checkpointed(&mut self, steps: u64, uri: &str) -> Beat;

    /// Begins to publish; the outcome comes from [`Host::published`]. Called again only after that.
    fn publish(&mut self, candidate: Candidate);

    /// The outcome of the last `publish`, once, when it is known. With `wait` it blocks until then.
    fn published(&mut self, wait: bool) -> Option<Result<ModelVersion, PublishError>>;
}

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("the run belongs to another process now")]
    Fenced,
    #[error("{0}")]
    Failed(String),
}

/// How a run ended by itself or was told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Asked to; it can be resumed.
    Stopped,
    /// `max_steps` are done.
    Completed,
}

/// Where a run's data comes from.
#[derive(Debug, Clone)]
pub struct Sources {
    pub log: Arc<dyn EventLog>,
    pub lake: Lake,
}

/// What the run has learned about versions before it begins.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The champion when the run began, and its weights if a fresh run is to begin with them.
    pub parent: Option<(ModelVersion, Option<Network>)>,
    /// Goes into every card.
    pub code: Value,
}

/// One training run.
#[derive(Debug)]
pub struct Session<L, H> {
    trainer: Trainer<L>,
    host: H,
    checkpoints: Checkpoints,
    last_checkpoint: Option<Checkpoint>,
    /// Steps of the newest one in the object store.
    stored: Option<u64>,
    loaded: Loaded,
    /// Offsets taken so far, first and last, by partition.
    taken: BTreeMap<u32, (Offset, Offset)>,
    receiver: Option<mpsc::Receiver<Batch>>,
    pending: Option<(Batch, usize)>,
    parent: Option<ModelVersion>,
    /// Not resumed: its first version is due after steps alone.
    fresh: bool,
    code: Value,
    publishing: bool,
    published: Vec<u64>,
    publish_failures: u64,
    last_publish: (Instant, u64),
    /// Where each partition ended when the run began; empty once all that has been taken.
    backlog: BTreeMap<u32, Offset>,
    /// Records appended before this waited behind the backlog and say nothing about freshness.
    live_from_ms: i64,
    not_finite_run: u32,
    note: Option<String>,
    began: Instant,
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

impl<L: TrainLearner, H: Host> Session<L, H> {
    /// Loads the table and the newest checkpoint, and begins to follow the log. Call it on a thread that may block,
    /// within the runtime of `handle`.
    ///
    /// # Errors
    /// If table or log cannot be read at all.
    pub fn open(
        handle: &Handle,
        mut trainer: Trainer<L>,
        host: H,
        mut checkpoints: Checkpoints,
        sources: &Sources,
        origin: Origin,
        tasks: (&mut JoinSet<()>, &CancellationToken),
    ) -> Result<Self, TrainError> {
        let (checkpoint, passed) = checkpoints.newest()?;
        for error in &passed {
            warn!(%error, "a checkpoint cannot be used, taking the one before");
        }
        let mut note = passed.first().map(|error| match &checkpoint {
            Some(taken) => format!("went on from step {}: {error}", taken.state.steps),
            None => format!("began anew, no checkpoint is whole: {error}"),
        });
        let follows = trainer.config().follow;
        let topic = Topic::new(trainer.config().system.topic());
        let partitions = if follows { handle.block_on(partitions(&sources.log, &topic, tasks.1))? } else { 0 };
        // A run on fixed data goes on with the version that it began with.
        let pinned = checkpoint.as_ref().filter(|_| !follows).and_then(|checkpoint| checkpoint.table_version);
        let loaded = handle.block_on(load_table(&sources.lake, partitions, pinned, &mut trainer))?;
        info!(rows = loaded.rows, version = loaded.version, "loaded the table");

        let mut parent = None;
        match &checkpoint {
            Some(checkpoint) => {
                trainer.resume(checkpoint)?;
                parent = Some(ModelVersion(checkpoint.state.version)).filter(|version| version.0 > 0);
                info!(steps = trainer.steps(), "resumed from a checkpoint");
            }
            None => {
                if let Some((version, network)) = &origin.parent {
                    let started = network.as_ref().map(|network| trainer.learner_mut().start_from(network));
                    match started {
                        Some(Ok(())) => parent = Some(*version),
                        Some(Err(error)) => note = Some(format!("begins from random weights: {error}")),
                        None => {}
                    }
                    trainer.set_version(*version);
                }
            }
        }
        let mut backlog = BTreeMap::new();
        for (&partition, from) in loaded.log_from.iter().filter(|_| follows) {
            let last = handle.block_on(sources.log.bounds(&topic.partition(partition)))?.last;
            backlog.extend(last.filter(|last| Position::After(*last) > *from).map(|last| (partition, last)));
        }
        let receiver = follows.then(|| {
            let _guard = handle.enter();
            follow(tasks.0, &sources.log, &topic, &loaded.log_from, tasks.1)
        });
        let steps = trainer.steps();
        Ok(Self {
            trainer,
            host,
            checkpoints,
            fresh: checkpoint.is_none(),
            last_checkpoint: checkpoint,
            stored: None,
            loaded,
            taken: BTreeMap::new(),
            receiver,
            pending: None,
            parent,
            code: origin.code,
            publishing: false,
            published: Vec::new(),
            publish_failures: 0,
            last_publish: (Instant::now(), steps),
            live_from_ms: if backlog.is_empty() { now_ms() } else { i64::MAX },
            backlog,
            not_finite_run: 0,
            note,
            began: Instant::now(),
        })
    }

    pub fn trainer(&self) -> &Trainer<L> {
        &self.trainer
    }

    pub fn host(&self) -> &H {
        &self.host
    }

    /// Learns until told to stop, `max_steps` are done, or something cannot be mended.
    ///
    /// `each` sees every step.
    ///
    /// # Errors
    /// `Fenced` if the run was taken over; `Diverged`; and what the learner, table or checkpoints bring.
    pub fn run(&mut self, handle: &Handle, mut each: impl FnMut(crate::Step)) -> Result<Ended, TrainError> {
        let (mut beat, mut checkpoint) = (Instant::now() - BEAT_EVERY, Instant::now());
        loop {
            if beat.elapsed() >= BEAT_EVERY {
                beat = Instant::now();
                match self.beat() {
                    Beat::Continue => {}
                    Beat::Stop => return self.end(Ended::Stopped),
                    Beat::Fenced => return Err(TrainError::Fenced),
                }
            }
            if self.trainer.config().max_steps.is_some_and(|max| self.trainer.steps() >= max) {
                return self.end(Ended::Completed);
            }
            self.ingest();
            match self.trainer.step() {
                Ok(Some(step)) => {
                    self.not_finite_run = 0;
                    each(step);
                }
                Ok(None) => self.wait(handle),
                Err(error) if error.kind() == LearnErrorKind::NotFinite => self.mend(&error.to_string())?,
                Err(error) => return Err(error.into()),
            }
            self.publish_if_due()?;
            self.settle_stored(None)?;
            if checkpoint.elapsed() >= self.trainer.config().checkpoint_every
                && self.last_checkpoint.as_ref().is_none_or(|last| last.state.steps < self.trainer.steps())
            {
                self.checkpoint()?;
                checkpoint = Instant::now();
            }
        }
    }

    fn beat(&mut self) -> Beat {
        let mut progress = self.trainer.progress();
        let more = json!({
            "published": self.published,
            "publish_failures": self.publish_failures,
            "table_version": self.loaded.version,
            "table_rows": self.loaded.rows,
            "elapsed_seconds": self.began.elapsed().as_secs(),
            "checkpoint_steps": self.last_checkpoint.as_ref().map(|checkpoint| checkpoint.state.steps),
            "checkpoint_stored_steps": self.stored,
            "note": self.note,
        });
        if let (Value::Object(progress), Value::Object(more)) = (&mut progress, more) {
            progress.extend(more);
        }
        self.host.beat(&progress)
    }

    fn end(&mut self, ended: Ended) -> Result<Ended, TrainError> {
        self.settle_publish(true)?;
        if ended == Ended::Completed && self.trainer.steps() > self.last_publish.1 {
            self.publish()?;
            self.settle_publish(true)?;
        }
        self.checkpoint()?;
        self.settle_stored(Some(STORED_WAIT))?;
        self.beat();
        Ok(ended)
    }

    /// Takes queued records for a slice of time.
    fn ingest(&mut self) {
        let began = Instant::now();
        while began.elapsed() < INGEST_SLICE {
            let (batch, at) = match self.pending.take() {
                Some(pending) => pending,
                None => match self.receiver.as_mut().and_then(|receiver| receiver.try_recv().ok()) {
                    Some(batch) => (batch, 0),
                    None => return,
                },
            };
            // A few records at a time, so that a large batch does not outlast the slice.
            let end = (at + 32).min(batch.records.len());
            let records = &batch.records[at..end];
            self.trainer.ingest(records, self.live_from_ms, now_ms);
            if let (Some(first), Some(last)) = (records.first(), records.last()) {
                let range = self.taken.entry(batch.partition).or_insert((first.offset, last.offset));
                range.1 = last.offset;
                if self.backlog.get(&batch.partition).is_some_and(|end| *end <= last.offset) {
                    self.backlog.remove(&batch.partition);
                    if self.backlog.is_empty() {
                        self.live_from_ms = now_ms();
                        info!(transitions = self.trainer.buffer().inserted(), "caught up with the log");
                    }
                }
            }
            if end < batch.records.len() {
                self.pending = Some((batch, end));
            }
        }
    }

    fn wait(&mut self, handle: &Handle) {
        if self.pending.is_some() {
            return;
        }
        match &mut self.receiver {
            Some(receiver) => {
                let next = handle.block_on(async { tokio::time::timeout(IDLE_WAIT, receiver.recv()).await });
                match next {
                    Ok(Some(batch)) => self.pending = Some((batch, 0)),
                    // The readers have ended: they do so only when the run is told to stop.
                    Ok(None) => std::thread::sleep(IDLE_WAIT),
                    Err(_) => {}
                }
            }
            None => std::thread::sleep(IDLE_WAIT),
        }
    }

    fn mend(&mut self, error: &str) -> Result<(), TrainError> {
        self.not_finite_run += 1;
        if self.not_finite_run > NOT_FINITE_MAX {
            return Err(TrainError::Diverged(self.not_finite_run));
        }
        let learning_rate = self.trainer.back_to(self.last_checkpoint.as_ref())?;
        let steps = self.trainer.steps();
        let note = format!("{error}: went back to step {steps}, learning rate is {learning_rate:.1e} now");
        warn!(steps, learning_rate, error, "numbers that are not finite, went back to the last checkpoint");
        self.note = Some(note);
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<(), TrainError> {
        if self.host.confirm() == Beat::Fenced {
            return Err(TrainError::Fenced);
        }
        let checkpoint = match self.checkpoints.save(&self.trainer, self.loaded.version) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                // A full disk must not end a run that can still learn and publish.
                warn!(%error, "no checkpoint");
                self.note = Some(error.to_string());
                return Ok(());
            }
        };
        // What goes to the object store is there for others only once it has arrived.
        let beat = match self.checkpoints.are_stored() {
            true => Beat::Continue,
            false => self.host.checkpointed(checkpoint.state.steps, &checkpoint.uri()),
        };
        self.last_checkpoint = Some(checkpoint);
        if beat == Beat::Fenced { Err(TrainError::Fenced) } else { Ok(()) }
    }

    /// What became of checkpoints on their way to the object store; with `wait`, until all are there or that has passed.
    fn settle_stored(&mut self, wait: Option<Duration>) -> Result<(), TrainError> {
        let until = wait.map(|wait| Instant::now() + wait);
        loop {
            match self.checkpoints.sent(until.map(|until| until.saturating_duration_since(Instant::now()))) {
                None => return Ok(()),
                Some(Ok(sent)) => {
                    self.stored = Some(sent.steps);
                    if self.host.checkpointed(sent.steps, &sent.uri) == Beat::Fenced {
                        return Err(TrainError::Fenced);
                    }
                }
                Some(Err(PublishError::Fenced)) => return Err(TrainError::Fenced),
                Some(Err(PublishError::Failed(error))) => {
                    warn!(error, stored_steps = self.stored, "a checkpoint is on this machine alone");
                    self.note = Some(format!("the object store lacks the newest checkpoint: {error}"));
                    if until.is_none_or(|until| Instant::now() >= until) {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn publish_if_due(&mut self) -> Result<(), TrainError> {
        self.settle_publish(false)?;
        let config = self.trainer.config();
        let (at, steps) = self.last_publish;
        let due = if self.published.is_empty() && self.fresh {
            self.trainer.steps() >= config.first_publish_steps
        } else {
            at.elapsed() >= config.publish_every && self.trainer.steps() >= steps + config.publish_steps
        };
        if due && !self.publishing { self.publish() } else { Ok(()) }
    }

    fn publish(&mut self) -> Result<(), TrainError> {
        let network = match self.trainer.learner().export() {
            Ok(network) => network,
            Err(error) if error.kind() == LearnErrorKind::NotFinite => return self.mend(&error.to_string()),
            Err(error) => return Err(error.into()),
        };
        self.last_publish = (Instant::now(), self.trainer.steps());
        self.publishing = true;
        let rows: BTreeMap<String, Value> = self
            .taken
            .iter()
            .map(|(partition, (first, last))| (partition.to_string(), json!({"first": first, "last": last})))
            .collect();
        let metadata = json!({
            "tables": {"transitions": self.loaded.version},
            "rows": {"transitions": self.loaded.rows, "older": self.loaded.older, "log": rows},
            "seed": self.trainer.config().seed,
            "config": self.trainer.config(),
            "code": self.code,
        });
        let candidate = Candidate {
            network,
            steps: self.trainer.steps(),
            parent: self.parent,
            metrics: self.trainer.progress(),
            data_range: json!({"topic": self.trainer.config().system.topic(), "partitions": metadata["rows"]["log"]}),
            metadata,
        };
        self.host.publish(candidate);
        Ok(())
    }

    fn settle_publish(&mut self, wait: bool) -> Result<(), TrainError> {
        if !self.publishing {
            return Ok(());
        }
        match self.host.published(wait) {
            None => {}
            Some(Ok(version)) => {
                self.publishing = false;
                self.parent = Some(version);
                self.published.push(version.0);
                // Progress names the newest; the registry knows all.
                let surplus = self.published.len().saturating_sub(64);
                self.published.drain(..surplus);
                self.trainer.set_version(version);
                metrics::counter!(crate::metrics::PUBLISHED).increment(1);
                info!(%version, steps = self.trainer.steps(), "published");
            }
            Some(Err(PublishError::Fenced)) => return Err(TrainError::Fenced),
            Some(Err(PublishError::Failed(error))) => {
                // The registry is away: learning goes on, the next one is tried when it is due.
                self.publishing = false;
                self.publish_failures += 1;
                warn!(error, "could not publish");
                self.note = Some(format!("could not publish: {error}"));
            }
        }
        Ok(())
    }
}

/// How many partitions the topic has; waits until it exists.
async fn partitions(log: &Arc<dyn EventLog>, topic: &Topic, cancel: &CancellationToken) -> Result<u32, TrainError> {
    let mut said = false;
    loop {
        match log.topics().await {
            Ok(topics) => {
                if let Some((_, partitions)) = topics.into_iter().find(|(name, _)| name == topic) {
                    return Ok(partitions);
                }
            }
            Err(error) if error.kind() == LogErrorKind::Unavailable => {}
            Err(error) => return Err(error.into()),
        }
        if !said {
            info!(%topic, "waiting for the topic");
            said = true;
        }
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(0),
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
    }
}
