//! Everything in one process over real sockets: game backend, model store, AI backend and scripted players.

#[path = "../../tank/tests/support/mod.rs"]
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use flywheel_agent::{Agent, AgentConfig, AgentStats, Swap};
use flywheel_events::{BaseKey, Event, ModelVersion, kinds, tank as payload};
use flywheel_policy::{Network, NetworkSpec};
use flywheel_registry::{NewVersion, Registry};
use flywheel_tank::{Script, TankConfig};
use flywheel_tank_server::{GameBackendConfig, ModelStore, ScriptedClient, ScriptedClientConfig, ScriptedStats};
use object_store::memory::InMemory;
use support::{Stage, quick};
use tokio_util::sync::CancellationToken;

fn registry() -> Arc<Registry> {
    Arc::new(Registry::open(Arc::new(InMemory::new()), "registry", None))
}

async fn publish(registry: &Registry, base: &str, seed: u64) -> ModelVersion {
    let spec = NetworkSpec::new(108, [16], 10);
    let new = NewVersion {
        base_key: BaseKey::new(base).unwrap(),
        weights: Network::random(&spec, seed, 0.3).unwrap().to_safetensors(),
        parent: None,
        train_job_id: "test".to_owned(),
        data_range: None,
        metrics: serde_json::json!({}),
        metadata: serde_json::json!({}),
    };
    registry.publish(new).await.unwrap().version
}

async fn promote(registry: &Registry, base: &str, version: ModelVersion) {
    registry.promote(&BaseKey::new(base).unwrap(), "champion", version, None, "test").await.unwrap();
}

fn game(ticks: u32) -> GameBackendConfig {
    GameBackendConfig {
        tick_ms: 8,
        tank: TankConfig { max_ticks_per_episode: ticks, enemy_spawn_interval_ticks: 20, ..TankConfig::default() },
        ..quick()
    }
}

struct Loop {
    stage: Stage,
    agent: Arc<Agent>,
    stop: CancellationToken,
}

impl Loop {
    async fn new(game: GameBackendConfig, agent: AgentConfig, registry: Option<Arc<Registry>>) -> Self {
        let stage = Stage::new(game).await;
        let stop = CancellationToken::new();
        let config = AgentConfig {
            gbe_url: stage.url(""),
            poll_interval: Duration::from_millis(30),
            reconnect_min: Duration::from_millis(20),
            tick_ms: stage.backend.config().tick_ms,
            seed: Some(3),
            ..agent
        };
        let agent = Agent::start(config, registry, None, Some(stage.emitter.clone()), stop.clone()).unwrap();
        Self { stage, agent, stop }
    }

    /// Plays games one after another and returns their ids.
    async fn play(&self, script: Script, games: u64) {
        let config = ScriptedClientConfig {
            game_backend: self.stage.backend.local_addr(),
            script,
            maps: ["Stage01.json", "Stage02.json", "Stage03.json"].map(str::to_owned).to_vec(),
            first_map: 0,
            seed: 5,
            pause: Duration::ZERO,
            games: Some(games),
        };
        let stats = Arc::new(ScriptedStats::default());
        ScriptedClient::new(config, stats.clone()).run(self.stop.clone()).await;
        assert_eq!(stats.games.load(std::sync::atomic::Ordering::Relaxed), games);
    }

