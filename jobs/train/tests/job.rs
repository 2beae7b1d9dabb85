//! Runs as jobs of a worker: with a real catalog and registry, and the small learner in plain Rust.

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
    mpsc,
};

use flywheel_catalog::{Catalog, Run, RunId, RunState, Runs};
use flywheel_events::BaseKey;
use flywheel_jobs::{Ended, Worker, WorkerConfig};
use flywheel_policy::{LearnError, Learner, Network, StepReport, TrainingBatch};
use flywheel_registry::Registry;
use flywheel_train::{KIND, Plan, TrainConfig, TrainError, TrainJob, TrainLearner, TrainParts, take_run};
use serde_json::json;
use support::{Linear, SHAPE, World, config, experience, game, store};
use tokio_util::sync::CancellationToken;

const TTL: std::time::Duration = std::time::Duration::from_secs(10);

/// A learner that stops before step `at`, says so, and goes on when told; its end is heard too.
struct Gated {
    inner: Linear,
    at: u64,
    steps: u64,
    arrived: mpsc::Sender<()>,
    go: mpsc::Receiver<()>,
    _ended: mpsc::Sender<()>,
}

impl Learner for Gated {
    fn step(&mut self, batch: &TrainingBatch) -> Result<StepReport, LearnError> {
        self.steps += 1;
        if self.steps == self.at {
            self.arrived.send(()).unwrap();
            self.go.recv().unwrap();
        }
        self.inner.step(batch)
    }

    fn steps(&self) -> u64 {
        self.inner.steps()
    }

    fn export(&self) -> Result<Network, LearnError> {
        self.inner.export()
    }

    fn save(&self, dir: &std::path::Path) -> Result<(), LearnError> {
        self.inner.save(dir)
    }

    fn load(&mut self, dir: &std::path::Path) -> Result<(), LearnError> {
        self.inner.load(dir)
    }
}

impl TrainLearner for Gated {
    fn learning_rate(&self) -> f64 {
        self.inner.learning_rate()
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.inner.set_learning_rate(learning_rate);
    }

    fn start_from(&mut self, network: &Network) -> Result<(), LearnError> {
        self.inner.start_from(network)
    }

    fn device(&self) -> &'static str {
        self.inner.device()
    }
}

/// The test's ends of a [`Gated`].
struct Gate {
    arrived: mpsc::Receiver<()>,
    go: mpsc::Sender<()>,
    ended: mpsc::Receiver<()>,
}

fn gated(config: &TrainConfig, at: u64) -> (Gated, Gate) {
    let ((arrive, arrived), (go, wait), (end, ended)) = (mpsc::channel(), mpsc::channel(), mpsc::channel());
    let inner = Linear::new(&config.dqn(SHAPE));
    (Gated { inner, at, steps: 0, arrived: arrive, go: wait, _ended: end }, Gate { arrived, go, ended })
}

struct Fixture {
    world: World,
    runs: Runs,
    now: Arc<AtomicI64>,
    registry: Arc<Registry>,
}

impl Fixture {
    fn new() -> Self {
        let world = World::new();
        let games: Vec<_> = (0..20).map(|i| game(&format!("g-{i}"), 25)).collect();
        world.handle().block_on(store(&world.sources.lake, &games));
        let now = Arc::new(AtomicI64::new(1_000_000));
        let clock = Arc::clone(&now);
        let catalog = world.handle().block_on(Catalog::open(&world.dir.path().join("catalog.sqlite"))).unwrap();
        let runs = catalog.runs_at(Arc::new(move || clock.load(Ordering::SeqCst)));
        let registry = Arc::new(Registry::open(Arc::new(object_store::memory::InMemory::new()), "", None));
        Self { world, runs, now, registry }
    }

    fn worker(&self, owner: &str) -> Worker {
        Worker::new(self.runs.clone(), WorkerConfig { owner: owner.to_owned(), ttl: TTL, ..WorkerConfig::default() })
    }

    fn parts(&self) -> TrainParts {
        TrainParts {
            sources: self.world.sources.clone(),
            registry: Arc::clone(&self.registry),
            checkpoints: self.world.dir.path().join("runs"),
            stored: None,
            experience,
            code: json!("abc"),
        }
    }

    fn job(
        &self,
        config: &TrainConfig,
    ) -> TrainJob<impl FnMut(&Run) -> Result<Plan<Linear>, TrainError> + Send + use<>> {
        let config = config.clone();
        TrainJob::new(self.parts(), move |_: &Run| {
            let (config, dqn) = (config.clone(), config.dqn(SHAPE));
            Ok(Plan { config, shape: SHAPE, learner: Box::new(move || Ok(Linear::new(&dqn))) })
        })
    }

