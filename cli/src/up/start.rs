//! Starts every part, from the stores to play.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Context;
use flywheel_agent::{Agent, AgentConfig, Swap};
use flywheel_backends::Backends;
use flywheel_catalog::{RunFilter, RunId, RunState};
use flywheel_control::{ControlConfig, HistoryKeeper};
use flywheel_events::{BaseKey, System};
use flywheel_flows::{Assemble, AssembleConfig, Land, LandConfig};
use flywheel_ingest::{Door, KeyRing, KeyRule, RingConfig, SpoolConfig};
use flywheel_judge::{Judge, JudgeConfig};
use flywheel_kit::{Emitter, EmitterConfig, ServeConfig};
use flywheel_lake::CompactOptions;
use flywheel_log::{Reserve, ReserveLimits};
use flywheel_maintain::{Archive, Maintain, MaintainConfig, StreamArchive, Trim, TrimConfig};
use flywheel_policy::{LivePolicy, NetworkSpec};
use flywheel_registry::Registry;
use flywheel_tank::{ACTIONS, Map, OBSERVATION_LEN, script::Script};
use flywheel_tank_server::{
    Farm, FarmConfig, GameBackend, GameBackendConfig, ModelStore, ScriptedClient, ScriptedClientConfig, ScriptedStats,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    Options, bootstrap,
    cold::Cold,
    keys::CatalogKeys,
    live::{self, LiveResults},
    trainer::{self, TrainerCommand, TrainerState},
    view::{Parts, View},
};
use crate::{
    commands::doctor::volume,
    config::Config,
    data::DataDir,
    exit::{Code, Failure},
    sharing::sharing,
    systems::{TankArena, archiving, check_store, consumers, experience, not_opened, urls},
};

/// Between two looks at what the log may lose.
const TRIM_EVERY: Duration = Duration::from_secs(60);
/// The same, where each makes objects of an archive: fewer and larger ones.
const TRIM_ARCHIVED_EVERY: Duration = Duration::from_secs(600);

/// Told to stop one after the other, so that each drains into the next.
#[derive(Debug, Clone, Default)]
pub struct Stops {
    pub play: CancellationToken,
    pub learn: CancellationToken,
    pub flows: CancellationToken,
    pub rest: CancellationToken,
}

/// Everything that runs.
pub struct Running {
    pub page: SocketAddr,
    pub store: SocketAddr,
    pub view: Arc<View>,
    pub stops: Stops,
    pub play: JoinSet<()>,
    pub learn: JoinSet<()>,
    pub flows: JoinSet<()>,
    pub rest: JoinSet<()>,
    pub failed: watch::Receiver<Option<String>>,
}

impl Running {
    /// Waits until a part gives up that the loop cannot do without.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }
}

