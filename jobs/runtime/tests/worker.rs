//! Jobs under leases: stop, resume, failure, and a lease that goes to somebody else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use flywheel_catalog::{Catalog, RunId, RunState, Runs};
use flywheel_jobs::{Ended, Job, JobError, Outcome, RunContext, Worker, WorkerConfig};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Counts to the spec's `to`, a checkpoint a step. Notes every step, so that one done twice shows.
struct Count {
    steps: Arc<std::sync::Mutex<Vec<u64>>>,
    /// Waits here before step `gate.0`, having said so, until it is let go; or until it is asked to stop.
    gate: Option<(u64, Arc<Notify>, Option<Arc<Notify>>)>,
    fail_at: Option<u64>,
    /// Whether another attempt gets past what it meets at `fail_at`.
    passes: bool,
}

#[async_trait]
impl Job for Count {
    fn kind(&self) -> &'static str {
        "count"
    }

    async fn run(&mut self, context: &RunContext) -> Result<Outcome, JobError> {
        let done: u64 = context.run().checkpoint.as_deref().map_or(0, |uri| uri.parse().unwrap());
        for step in done + 1..=context.run().spec["to"].as_u64().unwrap() {
            if let Some((at, arrived, go)) = &self.gate
                && *at == step
            {
                arrived.notify_one();
                match go {
                    Some(go) => go.notified().await,
                    None => context.stop().cancelled().await,
                }
            }
            if self.fail_at == Some(step) {
                let why = format!("step {step} has no paper");
                if self.passes {
                    self.fail_at = None;
                    return Err(JobError::interrupted(why));
                }
                return Err(JobError::failed(why));
            }
            self.steps.lock().unwrap().push(step);
            context.progress(json!({"step": step}));
            context.checkpoint(&step.to_string()).await?;
            if context.stop_requested() {
                return Ok(Outcome::Stopped);
            }
        }
        Ok(Outcome::Completed)
    }
}

struct Fixture {
    runs: Runs,
    now: Arc<AtomicI64>,
    id: RunId,
    steps: Arc<std::sync::Mutex<Vec<u64>>>,
    _dir: tempfile::TempDir,
}

async fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicI64::new(1_000_000));
    let clock = Arc::clone(&now);
    let catalog = Catalog::open(&dir.path().join("catalog.sqlite")).await.unwrap();
    let runs = catalog.runs_at(Arc::new(move || clock.load(Ordering::SeqCst)));
    let id = runs.create("count", &json!({"to": 6})).await.unwrap();
    Fixture { runs, now, id, steps: Arc::default(), _dir: dir }
}

impl Fixture {
    fn worker(&self, owner: &str) -> Worker {
        let ttl = Duration::from_secs(10);
        Worker::new(self.runs.clone(), WorkerConfig { owner: owner.to_owned(), ttl, idle: Duration::from_millis(5) })
    }

    fn job(&self) -> Count {
        Count { steps: Arc::clone(&self.steps), gate: None, fail_at: None, passes: false }
    }