    fn gated_job(
        &self,
        config: &TrainConfig,
        learner: Gated,
    ) -> TrainJob<impl FnMut(&Run) -> Result<Plan<Gated>, TrainError> + Send + use<>> {
        let (config, mut learner) = (config.clone(), Some(learner));
        TrainJob::new(self.parts(), move |_: &Run| {
            let learner = learner.take().unwrap();
            Ok(Plan { config: config.clone(), shape: SHAPE, learner: Box::new(move || Ok(learner)) })
        })
    }

    fn create(&self) -> RunId {
        self.wait(self.runs.create(KIND, &json!({"base_key": "tank-ai-dqn"}))).unwrap()
    }

    fn run(&self, id: &RunId) -> Run {
        self.wait(self.runs.get(id)).unwrap()
    }

    fn versions(&self) -> usize {
        self.wait(self.registry.list(&BaseKey::new("tank-ai-dqn").unwrap())).unwrap().len()
    }

    /// Names of all that lies in the folder of a run's checkpoints, and when it was written.
    fn kept(&self, id: &RunId) -> Vec<(String, std::time::SystemTime)> {
        let folder = std::fs::read_dir(self.world.dir.path().join("runs").join(id.as_str())).unwrap();
        let entries = folder.map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().modified().unwrap())
        });
        let mut entries: Vec<_> = entries.collect();
        entries.sort();
        entries
    }

    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.world.runtime.block_on(work)
    }
}

fn fixed(steps: u64) -> TrainConfig {
    TrainConfig { follow: false, max_steps: Some(steps), ..config() }
}

/// A checkpoint after each step, a first version after the fifteenth.
fn eager() -> TrainConfig {
    TrainConfig {
        checkpoint_every: std::time::Duration::ZERO,
        first_publish_steps: 15,
        publish_steps: 10,
        ..fixed(1_000_000)
    }
}

#[test]
fn a_run_of_a_worker_is_completed_with_its_checkpoint_version_and_progress_in_the_catalog() {
    let f = Fixture::new();
    let id = f.create();
    let ended = f.wait(f.worker("a").run(&id, &mut f.job(&fixed(60)), &CancellationToken::new())).unwrap();
    let run = f.run(&id);
    assert_eq!((ended, run.state, run.error), (Ended::Completed, RunState::Completed, None));
    assert_eq!((&run.progress["steps"], run.lease_owner), (&json!(60), None));
    let uri = run.checkpoint.unwrap();
    assert!(uri.starts_with("file:///") && uri.ends_with("step-000000000060"), "{uri}");
    assert!(f.versions() >= 1);
    let card = &f.wait(f.registry.list(&BaseKey::new("tank-ai-dqn").unwrap())).unwrap()[0];
    assert_eq!((&card.train_job_id, &card.metadata["code"]), (&id.to_string(), &json!("abc")));
}

#[test]
fn a_run_whose_lease_was_lost_keeps_and_publishes_nothing_from_then_on() {
    let f = Fixture::new();
    let id = f.create();
    let (learner, gate) = gated(&eager(), 15);
    let mut job = f.gated_job(&eager(), learner);
    let (worker, run) = (f.worker("zombie"), id.clone());
    let working = f.world.runtime.spawn(async move {
        let ended = worker.run(&run, &mut job, &CancellationToken::new()).await.unwrap();
        (ended, job)
    });
    gate.arrived.recv().unwrap();
    // Paused past its lease, as far as the catalog can see.
    let heir = loop {
        f.now.fetch_add(2 * TTL.as_millis() as i64, Ordering::SeqCst);
        if let Ok(lease) = f.wait(f.runs.lease(&id, "heir", TTL)) {
            break lease;
        }
    };
    let (ended, mut job) = f.wait(working).unwrap();
    let (kept, versions, checkpoint) = (f.kept(&id), f.versions(), f.run(&id).checkpoint);
    assert_eq!(ended, Ended::Lost);
    assert!(!kept.is_empty());
    gate.go.send(()).unwrap();
    f.wait(job.settled());
    assert!(gate.ended.recv().is_err(), "the thread has ended and its learner is gone");
    assert_eq!((f.kept(&id), f.versions()), (kept, versions));
    let run = f.run(&id);
    assert_eq!((run.fence, run.checkpoint, run.error), (heir.fence, checkpoint, None));
}

#[test]
fn a_job_that_is_dropped_writes_nothing_more_though_its_lease_still_holds() {
    let f = Fixture::new();
    let id = f.create();
    let (learner, gate) = gated(&eager(), 15);
    let mut job = f.gated_job(&eager(), learner);
    let (worker, run) = (f.worker("a"), id.clone());
    let working = f.world.runtime.spawn(async move {
        let _never = worker.run(&run, &mut job, &CancellationToken::new()).await;
    });
    gate.arrived.recv().unwrap();
    // The fence alone would let it go on: nobody else has leased the run.
    working.abort();
    assert!(f.wait(working).unwrap_err().is_cancelled());
    let (kept, versions, checkpoint) = (f.kept(&id), f.versions(), f.run(&id).checkpoint);
    assert!(!kept.is_empty());
    gate.go.send(()).unwrap();
    assert!(gate.ended.recv().is_err(), "the thread has ended");
    assert_eq!((f.kept(&id), f.versions(), f.run(&id).checkpoint), (kept, versions, checkpoint));
}

