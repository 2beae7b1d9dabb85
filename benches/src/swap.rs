//! `flywheel bench swap`: from the promotion of a version to the first decision by it.
//!
//! 100 versions are published and promoted, ten a second, on the local disk, every write flushed. A follower watches
//! `champion` as the servers do: fetch, verify, warm, exchange. Four threads decide 1,000 times a second, each for
//! four seats; every answer is compared, bit for bit, with what the version that it names answers. The clock starts
//! before the promotion is written. `hint_…` is the same with promotions by another registry, as of another process,
//! which this one hears of through the log.

use std::{
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use flywheel_events::{BaseKey, ModelRef, ModelVersion};
use flywheel_lake::DurableFileSystem;
use flywheel_log::{EventLog, MemoryLog, Topic};
use flywheel_policy::{LivePolicy, Network, NetworkSpec, Policy, Scratch, VersionedNetwork};
use flywheel_registry::{NewVersion, Registry};
use object_store::{ObjectStore, prefix::PrefixStore};
use serde_json::json;

use crate::{Figure, Options, load_average};

const SWAPS: u64 = 100;
const PACE: Duration = Duration::from_millis(100);
const DECIDERS: usize = 4;
const DECISION_EVERY: Duration = Duration::from_millis(1);
const SEATS: usize = 4;
/// Decisions so long after an exchange still count as made during it.
const AFTERMATH: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(30);

/// # Errors
/// If the bench cannot be set up, or a decision is lost or mixed; the message says which.
pub fn run(_options: &Options) -> anyhow::Result<Vec<Figure>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut figures = runtime.block_on(measure(false))?;
    figures.extend(runtime.block_on(measure(true))?);
    Ok(figures)
}

/// What the deciding threads share.
struct Table {
    live: LivePolicy,
    inputs: Vec<f32>,
    /// By version: what it answers.
    answers: Vec<OnceLock<Vec<f32>>>,
    /// By version: when the first decision by it was made, nanoseconds after `epoch`.
    first: Vec<AtomicU64>,
    epoch: Instant,
    done: AtomicBool,
}

/// A decision: when it began and how long it took, nanoseconds.
type Decision = (u64, u64);

impl Table {
    fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// Decides until done; returns all decisions and how many of them were mixed.
    fn decide(&self) -> (Vec<Decision>, usize) {
        let outputs = self.live.guard().spec().outputs;
        let (mut out, mut scratch) = (vec![0.0; SEATS * outputs], Scratch::new());
        let (mut decisions, mut mixed) = (Vec::with_capacity(1 << 16), 0);
        let mut next = Instant::now();
        while !self.done.load(Ordering::Acquire) {
            next += DECISION_EVERY;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            let begin = self.now();
            let policy = self.live.guard();
            policy.evaluate(&self.inputs, &mut out, &mut scratch);
            let version = policy.model().map_or(0, |model| model.version.0) as usize;
            let end = self.now();
            decisions.push((begin, end - begin));
            self.first[version].fetch_min(end, Ordering::AcqRel);
            mixed += usize::from(self.answers[version].get().is_none_or(|answer| *answer != out));
        }
        (decisions, mixed)
    }
}