/// Starts everything.
pub async fn start(
    config: &Config,
    options: &Options,
    data: &DataDir,
    started: Instant,
    started_ms: i64,
) -> Result<Running, Failure> {
    let prometheus = flywheel_control::install_metrics().context("installing the metrics")?;
    flywheel_judge::describe_metrics();
    flywheel_kit::metrics::describe();
    // The page's port first: nothing is opened or played if it is taken.
    let page = flywheel_kit::bind(SocketAddr::from((config.up.listen, config.up.port))).await.map_err(|error| {
        Failure::new(Code::Conflict, error).hint("choose another with --port P; 0 takes any free one")
    })?;
    check_store(config).await?;
    let reserve = reserve(config)?;
    let (backends, embedded) = Backends::open_within(&urls(config), reserve.clone()).await.map_err(not_opened)?;
    let cold = Cold::open(config).await?;
    let stops = Stops::default();
    let mut rest = JoinSet::new();
    rest.spawn(embedded.serve(stops.rest.clone()).context("serving the log to the trainer")?);
    let partitions = config.stream.partitions;
    let topic = crate::topic::create(backends.log.as_ref(), partitions).await?;
    // A first champion, so that everybody has something to start from.
    let base = BaseKey::new(&config.agent.base_key).context("agent.base_key")?;
    let spec = NetworkSpec::new(OBSERVATION_LEN, config.train.hidden(), ACTIONS);
    let before = backends.registry.list_newest(&base, 1).await?.first().map_or(0, |card| card.version.0);
    let champion = bootstrap::champion(&backends.registry, &base, &spec, config.up.seed).await?;
    let history = HistoryKeeper::default();
    let live_policy = Arc::new(LivePolicy::new(Arc::new(champion)));

    let (fail, failed) = watch::channel(None);

    // New events are refused while the disk is nearly full; what the flows append to keep their leases is not.
    let log_for_events = backends.log_for_events(reserve.as_ref());
    let emitter = Emitter::start(
        Arc::clone(&log_for_events),
        EmitterConfig {
            partitions,
            linger: config.stream.linger,
            queue_bytes: config.stream.queue_bytes,
            spill_bytes_max: config.stream.spill_bytes,
            ack_journal: options.ack_journal.clone(),
            ..EmitterConfig::new(data.spill())
        },
    )
    .map_err(|error| Failure::new(Code::Failure, error))?;

    // Land.
    let mut flows = JoinSet::new();
    let mut land =
        Land::new(Arc::clone(&backends.log), backends.lake.clone(), LandConfig::new(topic.clone(), partitions));
    let mut assemble = Assemble::new(
        Arc::clone(&backends.log),
        backends.lake.clone(),
        experience,
        AssembleConfig::new(topic.clone(), partitions),
    );
    if urls(config).has_servers() {
        // Others may land beside this loop.
        let sharing = sharing(config, None);
        (land, assemble) = (land.shared(sharing.clone()), assemble.shared(sharing));
    }
    let (land_stats, assemble_stats) = (land.stats(), assemble.stats());
    if options.lands {
        let (stop, failing) = (stops.flows.clone(), fail.clone());
        flows.spawn(async move {
            if let Err(error) = land.run(stop).await {
                failing.send_replace(Some(format!("landing events: {error}")));
            }
        });
        let (stop, fail) = (stops.flows.clone(), fail.clone());
        flows.spawn(async move {
            if let Err(error) = assemble.run(stop).await {
                fail.send_replace(Some(format!("assembling games: {error}")));
            }
        });
    }
    {
        let maintain = Maintain::new(
            backends.lake.clone(),
            MaintainConfig {
                interval: config.up.compact_every,
                compact: CompactOptions::default(),
                ..MaintainConfig::default()
            },
        );
        let maintain = match &reserve {
            Some(reserve) => maintain.sparing(Arc::clone(reserve)),
            None => maintain,
        };
        let stop = stops.rest.clone();
        rest.spawn(async move { maintain.run(stop).await });
        let trim = Trim::new(
            Arc::clone(&backends.log),
            backends.lake.clone(),
            TrimConfig {
                topics: vec![(topic.clone(), partitions)],
                consumers,
                keep: config.stream.keep,
                interval: if cold.is_some() { TRIM_ARCHIVED_EVERY } else { TRIM_EVERY },
            },
        );
        let trim = match &cold {
            Some(cold) if config.archive.stream => {
                trim.behind(StreamArchive::new(cold.store(), config.archive.segment_bytes))
            }
            _ => trim,
        };
        let stop = stops.rest.clone();
        rest.spawn(async move { trim.run(stop).await });
        if let Some(cold) = &cold {
            let archive = Archive::new(&backends.lake, cold.store(), archiving(config));
            let stop = stops.rest.clone();
            rest.spawn(async move { archive.run(stop).await });
            rest.spawn(Arc::clone(cold).keep_watch(stops.rest.clone()));
        }
    }
    {
        // Kills are what leaves half-published versions, and starts are what follows kills.
        let registry = Arc::clone(&backends.registry);
        rest.spawn(async move {
            if let Err(error) = registry.gc(Registry::GC_AGE).await {
                tracing::warn!(%error, "cannot collect what killed publishers left");
            }
        });
    }

    // Judge.
    let judge = Judge::new(
        Arc::clone(&backends.registry),
        backends.lake.clone(),
        Arc::new(TankArena::new(config.play.tank.clone())),
        JudgeConfig {
            system: System::Tank,
            base_key: base.clone(),
            seed: config.up.seed,
            trial: config.judge.trial.clone(),
            live: config.judge.live,
        },
    );
    if let Err(error) = judge.recall().await {
        tracing::warn!(%error, "what earlier judges found cannot be read; the chart begins anew");
    }
    let mut learn = JoinSet::new();
    let (live_games, live_inbox) = mpsc::channel(1024);
    {
        let (judge, stop, fail) = (judge.clone(), stops.learn.clone(), fail.clone());
        learn.spawn(async move {
            if let Err(error) = judge.run(live_inbox, stop).await {
                fail.send_replace(Some(format!("judging: {error}")));
            }
        });
    }
    let live_results = Arc::new(LiveResults::default());
    for partition in 0..partitions {
        let (log, results) = (Arc::clone(&backends.log), Arc::clone(&live_results));
        learn.spawn(live::follow(log, topic.clone(), partition, results, live_games.clone(), stops.learn.clone()));
    }

    // Play.
    let mut play = JoinSet::new();
    let backend = game_backend(config, &base, &emitter, &stops.play).await?;
    let (store_listener, store) = free_or(config.play.store_listen).await?;
    {
        let app = ModelStore::open(Arc::clone(&backends.registry)).await?.router();
        let stop = stops.play.clone();
        play.spawn(async move {
            if let Err(error) = flywheel_kit::serve(store_listener, app, ServeConfig::default(), stop).await {
                tracing::warn!(%error, "the model store stopped");
            }
        });
    }
    let agent = Agent::start(
        AgentConfig {
            gbe_url: format!("http://{}", backend.local_addr()),
            model_store_url: config.agent.online_learning.then(|| format!("http://{store}")),
            poll_interval: Duration::from_millis(250),
            epsilon_start: config.agent.epsilon,
            epsilon_min: config.agent.epsilon,
            online_learning: config.agent.online_learning,
            model_base_key: base.to_string(),
            swap: if config.agent.swap == "tick" { Swap::Tick } else { Swap::Episode },
            tick_ms: config.play.tick_ms as u32,
            seed: Some(config.up.seed),
            send_debug: false,
            ..AgentConfig::default()
        },
        Some(Arc::clone(&backends.registry)),
        Some(Arc::clone(&live_policy)),
        Some(emitter.clone()),
        stops.play.clone(),
    )
    .map_err(|error| Failure::new(Code::Failure, error))?;
    let scripted = Arc::new(ScriptedStats::default());
    for index in 0..config.up.sessions {
        let name = &config.play.opponents[index % config.play.opponents.len()];
        let client = ScriptedClient::new(
            ScriptedClientConfig {
                game_backend: backend.local_addr(),
                script: name
                    .parse::<Script>()
                    .map_err(|_| Failure::msg(Code::Config, format!("there is no opponent `{name}`")))?,
                maps: Map::shipped().iter().map(|map| map.name().to_owned()).collect(),
                first_map: index,
                seed: config.up.seed.wrapping_mul(1000).wrapping_add(index as u64),
                pause: Duration::from_millis(200),
                games: None,
            },
            Arc::clone(&scripted),
        );
        play.spawn(client.run(stops.play.clone()));
    }
    let farm = (config.farm.threads > 0)
        .then(|| {
            Farm::start(
                FarmConfig {
                    threads: config.farm.threads,
                    ticks_per_second: config.farm.ticks_per_second as f64,
                    tank: config.play.tank.clone(),
                    tick_ms: config.play.tick_ms as u32,
                    seed: config.up.seed,
                    record_play: config.farm.record_play,
                    ..FarmConfig::default()
                },
                Arc::clone(&live_policy),
                emitter.clone(),
                stops.play.clone(),
            )
        })
        .transpose()
        .map_err(|error| Failure::new(Code::Failure, error))?
        .map(Arc::new);

    // Learn.
    let run = current_run(&backends, config, &base).await?;
    let trainer_state = Arc::new(Mutex::new(TrainerState::default()));
    if config.train.enabled {
        match trainer::find_program(&config.train) {
            Ok(program) => {
                let command = trainer_command(program, config, data, &base, &run);
                learn.spawn(trainer::keep_running(command, Arc::clone(&trainer_state), stops.learn.clone()));
            }
            Err(why) => trainer_state.lock().expect("nothing panics while it holds the state").down = Some(why),
        }
    }

    // Only events of systems that are landed here are taken.
    let taken = config.ingest.doors(vec![System::Tank], partitions);
    let spool = SpoolConfig {
        dir: data.spool(),
        bytes: config.ingest.spool_bytes,
        reserve: Some(Arc::new(watching(config, [config.data.clone()]))),
    };
    let rule = RingConfig { rule: config.ingest.key_rule(), ..RingConfig::default() };
    let keys = KeyRing::new(Arc::new(CatalogKeys(backends.catalog.source_keys())), rule);
    keys.refresh().await.map_err(|why| Failure::msg(Code::Failure, format!("reading the keys of sources: {why}")))?;
    rest.spawn(Arc::clone(&keys).keep(stops.rest.clone()));
    let door = Door::guarded(log_for_events, taken, stops.play.clone(), &spool, keys)
        .with_context(|| format!("opening the spool of the doors in `{}`", spool.dir.display()))?;
    let doors = flywheel_ingest::router(Arc::clone(&door));

    let view = Arc::new(View::new(Parts {
        config: config.clone(),
        run_for: options.run_for,
        versions_before: before,
        started,
        started_ms,
        base,
        backends,
        emitter,
        door,
        backend,
        agent,
        farm,
        land: land_stats,
        assemble: assemble_stats,
        judge,
        live: live_results,
        run,
        trainer: trainer_state,
        history,
        reserve,
        cold,
        lands: options.lands,
    }));
    rest.spawn(Arc::clone(&view).keep_fresh(stops.rest.clone()));
    let address = page.local_addr().context("the page's address")?;
    let control = ControlConfig {
        doors,
        keyed_doors: config.ingest.key_rule() == KeyRule::Required,
        hosts: config.up.hosts.clone(),
        ..ControlConfig::default()
    };
    let app = flywheel_control::router(Arc::clone(&view) as _, prometheus, control, stops.rest.clone());
    let stop = stops.rest.clone();
    rest.spawn(async move {
        if let Err(error) = flywheel_kit::serve(page, app, ServeConfig::default(), stop).await {
            tracing::warn!(%error, "the page stopped");
        }
    });
    Ok(Running { page: address, store, view, stops, play, learn, flows, rest, failed })
}