#[test]
fn what_may_pass_queues_a_run_again_and_what_will_not_fails_it() {
    let f = Fixture::new();
    let worker = f.worker("a");
    let cancel = CancellationToken::new();

    // A file lies where the checkpoints belong.
    let id = f.create();
    std::fs::create_dir_all(f.world.dir.path().join("runs")).unwrap();
    let blocked = f.world.dir.path().join("runs").join(id.as_str());
    std::fs::write(&blocked, "in the way").unwrap();
    assert_eq!(f.wait(worker.run(&id, &mut f.job(&fixed(20)), &cancel)).unwrap(), Ended::Interrupted);
    let run = f.run(&id);
    assert_eq!(run.state, RunState::Queued);
    assert!(run.error.is_some_and(|why| why.contains("making the checkpoint folder")));
    std::fs::remove_file(&blocked).unwrap();
    assert_eq!(f.wait(worker.run(&id, &mut f.job(&fixed(20)), &cancel)).unwrap(), Ended::Completed);

    let id = f.create();
    let plan = |_: &Run| Err::<Plan<Linear>, _>(TrainError::Config("`discount` must lie within 0..=1".to_owned()));
    assert_eq!(f.wait(worker.run(&id, &mut TrainJob::new(f.parts(), plan), &cancel)).unwrap(), Ended::Failed);
    let run = f.run(&id);
    assert_eq!(run.state, RunState::Failed);
    assert_eq!(run.error.as_deref(), Some("the settings make no sense: `discount` must lie within 0..=1"));

    // Rows of another shape than this run's.
    let id = f.create();
    let wide = |_: &Run| {
        let shape = flywheel_train::Shape { frame_len: 7, ..SHAPE };
        let dqn = fixed(20).dqn(shape);
        Ok(Plan { config: fixed(20), shape, learner: Box::new(move || Ok(Linear::new(&dqn))) })
    };
    assert_eq!(f.wait(worker.run(&id, &mut TrainJob::new(f.parts(), wide), &cancel)).unwrap(), Ended::Failed);
    assert!(f.run(&id).error.is_some_and(|why| why.contains("does not fit this run")));
}

#[test]
fn a_stop_is_heard_while_the_run_waits_for_its_topic() {
    let f = Fixture::new();
    let id = f.create();
    // No table, no topic: nothing to begin with.
    let elsewhere = World::new();
    let bare = flywheel_log::MemoryLog::new();
    let sources = flywheel_train::Sources { log: bare, lake: elsewhere.sources.lake.clone() };
    let parts = TrainParts { sources, ..f.parts() };
    let plan = |_: &Run| {
        let dqn = config().dqn(SHAPE);
        Ok(Plan { config: config(), shape: SHAPE, learner: Box::new(move || Ok(Linear::new(&dqn))) })
    };
    let (worker, run) = (f.worker("a"), id.clone());
    let working = f.world.runtime.spawn(async move {
        worker.run(&run, &mut TrainJob::new(parts, plan), &CancellationToken::new()).await.unwrap()
    });
    while f.run(&id).progress["waiting"] != "reading the table" {
        std::thread::yield_now();
    }
    f.wait(f.runs.request_stop(&id)).unwrap();
    assert_eq!(f.wait(working).unwrap(), Ended::Stopped);
    assert_eq!(f.run(&id).state, RunState::Stopped);
}

#[test]
fn of_two_trainers_without_a_run_id_one_makes_the_run_and_the_other_takes_it_when_it_is_free() {
    let f = Fixture::new();
    let (base, spec) = (BaseKey::new("tank-ai-dqn").unwrap(), json!({"base_key": "tank-ai-dqn"}));
    let cancel = CancellationToken::new();
    let first = f.wait(take_run(&f.runs, &f.worker("a"), None, &base, &spec, &cancel)).unwrap().unwrap();
    let (runs, worker, told) = (f.runs.clone(), f.worker("b"), cancel.clone());
    let second =
        f.world.runtime.spawn(async move { take_run(&runs, &worker, None, &base, &spec, &told).await.unwrap() });
    f.wait(f.runs.finish(&first, RunState::Queued, None)).unwrap();
    let second = f.wait(second).unwrap().unwrap();
    assert_eq!((second.run, second.owner.as_str(), second.fence), (first.run, "b", first.fence + 1));
}