    /// What the agent has counted once it is through with all games: they end for their players a moment earlier.
    async fn settled(&self) -> AgentStats {
        let mut stats = self.agent.stats();
        for _ in 0..1_000 {
            if stats.sessions == 0 && stats.decisions_requested == stats.decisions_answered {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            stats = self.agent.stats();
        }
        stats
    }

    /// All closed, and the events of the games, oldest game first.
    async fn events(self) -> Vec<Vec<Event>> {
        self.stop.cancel();
        self.agent.closed().await;
        self.stage.stop.cancel();
        self.stage.backend.closed().await;
        let all = support::all_events(&self.stage.log, &self.stage.emitter).await;
        let mut games: Vec<Vec<Event>> = all.into_values().collect();
        games.sort_by_key(|events| events[0].ts_ms);
        games
    }
}

fn transitions(events: &[Event]) -> Vec<(&Event, payload::Transition)> {
    let of_kind = events.iter().filter(|e| e.kind == kinds::TANK_TRANSITION);
    of_kind.map(|e| (e, e.payload_as().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_game_played_by_scripts_and_the_ai_backend_replays_and_its_transitions_are_complete() {
    let config = AgentConfig { model_store_url: None, ..AgentConfig::default() };
    let turning = Loop::new(game(200), config, None).await;
    turning.play(Script::Hunter, 3).await;
    let stats = turning.settled().await;
    assert_eq!(stats.decisions_requested, stats.decisions_answered);
    assert!(stats.decisions_answered > 100, "{stats:?}");
    assert_eq!((stats.decisions_mixed, stats.bad_frames, stats.bad_states), (0, 0, 0));
    assert!(stats.train_steps > 100 && stats.learning.reward_count >= stats.train_steps);
    let games = turning.events().await;
    assert_eq!(games.len(), 3);
    for events in &games {
        let outcome = flywheel_tank::replay(events.iter()).unwrap();
        assert!(outcome.end.is_some());
        let ended = events.iter().position(|e| e.kind == kinds::TANK_EPISODE_ENDED).expect("the game ended");
        let last = events.iter().rposition(|e| e.kind == kinds::TANK_TRANSITION).expect("there were transitions");
        assert!(last < ended, "the last transition comes before the end");
        let mut returns = std::collections::BTreeMap::<String, f32>::new();
        let all = transitions(events);
        for (_, transition) in &all {
            for tank in &transition.tanks {
                assert_eq!((tank.s.len(), tank.s2.len()), (108, 108));
                *returns.entry(tank.tank_id.clone()).or_default() += tank.r;
            }
        }
        let (_, final_transition) = all.last().unwrap();
        let end = &events[ended];
        assert!(
            final_transition.tanks.iter().all(|tank| tank.done),
            "the last transition is of tick {}, the game ended with {}; agent: {stats:?}",
            final_transition.tick,
            String::from_utf8_lossy(&end.encode())
        );
        // Rewards of a tank before its first action are in its return and in no transition.
        assert!(!returns.is_empty());
        let names: Vec<&str> = events.iter().map(|e| e.kind.as_str()).collect();
        for kind in [kinds::TANK_MODEL_ALLOCATED, kinds::TANK_MODEL_RELEASED, kinds::TANK_SESSION_CLOSED] {
            assert_eq!(names.iter().filter(|name| **name == kind).count(), 1, "{kind}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_promoted_mid_game_decides_from_the_next_episode_and_is_named_in_the_events() {
    let registry = registry();
    let first = publish(&registry, "tank-ai-dqn", 1).await;
    promote(&registry, "tank-ai-dqn", first).await;
    let config = AgentConfig { model_store_url: None, online_learning: false, ..AgentConfig::default() };
    let turning = Loop::new(game(150), config, Some(registry.clone())).await;
    // A game may end early; then nobody waits for its decisions.
    let over = AtomicBool::new(false);
    let promoting = async {
        while turning.agent.stats().decisions_answered == 0 && !over.load(Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let second = publish(&registry, "tank-ai-dqn", 2).await;
        promote(&registry, "tank-ai-dqn", second).await;
    };
    let playing = async {
        turning.play(Script::Camper, 2).await;
        over.store(true, Relaxed);
    };
    tokio::join!(playing, promoting);
    let stats = turning.settled().await;
    assert_eq!(stats.decisions_mixed, 0);
    assert_eq!(stats.swap.count, 1);
    let games = turning.events().await;
    for (events, model) in games.iter().zip(["tank-ai-dqn@1", "tank-ai-dqn@2"]) {
        let all = transitions(events);
        assert!(!all.is_empty());
        assert!(all.iter().all(|(e, _)| e.model.as_ref().unwrap().to_string() == model), "all by {model}");
        let allocated = events.iter().find(|e| e.kind == kinds::TANK_MODEL_ALLOCATED).unwrap();
        assert_eq!(allocated.model.as_ref().unwrap().to_string(), model);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_swap_at_ticks_a_new_version_decides_within_the_game_and_no_round_is_mixed() {
    let registry = registry();
    let first = publish(&registry, "tank-ai-dqn", 1).await;
    promote(&registry, "tank-ai-dqn", first).await;
    let config =
        AgentConfig { model_store_url: None, online_learning: false, swap: Swap::Tick, ..AgentConfig::default() };
    let turning = Loop::new(game(200), config, Some(registry.clone())).await;
    // A game may end early; then nobody waits for its decisions.
    let over = AtomicBool::new(false);
    let promoting = async {
        for seed in 2..6 {
            let before = turning.agent.stats().decisions_answered;
            while turning.agent.stats().decisions_answered < before + 20 && !over.load(Relaxed) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let version = publish(&registry, "tank-ai-dqn", seed).await;
            promote(&registry, "tank-ai-dqn", version).await;
        }
    };
    let playing = async {
        turning.play(Script::Camper, 1).await;
        over.store(true, Relaxed);
    };
    tokio::join!(playing, promoting);
    let stats = turning.settled().await;
    assert_eq!((stats.decisions_requested, stats.decisions_mixed), (stats.decisions_answered, 0));
    assert!(stats.by_version.len() >= 2, "{:?}", stats.by_version);
    let games = turning.events().await;
    let swapped = games[0].iter().filter(|e| e.kind == kinds::TANK_MODEL_SWAPPED).count();
    assert!(swapped >= 2, "allocation and at least one swap in the game");
    let ticks: Vec<u64> = transitions(&games[0]).iter().map(|(_, t)| t.tick).collect();
    assert!(ticks.is_sorted());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrupt_champion_is_refused_by_name_and_the_old_one_plays_on() {
    let store = Arc::new(InMemory::new());
    let registry = Arc::new(Registry::open(store.clone(), "registry", None));
    let first = publish(&registry, "tank-ai-dqn", 1).await;
    promote(&registry, "tank-ai-dqn", first).await;
    let config =
        AgentConfig { model_store_url: None, online_learning: false, swap: Swap::Tick, ..AgentConfig::default() };
    let turning = Loop::new(game(200), config, Some(registry.clone())).await;
    // A game may end early; then nobody waits for its decisions.
    let over = AtomicBool::new(false);
    let promoting = async {
        while turning.agent.stats().decisions_answered == 0 && !over.load(Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // A network of the wrong shape is a sound version, but not one for this game.
        let new = NewVersion {
            base_key: BaseKey::new("tank-ai-dqn").unwrap(),
            weights: Network::random(&NetworkSpec::new(27, [8], 10), 1, 0.1).unwrap().to_safetensors(),
            parent: None,
            train_job_id: "test".to_owned(),
            data_range: None,
            metrics: serde_json::json!({}),
            metadata: serde_json::json!({}),
        };
        let version = registry.publish(new).await.unwrap().version;
        promote(&registry, "tank-ai-dqn", version).await;
    };
    let playing = async {
        turning.play(Script::Camper, 1).await;
        over.store(true, Relaxed);
    };
    tokio::join!(playing, promoting);
    let refused = async {
        while turning.agent.stats().swaps_refused == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), refused).await.expect("the corrupt champion is refused");
    assert_eq!(turning.agent.stats().swaps_refused, 1);
    let games = turning.events().await;
    let refused = games[0].iter().find(|e| e.kind == kinds::MODEL_SWAP_REFUSED).expect("the refusal is an event");
    let refused: payload::SwapRefused = refused.payload_as().unwrap();
    assert_eq!((refused.model.as_str(), refused.stays_on.as_deref()), ("tank-ai-dqn@2", Some("tank-ai-dqn@1")));
    assert!(refused.reason.contains("108"), "{}", refused.reason);
    assert!(transitions(&games[0]).iter().all(|(e, _)| e.model.as_ref().unwrap().version == ModelVersion(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_sessions_learn_is_saved_as_new_versions_and_found_again_at_the_next_start() {
    let registry = registry();
    let first = publish(&registry, "tank-ai-dqn", 1).await;
    promote(&registry, "tank-ai-dqn", first).await;
    let stop = CancellationToken::new();
    let store = ModelStore::start(([127, 0, 0, 1], 0).into(), registry.clone(), stop.clone()).await.unwrap();
    let config = AgentConfig {
        model_store_url: Some(format!("http://{}", store.address)),
        save_every_steps: 50,
        ..AgentConfig::default()
    };
    let turning = Loop::new(game(200), config.clone(), Some(registry.clone())).await;
    turning.play(Script::Camper, 1).await;
    let agent = turning.agent.clone();
    let games = turning.events().await;
    assert!(agent.stats().saves > 0, "{:?}", agent.stats());
    assert_eq!(agent.stats().saves_lost, 0);
    assert!(games[0].iter().any(|e| e.kind == kinds::TANK_MODEL_SAVED));
    // Saves are versions of the map's own base key, and never touch an alias.
    let base = BaseKey::new("tank-ai-dqn-stage01").unwrap();
    let cards = registry.list(&base).await.unwrap();
    assert!(!cards.is_empty());
    assert!(registry.resolve(&base, "champion").await.unwrap().is_none());
    assert!(registry.resolve(&base, "candidate").await.unwrap().is_none());
    let key = cards[0].metadata["modelKey"].as_str().unwrap().to_owned();
    let again = Loop::new(game(200), config, None).await;
    while again.agent.stats().polls == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(again.agent.free_keys("tank-ai-dqn-stage01"), [key]);
    stop.cancel();
}
