//! The ten lines of the README.
//!
//! usage: ten_lines URL [TICKS]

use std::{env, error::Error, time::Duration};

use flywheel_client::{EmitConfig, Emitter, FollowConfig, Follower, GameId, System};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().collect();
    let url = arguments.get(1).ok_or("usage: ten_lines URL [TICKS]")?.as_str();
    let n_ticks: u64 = arguments.get(2).map_or(Ok(10), |text| text.parse())?;
    // Stands for the game; the tank arena's observations have 108 numbers.
    let ticks = (0..n_ticks).map(|tick| (tick, [tick as f32 / n_ticks as f32; 108]));

    let emitter = Emitter::start(EmitConfig::new(url).spool("events.spool"))?;
    let champion = Follower::start(FollowConfig::new(url))?;
    let (game, mut decider) = (emitter.game(System::Tank, GameId::new("g-17")?), champion.decider());
    for (tick, observation) in ticks {
        let decision = decider.decide(&observation);
        let chosen = serde_json::json!({"tick": tick, "action": decision.action});
        game.event("tank.decision").actor("ai-1").model(decision.model).payload(&chosen).emit()?;
    }

    emitter.flush(Duration::from_secs(60));
    let stats = emitter.close(Duration::ZERO);
    println!("{} acknowledged, {} refused, {} lost", stats.acknowledged, stats.refused, stats.lost);
    Ok(())
}
