//! `flywheel-trainer`: one training run, its benchmark, and what there is to compute with.
//!
//! It alone links libtorch. Everything a run does is in the library; this file joins it with backends, catalog,
//! registry and the learner.

mod args;
mod bench;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use clap::Parser;
use flywheel_backends::{BackendUrls, Backends};
use flywheel_catalog::RunState;
use flywheel_events::{ModelRef, System};
use flywheel_game_api::Experience;
use flywheel_tank::TankExperience;
use flywheel_torch::TorchDqn;
use flywheel_train::{
    Checkpoints, Ended, Origin, RunHost, Session, Shape, Sources, TrainConfig, TrainError, Trainer, take_run,
};
use serde_json::json;
use tokio::{runtime::Handle, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::args::{Cli, Command, TrainArgs};

/// Who published the random network that everything begins with.
const BOOTSTRAP: &str = "bootstrap";

fn main() -> ExitCode {
    // Two TLS providers come in through dependencies; one of them must be named before the first use.
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cli = Cli::parse();
    let result = match &cli.command {
        Some(Command::Bench(args)) => bench::run(args).map(|()| ExitCode::SUCCESS),
        Some(Command::Doctor { json }) => doctor(*json),
        None => train(&cli.train),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn doctor(json: bool) -> anyhow::Result<ExitCode> {
    let facts = flywheel_torch::device_facts();
    if json {
        println!("{}", serde_json::to_string(&facts)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("device: {} (--device auto)", facts.auto);
    println!("gpus: {}", facts.cuda_devices);
    if let Some(why) = &facts.cuda_refused {
        println!("no gpu: {why}");
    }
    match &facts.libtorch {
        Some(path) => println!("libtorch: {}", path.display()),
        None => println!("libtorch: linked"),
    }
    println!("threads: {}", facts.threads);
    Ok(ExitCode::SUCCESS)
}

fn experience(system: System) -> Option<Box<dyn Experience>> {
    match system {
        System::Tank => Some(Box::new(TankExperience::default())),
        _ => None,
    }
}

fn train(args: &TrainArgs) -> anyhow::Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info,deltalake=warn".into()),
        )
        .init();
    // SAFETY: changes how this process is scheduled and nothing else; games and people come first.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, args.nice) } != 0 {
        warn!(nice = args.nice, "cannot lower the priority of this process");
    }
    flywheel_train::metrics::describe();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .thread_name("trainer-io")
        .build()
        .context("starting the runtime")?;
    let cancel = CancellationToken::new();
    runtime.spawn(signals(cancel.clone()));
    let outcome = runtime.block_on(prepare(args, &cancel));
    let code = match outcome? {
        // Learning runs here, on the main thread; the runtime's thread does the waiting.
        Some(prepared) => prepared.run(runtime.handle(), &cancel)?,
        None => ExitCode::SUCCESS,
    };
    cancel.cancel();
    runtime.shutdown_timeout(Duration::from_secs(2));
    Ok(code)
}

/// First SIGTERM or SIGINT: checkpoint and end. Second: end at once; the last checkpoint is whole.
async fn signals(cancel: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return;
    };
    for first in [true, false] {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        if first {
            info!("stopping at a checkpoint; once more ends at once");
            cancel.cancel();
        } else {
            std::process::exit(130);
        }
    }
}

/// A leased run and what it works on.
struct Prepared {
    backends: Backends,
    host: RunHost,
    config: TrainConfig,
    shape: Shape,
    checkpoints: Checkpoints,
    origin: Origin,
}

async fn prepare(args: &TrainArgs, cancel: &CancellationToken) -> anyhow::Result<Option<Prepared>> {
    let given = args.config(TrainConfig::default());
    let shape = checked(&given)?;
    // The device first: a wrong one should be said before anything is waited for.
    flywheel_torch::open_device(given.device)?;
    let urls = BackendUrls { log: args.log.clone(), data: args.data.clone() };
    let backends = Backends::connect(&urls).await?;
    let runs = backends.catalog.runs();
    let spec = json!({"base_key": given.base_key, "config": given});
    let owner = format!("trainer-{}", std::process::id());
    let ttl = Duration::from_secs(args.lease_seconds);
    let taken = take_run(&runs, args.run.as_deref(), &given.base_key, &spec, &owner, ttl, cancel).await?;
    let Some((lease, spec)) = taken else { return Ok(None) };
    // What the run was made with, and this command line's flags over it.
    let made_with = serde_json::from_value(spec["config"].clone()).unwrap_or_default();
    let config = args.config(made_with);
    let run = lease.run.clone();
    let host = RunHost::start(
        &Handle::current(),
        runs,
        lease,
        backends.registry.clone(),
        config.base_key.clone(),
        cancel.clone(),
    );
    info!(%run, base_key = %config.base_key, "leased the run");
    let rest = async {
        checked(&config)?;
        let checkpoints = Checkpoints::open(args.data.join("runs").join(run.as_str()))?;
        Ok::<_, anyhow::Error>((checkpoints, origin(&backends, &config).await?))
    };
    match rest.await {
        Ok((checkpoints, origin)) => Ok(Some(Prepared { backends, host, config, shape, checkpoints, origin })),
        Err(error) => {
            host.finish(RunState::Failed, Some(&format!("{error:#}"))).await?;
            Err(error)
        }
    }
}

fn checked(config: &TrainConfig) -> anyhow::Result<Shape> {
    let Some(shape) = Shape::of(config.system) else {
        bail!("no learner plays `{}` yet; use --system tank", config.system);
    };
    let problems = config.problems(shape);
    if !problems.is_empty() {
        bail!("the settings make no sense: {}", problems.join("; "));
    }
    Ok(shape)
}

/// Where a fresh run begins: the champion, unless that is the random network that everything began with.
async fn origin(backends: &Backends, config: &TrainConfig) -> anyhow::Result<Origin> {
    let code = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "commit": Some(env!("FLYWHEEL_COMMIT")).filter(|commit| !commit.is_empty()),
    });
    let mut origin = Origin { parent: None, code };
    let champion = backends.registry.resolve(&config.base_key, "champion").await?;
    if let Some(champion) = champion {
        let model = ModelRef::new(config.base_key.clone(), champion.version);
        let network = match backends.registry.fetch(&model).await {
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

impl Prepared {
    fn run(self, handle: &Handle, cancel: &CancellationToken) -> anyhow::Result<ExitCode> {
        let Self { backends, mut host, config, shape, checkpoints, origin } = self;
        let sources = Sources { log: backends.log.clone(), lake: backends.lake.clone() };
        let mut tasks = JoinSet::new();
        let learner = match TorchDqn::new(config.dqn(shape)) {
            Ok(learner) => learner,
            Err(error) => {
                handle.block_on(host.finish(RunState::Failed, Some(&error.to_string())))?;
                return Err(error.into());
            }
        };
        info!(device = learner.device(), network = %learner.config().network, "learning");
        let trainer = Trainer::new(config, shape, learner, experience);
        let outcome = Session::open(handle, trainer, &mut host, checkpoints, &sources, origin, (&mut tasks, cancel))
            .and_then(|mut session| session.run(handle, |_| {}));
        tasks.abort_all();
        // A run that was asked to stop stays stopped; one whose process was told to end waits for the next.
        let (state, error) = match &outcome {
            Ok(Ended::Completed) => (RunState::Completed, None),
            Ok(Ended::Stopped) if host.stop_requested() => (RunState::Stopped, None),
            Ok(Ended::Stopped) => (RunState::Queued, None),
            Err(TrainError::Fenced) => {
                error!("another process has taken this run over; nothing more was written");
                return Ok(ExitCode::from(6));
            }
            Err(error @ (TrainError::Diverged(_) | TrainError::Config(_) | TrainError::Row(_))) => {
                (RunState::Failed, Some(error.to_string()))
            }
            Err(error) => (RunState::Queued, Some(error.to_string())),
        };
        handle.block_on(host.finish(state, error.as_deref())).context("ending the run")?;
        outcome.map(|ended| info!(?ended, "the run has ended")).context("the training run")?;
        Ok(ExitCode::SUCCESS)
    }
}
