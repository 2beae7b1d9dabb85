//! `flywheel bench swap`: from the promotion of a version to the first decision by it.
//!
//! 100 versions are published and promoted, ten a second, on the local disk, every write flushed. A follower watches
//! `champion` as the servers do: fetch, verify, warm, exchange. Four threads decide 1,000 times a second, each for
//! four seats; every answer is compared, bit for bit, with what the version that it names answers. The clock starts
//! before the promotion is written. `decisions_lost_or_mixed` counts decisions that were asked for and gave no answer,
//! and answers that name no version, or another at their end than at their beginning, or are not that version's. `hint_…` is the same with promotions by another registry, as of another process,
//! which this one hears of through the log.

use std::{
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

use crate::{Figure, Options, folder::Folder, load_average};

const SWAPS: u64 = 100;
const PACE: Duration = Duration::from_millis(100);
const DECIDERS: usize = 4;
const DECISION_EVERY: Duration = Duration::from_millis(1);
const SEATS: usize = 4;
/// Decisions so long after an exchange still count as made during it.
const AFTERMATH: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(30);

/// # Errors
/// If the bench cannot be set up, or a promoted version does not arrive.
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
    counts: Counts,
}

/// Counted where it happens, so that what a thread loses by dying is counted too.
#[derive(Debug, Default)]
struct Counts {
    /// Decisions begun.
    asked: AtomicU64,
    /// Decisions that gave a number for every action of every seat.
    answered: AtomicU64,
    /// Answers by no published version.
    unnamed: AtomicU64,
    /// Answers whose version was another after them than before.
    changed: AtomicU64,
    /// Answers that are not, bit for bit, those of the version that they name.
    foreign: AtomicU64,
}

impl Counts {
    /// Decisions asked for that gave no answer, or one that is not wholly that of one named version.
    fn lost_or_mixed(&self) -> u64 {
        let of = |count: &AtomicU64| count.load(Ordering::Acquire);
        of(&self.asked) - of(&self.answered) + of(&self.unnamed) + of(&self.changed) + of(&self.foreign)
    }
}

/// A decision: when it began and how long it took, nanoseconds.
type Decision = (u64, u64);

impl Table {
    fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// Decides until done; returns all decisions.
    fn decide(&self) -> Vec<Decision> {
        let outputs = self.live.guard().spec().outputs;
        let (mut out, mut scratch) = (vec![0.0; SEATS * outputs], Scratch::new());
        let mut decisions = Vec::with_capacity(1 << 16);
        let mut next = Instant::now();
        while !self.done.load(Ordering::Acquire) {
            next += DECISION_EVERY;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            // What is not written over has not been answered.
            out.fill(f32::NAN);
            self.counts.asked.fetch_add(1, Ordering::AcqRel);
            let begin = self.now();
            let policy = self.live.guard();
            let before = policy.model().map(|model| model.version.0);
            policy.evaluate(&self.inputs, &mut out, &mut scratch);
            let after = policy.model().map(|model| model.version.0);
            let end = self.now();
            decisions.push((begin, end - begin));
            self.account(before, after, &out, end);
        }
        decisions
    }

    /// Counts one decision, under the first thing that is wrong with it.
    fn account(&self, before: Option<u64>, after: Option<u64>, out: &[f32], end: u64) {
        if out.iter().any(|value| value.is_nan()) {
            return;
        }
        self.counts.answered.fetch_add(1, Ordering::AcqRel);
        let wrong = match after.and_then(|version| self.answers.get(version as usize)) {
            _ if before != after => &self.counts.changed,
            None => &self.counts.unnamed,
            Some(answer) if answer.get().is_none_or(|answer| *answer != out) => &self.counts.foreign,
            Some(_) => {
                self.first[after.unwrap_or_default() as usize].fetch_min(end, Ordering::AcqRel);
                return;
            }
        };
        wrong.fetch_add(1, Ordering::AcqRel);
    }
}