/// What new events may not take of the disks that log and tables lie on; nothing if both are elsewhere.
fn reserve(config: &Config) -> Result<Option<Arc<Reserve>>, Failure> {
    let mut folders = Vec::new();
    if config.stream.url.starts_with("embedded:") {
        folders.push(urls(config).embedded_log().map_err(|error| Failure::new(Code::Config, error))?);
    }
    if config.store.is_local() {
        folders.push(config.data.clone());
    }
    if folders.is_empty() {
        return Ok(None);
    }
    Ok(Some(Arc::new(watching(config, folders))))
}

fn watching(config: &Config, folders: impl IntoIterator<Item = std::path::PathBuf>) -> Reserve {
    folders.into_iter().fold(Reserve::new(reserve_limits(config)), |reserve, folder| {
        reserve.watching(folder.display().to_string(), move || volume(&folder))
    })
}

/// What new events may not take of a volume.
pub fn reserve_limits(config: &Config) -> ReserveLimits {
    ReserveLimits { share: config.stream.reserve_share, bytes: config.stream.reserve_bytes }
}

async fn game_backend(
    config: &Config,
    base: &BaseKey,
    emitter: &Emitter,
    stop: &CancellationToken,
) -> Result<Arc<GameBackend>, Failure> {
    let (listener, listen) = free_or(config.play.listen).await?;
    // Only its number is needed: the game backend binds for itself.
    drop(listener);
    let settings = GameBackendConfig {
        listen,
        tick_ms: config.play.tick_ms as u32,
        tank: config.play.tank.clone(),
        model_base_key: base.to_string(),
        seed: Some(config.up.seed),
        ..GameBackendConfig::default()
    };
    match GameBackend::start(settings.clone(), emitter.clone(), stop.clone()).await {
        Ok(backend) => Ok(backend),
        // Another loop that starts at the same time was faster.
        Err(_) if listen.port() != 0 => {
            let anywhere = GameBackendConfig { listen: SocketAddr::new(listen.ip(), 0), ..settings };
            GameBackend::start(anywhere, emitter.clone(), stop.clone())
                .await
                .map_err(|error| Failure::new(Code::Conflict, error))
        }
        Err(error) => Err(Failure::new(Code::Conflict, error)),
    }
}

