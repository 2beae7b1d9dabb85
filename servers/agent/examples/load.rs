//! Many sessions at full speed in one process: what a decision takes, and what the whole costs.
//!
//! `cargo run --release -p flywheel-agent --example load -- [sessions] [seconds] [swaps per second]`

use std::{sync::Arc, time::Duration};

use flywheel_agent::{Agent, AgentConfig, Swap};
use flywheel_events::{BaseKey, System};
use flywheel_kit::{Emitter, EmitterConfig};
use flywheel_log::{EventLog, MemoryLog, Topic};
use flywheel_policy::{Network, NetworkSpec};
use flywheel_registry::{NewVersion, Registry};
use flywheel_tank::{Map, Script, TankConfig};
use flywheel_tank_server::{GameBackend, GameBackendConfig, ScriptedClient, ScriptedClientConfig, ScriptedStats};
use object_store::memory::InMemory;
use tokio_util::sync::CancellationToken;

/// User and system time of this process, seconds.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

async fn promote(registry: &Registry, seed: u64) {
    let base_key = BaseKey::new("tank-ai-dqn").expect("a base key");
    let network = Network::random(&NetworkSpec::new(108, [128], 10).dueling(), seed, 0.1).expect("a sound shape");
    let new = NewVersion {
        base_key: base_key.clone(),
        weights: network.to_safetensors(),
        parent: None,
        train_job_id: "load".to_owned(),
        data_range: None,
        metrics: serde_json::Value::Null,
        metadata: serde_json::Value::Null,
    };
    let card = registry.publish(new).await.expect("the registry is in memory");
    registry.promote(&base_key, "champion", card.version, None, "load").await.expect("the registry is in memory");
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<f64>());
    let mut next = |default: f64| args.next().transpose().map(|v| v.unwrap_or(default));
    let (sessions, seconds, swaps) = (next(64.0)? as usize, next(20.0)?, next(0.0)?);

    let log = MemoryLog::new();
    log.create_topic(&Topic::new(System::Tank.topic()), 2).await?;
    let spill = tempfile::tempdir()?;
    let emitter = Emitter::start(log, EmitterConfig::new(spill.path()))?;
    let stop = CancellationToken::new();
    let registry = Arc::new(Registry::open(Arc::new(InMemory::new()), "registry", None));
    promote(&registry, 1).await;
    let config = GameBackendConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        max_sessions: sessions + 8,
        // Four AI tanks from early on.
        tank: TankConfig { enemy_spawn_interval_ticks: 15, max_player_respawns: 1_000_000, ..TankConfig::default() },
        ..GameBackendConfig::default()
    };
    let backend = GameBackend::start(config, emitter.clone(), stop.clone()).await?;
    let config = AgentConfig {
        gbe_url: format!("http://{}", backend.local_addr()),
        model_store_url: None,
        poll_interval: Duration::from_millis(250),
        online_learning: false,
        swap: if swaps > 0.0 { Swap::Tick } else { Swap::Episode },
        max_sessions: sessions + 8,
        ..AgentConfig::default()
    };
    let agent = Agent::start(config, Some(registry.clone()), None, Some(emitter.clone()), stop.clone())?;
    let stats = Arc::new(ScriptedStats::default());
    for i in 0..sessions {
        let config = ScriptedClientConfig {
            game_backend: backend.local_addr(),
            script: Script::ALL[i % 3],
            maps: Map::shipped().iter().map(|map| map.name().to_owned()).collect(),
            first_map: i,
            seed: i as u64,
            pause: Duration::from_millis(100),
            games: None,
        };
        tokio::spawn(ScriptedClient::new(config, stats.clone()).run(stop.clone()));
    }
    if swaps > 0.0 {
        let registry = registry.clone();
        tokio::spawn(async move {
            for seed in 2.. {
                tokio::time::sleep(Duration::from_secs_f64(1.0 / swaps)).await;
                promote(&registry, seed).await;
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (before, cpu) = (agent.stats(), cpu_seconds());
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let (after, cpu) = (agent.stats(), cpu_seconds() - cpu);
    println!("{:?}", backend.stats());
    println!("transitions/s {:.0}", (after.transitions - before.transitions) as f64 / seconds);
    println!("decisions/s   {:.0}", (after.decisions_answered - before.decisions_answered) as f64 / seconds);
    println!(
        "asked {} answered {} mixed {}",
        after.decisions_requested, after.decisions_answered, after.decisions_mixed
    );
    println!("decision      p50 {:?} p99 {:?} max {:?}", after.decision.p50, after.decision.p99, after.decision.max);
    println!("swaps         {} p50 {:?} p99 {:?}", after.swap.count, after.swap.p50, after.swap.p99);
    println!("cpu           {:.2} cores", cpu / seconds);
    println!("load          {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    stop.cancel();
    agent.closed().await;
    backend.closed().await;
    Ok(())
}
