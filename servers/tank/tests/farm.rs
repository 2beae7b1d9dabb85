//! The farm: whole games without sockets, the same events, and its manners towards the event queue.

mod support;

use std::{sync::Arc, time::Duration};

use flywheel_events::{kinds, tank as payload};
use flywheel_kit::{Emitter, EmitterConfig};
use flywheel_log::MemoryLog;
use flywheel_policy::{LivePolicy, Network, NetworkSpec, VersionedNetwork};
use flywheel_tank::TankConfig;
use flywheel_tank_server::{Farm, FarmConfig};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

fn version(n: u64) -> Arc<VersionedNetwork> {
    let network = Network::random(&NetworkSpec::new(108, [16], 10), n, 0.3).unwrap();
    Arc::new(VersionedNetwork::new(format!("tank-ai-dqn@{n}").parse().unwrap(), network))
}

fn quick() -> FarmConfig {
    FarmConfig {
        threads: 2,
        ticks_per_second: 1e6,
        tank: TankConfig { max_ticks_per_episode: 400, ..TankConfig::default() },
        ..FarmConfig::default()
    }
}

#[tokio::test]
async fn farm_games_replay_carry_one_version_each_and_say_where_they_come_from() {
    let (emitter, log, _spill) = support::emitter().await;
    let live = Arc::new(LivePolicy::new(version(1)));
    let stop = CancellationToken::new();
    let farm = Farm::start(quick(), live.clone(), emitter.clone(), stop.clone()).unwrap();
    while farm.stats().games < 3 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    live.swap(version(2));
    let swapped_at = farm.stats().games;
    while farm.stats().games < swapped_at + 5 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    stop.cancel();
    let stats = farm.stats();
    tokio::task::spawn_blocking(move || farm.join()).await.unwrap();
    assert!(stats.ticks > 0 && stats.decisions > 0);
    let games = support::all_events(&log, &emitter).await;
    let (mut whole, mut versions) = (0, std::collections::BTreeSet::new());
    for events in games.values() {
        let opened: payload::SessionOpened = events[0].payload_as().unwrap();
        assert_eq!(opened.source, "farm");
        assert!(["random", "camper", "hunter"].contains(&opened.opponent.as_deref().unwrap()));
        assert_eq!(events.last().unwrap().kind, kinds::TANK_SESSION_CLOSED);
        let of: std::collections::BTreeSet<String> = events
            .iter()
            .filter(|e| e.kind == kinds::TANK_TRANSITION)
            .map(|e| e.model.as_ref().unwrap().to_string())
            .collect();
        assert!(of.len() <= 1, "one version for a whole game: {of:?}");
        versions.extend(of);
        if events.iter().any(|e| e.kind == kinds::TANK_EPISODE_ENDED) {
            whole += 1;
            flywheel_tank::replay(events.iter()).unwrap();
        }
    }
    assert!(whole >= 8, "{whole} whole games of {}", games.len());
    assert_eq!(versions.into_iter().collect::<Vec<_>>(), ["tank-ai-dqn@1", "tank-ai-dqn@2"]);
}

#[tokio::test]
async fn above_half_a_queue_the_farm_waits_and_spills_nothing() {
    // The topic does not exist, so no append succeeds and the queue can only fill.
    let log = MemoryLog::new();
    let spill = tempfile::tempdir().unwrap();
    let config = EmitterConfig { queue_bytes: 8 << 20, ..EmitterConfig::new(spill.path()) };
    let emitter = Emitter::start(log, config).unwrap();
    let stop = CancellationToken::new();
    let farm = Farm::start(quick(), Arc::new(LivePolicy::new(version(1))), emitter.clone(), stop.clone()).unwrap();
    while farm.stats().waiting < 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let stats = emitter.stats();
    assert_eq!((stats.spilled, stats.lost), (0, 0));
    assert!(stats.queue_bytes > 4 << 20, "{stats:?}");
    stop.cancel();
    tokio::task::spawn_blocking(move || farm.join()).await.unwrap();
}

#[tokio::test]
async fn without_its_play_a_recorded_game_is_its_opening_its_transitions_and_its_end() {
    let (emitter, log, _spill) = support::emitter().await;
    let stop = CancellationToken::new();
    let config = FarmConfig { record_play: false, ..quick() };
    let farm = Farm::start(config, Arc::new(LivePolicy::new(version(1))), emitter.clone(), stop.clone()).unwrap();
    while farm.stats().games < 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    stop.cancel();
    tokio::task::spawn_blocking(move || farm.join()).await.unwrap();
    for events in support::all_events(&log, &emitter).await.values() {
        assert!(
            events.iter().all(|e| ![kinds::TANK_TICK, kinds::TANK_INPUT, kinds::TANK_CHECKPOINT].contains(&&*e.kind))
        );
        let last: Value = events.last().unwrap().payload_as().unwrap();
        assert!(["finished", "server_stopped"].contains(&last["cause"].as_str().unwrap()));
    }
}

/// `cargo test --release -p flywheel-tank-server --test farm -- --ignored --nocapture`: what one thread comes to when
/// nothing holds it back, everything recorded, beside the pace that is asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement of ten seconds"]
async fn figures() {
    for (asked, record_play) in [(2_500.0, true), (1e9, true), (1e9, false)] {
        let (emitter, _log, _spill) = support::emitter().await;
        let stop = CancellationToken::new();
        let tank = TankConfig { transition_interval: 4, ..TankConfig::default() };
        let config = FarmConfig { threads: 1, ticks_per_second: asked, tank, record_play, ..FarmConfig::default() };
        let network = Network::random(&NetworkSpec::new(108, [128], 10), 1, 0.3).unwrap();
        let version = VersionedNetwork::new("tank-ai-dqn@1".parse().unwrap(), network);
        let live = Arc::new(LivePolicy::new(Arc::new(version)));
        let started = std::time::Instant::now();
        let farm = Farm::start(config, live, emitter.clone(), stop.clone()).unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (stats, events) = (farm.stats(), emitter.stats());
        let seconds = started.elapsed().as_secs_f64();
        stop.cancel();
        tokio::task::spawn_blocking(move || farm.join()).await.unwrap();
        println!(
            "asked {asked:.0} ticks/s, record_play {record_play}: {:.0} ticks/s, {:.0} events/s, waited {:.2} s",
            stats.ticks as f64 / seconds,
            events.emitted as f64 / seconds,
            stats.waited_seconds
        );
        assert_eq!((events.spilled, events.lost), (0, 0));
    }
}