/// The wished address if it is free, else any free port of the same host: two loops can run side by side.
async fn free_or(wished: SocketAddr) -> Result<(TcpListener, SocketAddr), Failure> {
    let listener = match flywheel_kit::bind(wished).await {
        Ok(listener) => listener,
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            flywheel_kit::bind(SocketAddr::new(wished.ip(), 0))
                .await
                .map_err(|error| Failure::new(Code::Conflict, error))?
        }
        Err(error) => return Err(Failure::new(Code::Conflict, error)),
    };
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// The training run of this folder: the newest that can go on, else a new one.
async fn current_run(backends: &Backends, config: &Config, base: &BaseKey) -> Result<RunId, Failure> {
    let runs = backends.catalog.runs();
    let all = runs.list(RunFilter { kind: Some("train".to_owned()), ..RunFilter::default() }).await?;
    let mine = all.into_iter().find(|run| run.spec["base_key"] == base.as_str() && run.state != RunState::Completed);
    if let Some(run) = mine {
        // A stop by hand holds for the loop it was said to; `up` starts learning again.
        if matches!(run.state, RunState::Stopped | RunState::Failed) {
            runs.resume(&run.id).await?;
        }
        return Ok(run.id);
    }
    let spec = serde_json::json!({"base_key": base, "seed": config.up.seed, "options": config.train.options});
    Ok(runs.create("train", &spec).await?)
}

fn trainer_command(
    program: std::path::PathBuf,
    config: &Config,
    data: &DataDir,
    base: &BaseKey,
    run: &RunId,
) -> TrainerCommand {
    let mut arguments: Vec<String> = [
        ("data", data.root().display().to_string()),
        ("log", config.stream.url.clone()),
        ("catalog", config.catalog.url.clone()),
        ("base-key", base.to_string()),
        ("run", run.to_string()),
        ("seed", config.up.seed.to_string()),
        ("device", config.train.device.clone()),
    ]
    .into_iter()
    .chain(config.store.flags())
    .chain(config.train.options.iter().map(|(key, value)| (key.as_str(), value.clone())))
    .flat_map(|(key, value)| [format!("--{}", key.replace('_', "-")), value])
    .collect();
    arguments.push("--attach".to_owned());
    if !config.train.options.contains_key("hidden") {
        let hidden: Vec<_> = config.train.hidden().iter().map(usize::to_string).collect();
        arguments.extend(["--hidden".to_owned(), hidden.join(",")]);
    }
    TrainerCommand { program, arguments, log: data.root().join("trainer.log") }
}