    /// A job that waits before `step`, and the two ends of its gate.
    fn gated(&self, step: u64) -> (Count, Arc<Notify>, Arc<Notify>) {
        let (arrived, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        (Count { gate: Some((step, Arc::clone(&arrived), Some(Arc::clone(&go)))), ..self.job() }, arrived, go)
    }

    async fn state(&self) -> RunState {
        self.runs.get(&self.id).await.unwrap().state
    }
}

#[tokio::test]
async fn a_run_is_worked_on_to_its_end_and_its_progress_kept() {
    let f = fixture().await;
    let ended = f.worker("a").run(&f.id, &mut f.job(), &CancellationToken::new()).await.unwrap();
    let run = f.runs.get(&f.id).await.unwrap();
    assert_eq!((ended, run.state), (Ended::Completed, RunState::Completed));
    assert_eq!((run.checkpoint.as_deref(), run.progress), (Some("6"), json!({"step": 6})));
    assert_eq!(run.lease_owner, None);
}

#[tokio::test]
async fn a_stop_is_honoured_at_the_next_checkpoint_and_a_resume_counts_no_step_twice() {
    let f = fixture().await;
    let arrived = Arc::new(Notify::new());
    let mut job = Count { gate: Some((3, Arc::clone(&arrived), None)), ..f.job() };
    let (worker, id) = (f.worker("a"), f.id.clone());
    let working = tokio::spawn(async move { worker.run(&id, &mut job, &CancellationToken::new()).await });
    arrived.notified().await;
    assert_eq!(f.runs.request_stop(&f.id).await.unwrap(), RunState::Stopping);
    assert_eq!(working.await.unwrap().unwrap(), Ended::Stopped);
    assert_eq!(f.state().await, RunState::Stopped);
    assert_eq!(*f.steps.lock().unwrap(), [1, 2, 3]);

    f.runs.resume(&f.id).await.unwrap();
    let ended = f.worker("b").run(&f.id, &mut f.job(), &CancellationToken::new()).await.unwrap();
    assert_eq!(ended, Ended::Completed);
    assert_eq!(*f.steps.lock().unwrap(), [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn the_job_of_a_lost_lease_is_dropped_and_writes_nothing() {
    let f = fixture().await;
    let (mut job, arrived, _never) = f.gated(4);
    let (worker, id) = (f.worker("zombie"), f.id.clone());
    let working = tokio::spawn(async move { worker.run(&id, &mut job, &CancellationToken::new()).await });
    arrived.notified().await;
    // Paused past its lease, as far as the catalog can see.
    let heir = loop {
        f.now.fetch_add(20_000, Ordering::SeqCst);
        if let Ok(lease) = f.runs.lease(&f.id, "heir", Duration::from_secs(10)).await {
            break lease;
        }
    };
    assert_eq!(working.await.unwrap().unwrap(), Ended::Lost);
    let run = f.runs.get(&f.id).await.unwrap();
    assert_eq!((run.state, run.fence, run.lease_owner.as_deref()), (RunState::Running, heir.fence, Some("heir")));
    assert_eq!((run.checkpoint.as_deref(), run.error), (Some("3"), None));
}

#[tokio::test]
async fn an_ending_process_releases_its_run_for_the_next() {
    let f = fixture().await;
    let (mut job, arrived, go) = f.gated(2);
    let (worker, id, cancel) = (f.worker("a"), f.id.clone(), CancellationToken::new());
    let ending = cancel.clone();
    let working = tokio::spawn(async move { worker.run(&id, &mut job, &ending).await });
    arrived.notified().await;
    cancel.cancel();
    go.notify_one();
    assert_eq!(working.await.unwrap().unwrap(), Ended::Released);
    assert_eq!(f.state().await, RunState::Queued);
    let ended = f.worker("b").run(&f.id, &mut f.job(), &CancellationToken::new()).await.unwrap();
    assert_eq!((ended, f.steps.lock().unwrap().len()), (Ended::Completed, 6));
}

#[tokio::test]
async fn a_failure_is_written_to_the_run_and_a_resume_goes_on_from_its_checkpoint() {
    let f = fixture().await;
    let mut job = Count { fail_at: Some(5), ..f.job() };
    let ended = f.worker("a").run(&f.id, &mut job, &CancellationToken::new()).await.unwrap();
    let run = f.runs.get(&f.id).await.unwrap();
    assert_eq!(
        (ended, run.state, run.error.as_deref()),
        (Ended::Failed, RunState::Failed, Some("step 5 has no paper"))
    );
    f.runs.resume(&f.id).await.unwrap();
    f.worker("a").run(&f.id, &mut f.job(), &CancellationToken::new()).await.unwrap();
    assert_eq!(*f.steps.lock().unwrap(), [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn a_worker_serves_every_run_of_its_kind_until_it_is_cancelled() {
    struct Last(Count, Arc<AtomicUsize>, CancellationToken);

    #[async_trait]
    impl Job for Last {
        fn kind(&self) -> &'static str {
            self.0.kind()
        }

        async fn run(&mut self, context: &RunContext) -> Result<Outcome, JobError> {
            if self.1.fetch_add(1, Ordering::SeqCst) == 2 {
                self.2.cancel();
            }
            self.0.run(context).await
        }
    }

    let f = fixture().await;
    for _ in 0..2 {
        f.runs.create("count", &json!({"to": 1})).await.unwrap();
    }
    let other = f.runs.create("judge", &json!({})).await.unwrap();
    let cancel = CancellationToken::new();
    let mut job = Last(f.job(), Arc::default(), cancel.clone());
    f.worker("a").serve(&mut job, &cancel).await.unwrap();
    assert_eq!(job.1.load(Ordering::SeqCst), 3);
    assert_eq!(f.state().await, RunState::Completed);
    assert_eq!(f.runs.get(&other).await.unwrap().state, RunState::Queued);
}

#[tokio::test]
async fn an_interrupted_run_keeps_its_error_and_is_queued_for_another_attempt() {
    let f = fixture().await;
    let mut job = Count { fail_at: Some(4), passes: true, ..f.job() };
    let ended = f.worker("a").run(&f.id, &mut job, &CancellationToken::new()).await.unwrap();
    let run = f.runs.get(&f.id).await.unwrap();
    assert_eq!(
        (ended, run.state, run.error.as_deref(), run.checkpoint.as_deref()),
        (Ended::Interrupted, RunState::Queued, Some("step 4 has no paper"), Some("3"))
    );
    let ended = f.worker("b").run(&f.id, &mut job, &CancellationToken::new()).await.unwrap();
    assert_eq!((ended, f.runs.get(&f.id).await.unwrap().error), (Ended::Completed, None));
    assert_eq!(*f.steps.lock().unwrap(), [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn a_stop_asked_of_a_run_that_is_interrupted_keeps_it_stopped() {
    let f = fixture().await;
    let (job, arrived, go) = f.gated(4);
    let mut job = Count { fail_at: Some(4), passes: true, ..job };
    let (worker, id) = (f.worker("a"), f.id.clone());
    let working = tokio::spawn(async move { worker.run(&id, &mut job, &CancellationToken::new()).await });
    arrived.notified().await;
    f.runs.request_stop(&f.id).await.unwrap();
    go.notify_one();
    assert_eq!(working.await.unwrap().unwrap(), Ended::Stopped);
    let run = f.runs.get(&f.id).await.unwrap();
    assert_eq!((run.state, run.error.as_deref()), (RunState::Stopped, Some("step 4 has no paper")));
}

#[tokio::test]
async fn a_worker_takes_an_interrupted_run_up_again_by_itself() {
    struct UntilDone(Count, CancellationToken);

    #[async_trait]
    impl Job for UntilDone {
        fn kind(&self) -> &'static str {
            self.0.kind()
        }

        async fn run(&mut self, context: &RunContext) -> Result<Outcome, JobError> {
            let outcome = self.0.run(context).await?;
            self.1.cancel();
            Ok(outcome)
        }
    }

    let f = fixture().await;
    let cancel = CancellationToken::new();
    let mut job = UntilDone(Count { fail_at: Some(2), passes: true, ..f.job() }, cancel.clone());
    f.worker("a").serve(&mut job, &cancel).await.unwrap();
    assert_eq!(f.state().await, RunState::Completed);
    assert_eq!(*f.steps.lock().unwrap(), [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn a_lost_lease_ends_the_job_and_a_catalog_that_is_away_only_interrupts_it() {
    let f = fixture().await;
    let old = f.runs.lease(&f.id, "old", Duration::from_secs(1)).await.unwrap();
    f.now.fetch_add(5_000, Ordering::SeqCst);
    f.runs.lease(&f.id, "heir", Duration::from_secs(1)).await.unwrap();
    let fenced = f.runs.check(&old).await.unwrap_err();
    assert!(matches!(JobError::from(fenced), JobError::Lost));
    let unknown = f.runs.get(&"count-none".parse().unwrap()).await.unwrap_err();
    assert!(matches!(JobError::from(unknown), JobError::Failed(_)));
    let dir = tempfile::tempdir().unwrap();
    let away = Catalog::open(&dir.path().join("no/such/folder.sqlite")).await.unwrap_err();
    assert!(matches!(JobError::from(away), JobError::Interrupted(_)));
}
