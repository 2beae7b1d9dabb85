//! A judge whose champion cannot be read, or whose store is away for a while.

use std::{sync::Arc, time::Duration};

use flywheel_events::{BaseKey, ModelVersion, System};
use flywheel_judge::{Arena, GameResult, Judge, JudgeConfig, JudgeState, LiveConfig, TrialConfig};
use flywheel_lake::{
    Lake,
    testing::{Fail, Faults, FaultyStore},
};
use flywheel_policy::{Network, NetworkSpec, Policy};
use flywheel_registry::{NewVersion, Registry};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use serde_json::json;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Whoever plays wins.
struct Even;

impl Arena for Even {
    fn maps(&self) -> Vec<String> {
        vec!["m".to_owned()]
    }

    fn anchors(&self) -> Vec<String> {
        vec!["a".to_owned()]
    }

    fn shape(&self) -> (usize, usize) {
        (2, 2)
    }

    fn play(&self, _: &dyn Policy, _: &str, _: &str, _: u64) -> Result<GameResult, String> {
        Ok(GameResult { score: 1.0, ticks: 1, decisions: 1, ..GameResult::default() })
    }
}

struct World {
    base: BaseKey,
    objects: Arc<dyn ObjectStore>,
    registry: Arc<Registry>,
    judge: Judge,
}

fn new_version(base: &BaseKey, seed: u64) -> NewVersion {
    NewVersion {
        base_key: base.clone(),
        weights: Network::random(&NetworkSpec::new(2, vec![3], 2), seed, 0.1).unwrap().to_safetensors(),
        parent: None,
        train_job_id: "train-1".to_owned(),
        data_range: None,
        metrics: json!({}),
        metadata: json!({}),
    }
}

/// The champions of `moves`, one after the other, of `versions` versions.
async fn world(tables: Arc<dyn ObjectStore>, versions: u64, moves: &[u64]) -> World {
    let base = BaseKey::new("k").unwrap();
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let registry = Arc::new(Registry::open(Arc::clone(&objects), "", None));
    for seed in 0..versions {
        registry.publish(new_version(&base, seed)).await.unwrap();
    }
    for version in moves {
        registry.promote(&base, "champion", ModelVersion(*version), None, "by hand").await.unwrap();
    }
    let config = JudgeConfig {
        system: System::Tank,
        base_key: base.clone(),
        seed: 1,
        trial: TrialConfig::default(),
        live: LiveConfig::default(),
    };
    let lake = Lake::open(tables, "memory:///lake/".parse().unwrap());
    let judge = Judge::new(Arc::clone(&registry), lake, Arc::new(Even), config);
    World { base, objects, registry, judge }
}

impl World {
    /// Spoils the weights of a version.
    async fn spoil(&self, version: u64) {
        let card = flywheel_events::ModelRef::new(self.base.clone(), ModelVersion(version));
        let sha = self.registry.fetch(&card).await.unwrap().0.sha256;
        let all: Vec<_> = self.objects.list(None).try_collect().await.unwrap();
        let at = all.iter().find(|object| object.location.as_ref().contains(&sha)).unwrap();
        self.objects.put(&Path::from(at.location.as_ref()), "nonsense".into()).await.unwrap();
    }

    async fn candidate(&self, version: u64) {
        self.registry.promote(&self.base, "candidate", ModelVersion(version), None, "trained").await.unwrap();
    }

    fn run(&self) -> (JoinHandle<()>, CancellationToken, mpsc::Sender<flywheel_judge::LiveGame>) {
        let (cancel, (live, games)) = (CancellationToken::new(), mpsc::channel(1));
        let (judge, stop) = (self.judge.clone(), cancel.clone());
        (tokio::spawn(async move { judge.run(games, stop).await.unwrap() }), cancel, live)
    }

    async fn until(&self, what: &str, seen: impl Fn(&JudgeState) -> bool) -> JudgeState {
        let began = std::time::Instant::now();
        loop {
            let state = self.judge.state();
            if seen(&state) {
                return state;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{what}: {state:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn champion(&self) -> u64 {
        self.registry.resolve(&self.base, "champion").await.unwrap().unwrap().version.0
    }
}

#[tokio::test]
async fn a_champion_that_cannot_be_read_keeps_no_candidate_from_being_judged() {
    let world = world(Arc::new(InMemory::new()), 2, &[1]).await;
    world.spoil(1).await;
    world.candidate(2).await;
    let (running, cancel, _live) = world.run();
    let state = world.until("the candidate is judged", |state| state.promoted == 1).await;
    assert!(state.verdicts[0].2.contains("champion 1 cannot be read"), "{:?}", state.verdicts);
    world.until("it has its score sheet", |state| state.scores.iter().any(|row| row.version == 2)).await;
    cancel.cancel();
    running.await.unwrap();
    assert_eq!(world.champion().await, 2);
}

#[tokio::test]
async fn where_the_champion_cannot_be_read_its_predecessor_is_to_be_beaten() {
    let world = world(Arc::new(InMemory::new()), 3, &[1, 2]).await;
    world.spoil(2).await;
    world.candidate(3).await;
    let (running, cancel, _live) = world.run();
    // All play alike here, so the candidate is no better than version 1.
    let state = world.until("the candidate is judged", |state| !state.verdicts.is_empty()).await;
    assert_eq!((state.verdicts[0].0, state.verdicts[0].1), (3, false), "{:?}", state.verdicts);
    cancel.cancel();
    running.await.unwrap();
    assert_eq!(world.champion().await, 2);
}

#[tokio::test]
async fn a_candidate_that_cannot_be_read_is_refused_once() {
    let world = world(Arc::new(InMemory::new()), 2, &[1]).await;
    world.spoil(2).await;
    world.candidate(2).await;
    let (running, cancel, _live) = world.run();
    world.until("it is refused", |state| state.refused == 1 && !state.busy).await;
    // A retry would come after the longest pause; the next candidate comes at once.
    world.registry.publish(new_version(&world.base, 7)).await.unwrap();
    world.candidate(3).await;
    let state = world.until("the next one is judged", |state| !state.verdicts.is_empty()).await;
    assert_eq!((state.refused >= 1, state.verdicts[0].0), (true, 3));
    cancel.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn tables_that_are_away_are_waited_for() {
    let faults = Arc::new(Faults::default());
    let tables: Arc<dyn ObjectStore> = Arc::new(FaultyStore::new(Arc::new(InMemory::new()), Arc::clone(&faults)));
    let world = world(tables, 1, &[1]).await;
    faults.die_at(1, Fail::Before);
    let (running, cancel, _live) = world.run();
    world.until("it says what it waits for", |state| state.doing.contains("score sheet:")).await;
    faults.heal();
    world.until("it has its score sheet", |state| !state.scores.is_empty()).await;
    cancel.cancel();
    running.await.unwrap();
}
