//! `flywheel-trainer`: one training run, its benchmark, and what there is to compute with.
//!
//! It alone links libtorch. Everything a run does is in the library; this file joins it with backends, catalog,
//! registry and the learner.

mod args;
mod bench;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use clap::Parser;
use flywheel_backends::{BackendUrls, Backends, CatalogConfig};
use flywheel_catalog::Run;
use flywheel_events::System;
use flywheel_game_api::Experience;
use flywheel_jobs::{Ended, Worker, WorkerConfig};
use flywheel_tank::TankExperience;
use flywheel_torch::TorchDqn;
use flywheel_train::{Plan, Shape, Sources, TrainConfig, TrainError, TrainJob, TrainParts, take_run};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::args::{Cli, Command, TrainArgs};

/// Longest wait for the learning thread of a run that was taken over.
const SETTLE: Duration = Duration::from_secs(30);

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
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| "info,deltalake=warn,buoyant_kernel=warn".into()),
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
    let code = runtime.block_on(work(args, &cancel))?;
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

/// Takes the run and works on it until it ends here.
async fn work(args: &TrainArgs, cancel: &CancellationToken) -> anyhow::Result<ExitCode> {
    let given = args.config(TrainConfig::default());
    checked(&given)?;
    // The device first: a wrong one should be said before anything is waited for.
    flywheel_torch::open_device(given.device)?;
    let urls = BackendUrls {
        log: args.log.clone(),
        data: args.data.clone(),
        store: args.store(),
        catalog: CatalogConfig { url: args.catalog.clone() },
    };
    let backends = if args.attach { Backends::attach(&urls).await? } else { Backends::connect(&urls).await? };
    let runs = backends.catalog.runs();
    let worker = Worker::new(
        runs.clone(),
        WorkerConfig {
            owner: format!("trainer-{}", std::process::id()),
            ttl: Duration::from_secs(args.lease_seconds),
            ..WorkerConfig::default()
        },
    );
    let spec = json!({"base_key": given.base_key, "config": given});
    let taken = take_run(&runs, &worker, args.run.as_deref(), &given.base_key, &spec, cancel).await?;
    let Some(lease) = taken else { return Ok(ExitCode::SUCCESS) };
    let run = lease.run.clone();
    let parts = TrainParts {
        sources: Sources { log: backends.log, lake: backends.lake },
        registry: backends.registry,
        checkpoints: args.data.join("runs"),
        stored: backends.checkpoints,
        experience,
        code: json!({
            "version": env!("CARGO_PKG_VERSION"),
            "commit": Some(env!("FLYWHEEL_COMMIT")).filter(|commit| !commit.is_empty()),
        }),
    };
    let mut job = TrainJob::new(parts, |run: &Run| plan(args, run));
    match worker.work(lease, &mut job, cancel).await.context("ending the run")? {
        Ended::Completed | Ended::Stopped | Ended::Released => Ok(ExitCode::SUCCESS),
        Ended::Failed | Ended::Interrupted => {
            let why = runs.get(&run).await.ok().and_then(|run| run.error);
            bail!("the training run: {}", why.as_deref().unwrap_or("another process has gone on with it since"))
        }
        Ended::Lost => {
            // The process must not end under the feet of a thread that computes.
            if tokio::time::timeout(SETTLE, job.settled()).await.is_err() {
                warn!("the learning thread has not ended in {SETTLE:?}");
            }
            error!("another process has taken this run over; nothing more was written");
            Ok(ExitCode::from(6))
        }
    }
}

/// What the run was made with, and this command line's flags over it.
fn plan(args: &TrainArgs, run: &Run) -> Result<Plan<TorchDqn>, TrainError> {
    let made_with = serde_json::from_value(run.spec["config"].clone()).unwrap_or_default();
    let config = args.config(made_with);
    let shape = checked(&config)?;
    info!(run = %run.id, base_key = %config.base_key, "leased the run");
    let dqn = config.dqn(shape);
    let learner = move || {
        let learner = TorchDqn::new(dqn)?;
        info!(device = learner.device(), network = %learner.config().network, "learning");
        Ok(learner)
    };
    Ok(Plan { config, shape, learner: Box::new(learner) })
}

fn checked(config: &TrainConfig) -> Result<Shape, TrainError> {
    let Some(shape) = Shape::of(config.system) else {
        return Err(TrainError::Config(format!("no learner plays `{}` yet; use --system tank", config.system)));
    };
    let problems = config.problems(shape);
    if problems.is_empty() { Ok(shape) } else { Err(TrainError::Config(problems.join("; "))) }
}