async fn measure(through_hints: bool) -> anyhow::Result<Vec<Figure>> {
    let folder = Folder::new(through_hints)?;
    let prefix = object_store::path::Path::from_absolute_path(&folder.0).context("the bench's folder")?;
    let store: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(DurableFileSystem::new(), prefix));
    let log: Option<Arc<dyn EventLog>> = if through_hints { Some(MemoryLog::new()) } else { None };
    if let Some(log) = &log {
        log.create_topic(&Topic::new("fw.models"), 1).await?;
    }
    let here = Arc::new(Registry::open(Arc::clone(&store), "", log.clone()));
    let publisher = if through_hints { Arc::new(Registry::open(store, "", log)) } else { Arc::clone(&here) };

    let base = BaseKey::new("bench-swap")?;
    let spec = NetworkSpec::new(108, [128], 10);
    let inputs: Vec<f32> = (0..SEATS * spec.inputs).map(|i| (i as f32).sin()).collect();
    let answers: Vec<OnceLock<Vec<f32>>> = (0..SWAPS + 2).map(|_| OnceLock::new()).collect();
    let publish = async |version: u64| -> anyhow::Result<Network> {
        let network = Network::he(&spec, version)?;
        let card = publisher.publish(new_version(&base, &network)).await?;
        ensure!(card.version.0 == version, "version {} was published as {version}", card.version);
        Ok(network)
    };
    let answer = |network: &Network| {
        let mut out = vec![0.0; SEATS * spec.outputs];
        network.evaluate(&inputs, &mut out, &mut Scratch::new());
        out
    };

    let first = publish(1).await?;
    answers[1].get_or_init(|| answer(&first));
    publisher.promote(&base, "champion", ModelVersion(1), Some(0), "bench").await?;
    let first = VersionedNetwork::new(ModelRef::new(base.clone(), ModelVersion(1)), first);
    let table = Arc::new(Table {
        live: LivePolicy::new(Arc::new(first)),
        inputs: inputs.clone(),
        answers,
        first: (0..SWAPS + 2).map(|_| AtomicU64::new(u64::MAX)).collect(),
        epoch: Instant::now(),
        done: AtomicBool::new(false),
    });
    let follower = tokio::spawn(follow(Arc::clone(&here), base.clone(), Arc::clone(&table)));
    let deciders: Vec<_> = (0..DECIDERS)
        .map(|_| {
            let table = Arc::clone(&table);
            std::thread::spawn(move || table.decide())
        })
        .collect();

    // Undisturbed first, for as long as the swaps take.
    tokio::time::sleep(PACE * SWAPS as u32).await;
    let mut swaps = Vec::new();
    let mut pace = tokio::time::interval(PACE);
    for version in 2..SWAPS + 2 {
        pace.tick().await;
        let network = publish(version).await?;
        table.answers[version as usize].get_or_init(|| answer(&network));
        let begin = table.now();
        publisher.promote(&base, "champion", ModelVersion(version), Some(version - 1), "bench").await?;
        let waiting = Instant::now();
        while table.first[version as usize].load(Ordering::Acquire) == u64::MAX {
            ensure!(waiting.elapsed() < PATIENCE, "no decision by version {version} within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        swaps.push((begin, table.first[version as usize].load(Ordering::Acquire)));
    }
    table.done.store(true, Ordering::Release);
    follower.abort();
    let (mut decisions, mut mixed) = (Vec::new(), 0);
    for decider in deciders {
        let (made, wrong) = decider.join().map_err(|_| anyhow::anyhow!("a deciding thread panicked"))?;
        decisions.extend(made);
        mixed += wrong;
    }
    ensure!(mixed == 0, "{mixed} of {} decisions were not by the version that they name", decisions.len());
    Ok(figures(through_hints, &swaps, &decisions))
}

/// As a server follows: fetch and verify, warm off the deciding threads, exchange.
async fn follow(registry: Arc<Registry>, base: BaseKey, table: Arc<Table>) -> anyhow::Result<()> {
    let mut champion = registry.watch(&base, "champion").await?;
    loop {
        let state = champion.borrow_and_update().clone().context("there is a champion")?;
        let model = ModelRef::new(base.clone(), state.version);
        if table.live.model().as_ref() != Some(&model) {
            let (_, network) = registry.fetch(&model).await?;
            let new = VersionedNetwork::new(model, network);
            new.warm(&mut Scratch::new()).map_err(|_| anyhow::anyhow!("answers are not finite"))?;
            table.live.swap(Arc::new(new));
        }
        champion.changed().await?;
    }
}

fn new_version(base: &BaseKey, network: &Network) -> NewVersion {
    NewVersion {
        base_key: base.clone(),
        weights: network.to_safetensors(),
        parent: None,
        train_job_id: "bench".to_owned(),
        data_range: None,
        metrics: json!({}),
        metadata: json!({}),
    }
}

fn figures(through_hints: bool, swaps: &[(u64, u64)], decisions: &[Decision]) -> Vec<Figure> {
    let name = |metric: &str| if through_hints { format!("hint_{metric}") } else { metric.to_owned() };
    let times: Vec<f64> = swaps.iter().map(|(begin, first)| (first - begin) as f64 / 1e6).collect();
    let during =
        |at: u64| swaps.iter().any(|&(begin, first)| (begin..first + AFTERMATH.as_nanos() as u64).contains(&at));
    let (swapping, normal): (Vec<&Decision>, Vec<&Decision>) = decisions.iter().partition(|(at, _)| during(*at));
    let took = |of: &[&Decision]| -> Vec<f64> { of.iter().map(|(_, took)| *took as f64 / 1e3).collect() };
    let normal = of(name("decision_p99_normal"), "us", &took(&normal), 0.99);
    let swapping = of(name("decision_p99_during_swap"), "us", &took(&swapping), 0.99);
    let swapping = swapping.against("decisions without a swap", normal.value, false);
    let count = |metric: &str, value: f64| Figure::new("swap", name(metric), "decisions", &[value]);
    vec![
        of(name("swap_p50"), "ms", &times, 0.5),
        of(name("swap_p99"), "ms", &times, 0.99),
        normal,
        swapping,
        count("decisions", decisions.len() as f64),
        // Anything else ended the bench with an error.
        count("decisions_lost_or_mixed", 0.0),
    ]
}

/// A percentile of all values, with those of the three thirds as spread.
fn of(metric: String, unit: &'static str, values: &[f64], share: f64) -> Figure {
    let percentile = |values: &[f64]| {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted.get(((sorted.len().max(1) - 1) as f64 * share).ceil() as usize).copied().unwrap_or(f64::NAN)
    };
    let thirds: Vec<f64> = values.chunks(values.len().div_ceil(3).max(1)).map(percentile).collect();
    let mut figure = Figure::new("swap", metric, unit, &thirds);
    figure.value = percentile(values);
    figure.load = load_average();
    figure
}

/// A folder of this process, removed at the end.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(through_hints: bool) -> anyhow::Result<Self> {
        let name = format!("flywheel-bench-swap-{}-{}", std::process::id(), u8::from(through_hints));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("creating `{}`", path.display()))?;
        Ok(Self(path.canonicalize()?))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone_or_left = std::fs::remove_dir_all(AsRef::<Path>::as_ref(&self.0));
    }
}
