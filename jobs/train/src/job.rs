//! A training run as a job: the lease is its worker's, learning has a thread of its own.

use std::{fmt, io, path::PathBuf, sync::Arc};

use flywheel_catalog::Run;
use flywheel_events::ModelRef;
use flywheel_jobs::{Job, JobError, Outcome, RunContext};
use flywheel_policy::LearnError;
use flywheel_registry::{CheckpointStore, Registry, RegistryError};
use serde_json::{Value, json};
use tokio::{
    runtime::Handle,
    sync::oneshot::{self, error::RecvError},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    Checkpoints, Ended, ExperienceFactory, Origin, RunHost, Session, Shape, Sources, TrainConfig, TrainError,
    TrainLearner, Trainer,
    host::{DropGuard, Dropped},
};

/// Kind of our runs in the catalog.
pub const KIND: &str = "train";

/// Who published the random network that everything begins with.
const BOOTSTRAP: &str = "bootstrap";

/// What runs work on.
#[derive(Debug, Clone)]
pub struct TrainParts {
    pub sources: Sources,
    pub registry: Arc<Registry>,
    /// Each run keeps its checkpoints in a folder of its own below this one ...
    pub checkpoints: PathBuf,
    /// ... and here too, where other machines find them.
    pub stored: Option<CheckpointStore>,
    pub experience: ExperienceFactory,
    /// Goes into every card.
    pub code: Value,
}

/// How one run learns.
pub struct Plan<L> {
    pub config: TrainConfig,
    pub shape: Shape,
    /// Makes the learner, on the thread that will use it.
    pub learner: Box<dyn FnOnce() -> Result<L, LearnError> + Send>,
}

/// Trains. A plan is asked of `plan` for each run; its error says that the run's settings make no sense.
///
/// The thread that learns is begun from the caller's, and so has its scheduling. When the job is dropped it hears
/// so at its next sign of life, and before whatever others would see; [`TrainJob::settled`] waits for it to end.
pub struct TrainJob<P> {
    parts: TrainParts,
    plan: P,
    /// Closes when the thread has ended.
    learning: Option<oneshot::Receiver<()>>,
}

impl<P> TrainJob<P> {
    pub fn new(parts: TrainParts, plan: P) -> Self {
        Self { parts, plan, learning: None }
    }

    /// Returns when no thread of this job learns any more.
    pub async fn settled(&mut self) {
        if let Some(learning) = &mut self.learning {
            let _it_only_closes: Result<(), RecvError> = learning.await;
            self.learning = None;
        }
    }
}

impl<P> fmt::Debug for TrainJob<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrainJob").field("parts", &self.parts).finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl<L, P> Job for TrainJob<P>
where
    L: TrainLearner + 'static,
    P: FnMut(&Run) -> Result<Plan<L>, TrainError> + Send,
{
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn run(&mut self, context: &RunContext) -> Result<Outcome, JobError> {
        context.progress(json!({"stage": "train", "waiting": "reading the table"}));
        // A thread whose job was dropped may still be about: it writes nothing, but it reads.
        self.settled().await;
        let plan = (self.plan)(context.run()).map_err(job_error)?;
        let run = &context.run().id;
        let gone = CancellationToken::new();
        let mut checkpoints =
            Checkpoints::open(self.parts.checkpoints.join(run.as_str())).map_err(|error| job_error(error.into()))?;
        if let Some(stored) = &self.parts.stored {
            let claimed = stored.claim(run.as_str(), context.lease().fence).await;
            let claimed = claimed.map_err(|error| {
                warn!(%error, "cannot take the run's checkpoints over");
                job_error(error.into())
            })?;
            checkpoints = checkpoints.and_in(claimed, Handle::current(), gone.clone());
        }
        let origin = origin(&self.parts, &plan.config).await.map_err(|error| job_error(error.into()))?;

        let (dropped, halt) = (Dropped::default(), context.stop().child_token());
        let _guard = DropGuard { dropped: dropped.clone(), halt: halt.clone(), gone };
        let (registry, base_key) = (Arc::clone(&self.parts.registry), plan.config.base_key.clone());
        let learning = Learning {
            handle: Handle::current(),
            host: RunHost::new(Handle::current(), context.clone(), registry, base_key, dropped),
            plan,
            checkpoints,
            sources: self.parts.sources.clone(),
            experience: self.parts.experience,
            origin,
            halt,
        };
        let (tell, told) = oneshot::channel();
        let (alive, learning_ends) = oneshot::channel();
        let thread = std::thread::Builder::new().name("learn".to_owned()).spawn(move || {
            // Last to go, whatever becomes of the rest.
            let _alive: oneshot::Sender<()> = alive;
            let _nobody_listens_if_dropped = tell.send(learning.run());
        });
        thread.map_err(|error: io::Error| JobError::interrupted(format!("starting the learning thread: {error}")))?;
        self.learning = Some(learning_ends);
        match told.await {
            Ok(outcome) => {
                self.settled().await;
                outcome
            }
            Err(_) => Err(JobError::interrupted("the learning thread panicked; its last words are in the log")),
        }
    }
}

/// What the thread needs.
struct Learning<L> {
    handle: Handle,
    host: RunHost,
    plan: Plan<L>,
    checkpoints: Checkpoints,
    sources: Sources,
    experience: ExperienceFactory,
    origin: Origin,
    halt: CancellationToken,
}

impl<L: TrainLearner> Learning<L> {
    fn run(self) -> Result<Outcome, JobError> {
        let Self { handle, host, plan, checkpoints, sources, experience, origin, halt } = self;
        let learner = (plan.learner)().map_err(|error| JobError::failed(in_full(error)))?;
        let trainer = Trainer::new(plan.config, plan.shape, learner, experience);
        // The readers of the log end with it.
        let mut tasks = JoinSet::new();
        let ended = Session::open(&handle, trainer, host, checkpoints, &sources, origin, (&mut tasks, &halt))
            .and_then(|mut session| session.run(&handle, |_| {}));
        match ended {
            Ok(Ended::Completed) => Ok(Outcome::Completed),
            Ok(Ended::Stopped) => Ok(Outcome::Stopped),
            Err(error) => Err(job_error(error)),
        }
    }
}

fn job_error(error: TrainError) -> JobError {
    match error {
        TrainError::Fenced => JobError::Lost,
        TrainError::Registry(error) if error.is_fenced() => JobError::Lost,
        error if error.is_final() => JobError::failed(in_full(error)),
        error => JobError::interrupted(in_full(error)),
    }
}

/// An error and its causes: in the catalog there is one line for all of it.
fn in_full(error: impl std::error::Error + Send + Sync + 'static) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

/// Where a fresh run begins: the champion, unless that is the random network that everything began with.
async fn origin(parts: &TrainParts, config: &TrainConfig) -> Result<Origin, RegistryError> {
    let mut origin = Origin { parent: None, code: parts.code.clone() };
    let champion = parts.registry.resolve(&config.base_key, "champion").await?;
    if let Some(champion) = champion {
        let model = ModelRef::new(config.base_key.clone(), champion.version);
        let network = match parts.registry.fetch(&model).await {
            Ok((card, network)) => Some(network).filter(|_| config.warm_start && card.train_job_id != BOOTSTRAP),
            Err(error) => {
                warn!(%model, %error, "cannot begin from the champion");
                None
            }
        };
        origin.parent = Some((champion.version, network));
    }
    Ok(origin)
}