async fn measure(through_hints: bool) -> anyhow::Result<Vec<Figure>> {
    let folder = Folder::new(if through_hints { "swap-hint" } else { "swap" })?;
    let prefix = object_store::path::Path::from_absolute_path(folder.path()).context("the bench's folder")?;
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
        counts: Counts::default(),
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
    // A thread that panicked leaves its last decision asked for and not answered.
    let decisions: Vec<Decision> = deciders.into_iter().flat_map(|d| d.join().unwrap_or_default()).collect();
    Ok(figures(through_hints, &swaps, &decisions, &table.counts))
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

fn figures(through_hints: bool, swaps: &[(u64, u64)], decisions: &[Decision], counts: &Counts) -> Vec<Figure> {
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
        count("decisions", counts.asked.load(Ordering::Acquire) as f64),
        count("decisions_lost_or_mixed", counts.lost_or_mixed() as f64),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn table(live: VersionedNetwork, answers: Vec<OnceLock<Vec<f32>>>) -> Table {
        Table {
            inputs: vec![0.5; SEATS * live.spec().inputs],
            live: LivePolicy::new(Arc::new(live)),
            first: answers.iter().map(|_| AtomicU64::new(u64::MAX)).collect(),
            answers,
            epoch: Instant::now(),
            done: AtomicBool::new(false),
            counts: Counts::default(),
        }
    }

    fn named(version: u64) -> VersionedNetwork {
        let network = Network::he(&NetworkSpec::new(8, [4], 3), version).unwrap();
        VersionedNetwork::new(ModelRef::new(BaseKey::new("bench").unwrap(), ModelVersion(version)), network)
    }

    fn answers(of: &[Option<&VersionedNetwork>]) -> Vec<OnceLock<Vec<f32>>> {
        of.iter()
            .map(|network| {
                let Some(network) = network else { return OnceLock::new() };
                let mut out = vec![0.0; SEATS * 3];
                network.evaluate(&[0.5; SEATS * 8], &mut out, &mut Scratch::new());
                OnceLock::from(out)
            })
            .collect()
    }

    /// Decides until so many decisions were asked for.
    fn decide(table: &Table, n: u64) -> usize {
        std::thread::scope(|scope| {
            let decider = scope.spawn(|| table.decide());
            while table.counts.asked.load(Ordering::Acquire) < n {
                std::thread::sleep(Duration::from_millis(1));
            }
            table.done.store(true, Ordering::Release);
            decider.join().unwrap().len()
        })
    }

    #[test]
    fn decisions_by_the_version_that_they_name_are_neither_lost_nor_mixed() {
        let table = table(named(1), answers(&[None, Some(&named(1))]));
        let decided = decide(&table, 20) as u64;
        assert_eq!((table.counts.asked.load(Ordering::Acquire), table.counts.lost_or_mixed()), (decided, 0));
        assert!(table.first[1].load(Ordering::Acquire) < u64::MAX);
    }

    #[test]
    fn decisions_by_no_version_or_by_another_than_they_name_are_counted() {
        let unnamed = VersionedNetwork::unpublished(Network::he(&NetworkSpec::new(8, [4], 3), 1).unwrap());
        let cases = [
            (unnamed, answers(&[None, Some(&named(1))])),
            (named(1), answers(&[None, Some(&named(2))])),
            (named(7), answers(&[None, Some(&named(1))])),
        ];
        for (live, answers) in cases {
            let table = table(live, answers);
            let decided = decide(&table, 20) as u64;
            assert_eq!(table.counts.lost_or_mixed(), decided);
            assert!(
                table.first.iter().all(|first| first.load(Ordering::Acquire) == u64::MAX),
                "no swap is timed by it"
            );
        }
    }

    #[test]
    fn a_decision_without_an_answer_and_one_that_changes_its_version_are_counted() {
        let table = table(named(1), answers(&[None, Some(&named(1))]));
        let out = table.answers[1].get().unwrap().clone();
        let mut half = out.clone();
        half[SEATS * 3 - 1] = f32::NAN;
        table.counts.asked.fetch_add(3, Ordering::AcqRel);
        table.account(Some(1), Some(1), &out, 5);
        assert_eq!(table.counts.lost_or_mixed(), 2);
        table.account(Some(1), Some(2), &out, 5);
        assert_eq!((table.counts.lost_or_mixed(), table.counts.changed.load(Ordering::Acquire)), (2, 1));
        table.account(Some(1), Some(1), &half, 5);
        assert_eq!(table.counts.lost_or_mixed(), 2, "one changed, one without an answer");
        assert_eq!(table.counts.answered.load(Ordering::Acquire), 2);
    }
}
