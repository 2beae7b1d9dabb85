//! What recording a game costs, stage by stage and kind by kind, in ticks per CPU-second of one thread:
//! `cargo run --release -p flywheel-tank --example record`.

use std::collections::BTreeMap;

use flywheel_events::{Event, GameId, System, kinds};
use flywheel_tank::{Decide, Headless, Map, OBSERVATION_LEN, Recorder, Script, TankConfig, TankEvent};

/// CPU time of this process; of its only thread.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").expect("Linux shows its scheduler's accounts");
    text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).expect("the first field is nanoseconds") * 1e-9
}

/// A cheap decision that differs from tank to tank and from moment to moment.
struct Spread;

impl Decide for Spread {
    fn decide(&mut self, observations: &[f32], _n: usize, actions: &mut Vec<u8>) {
        actions.extend(
            observations.chunks_exact(OBSERVATION_LEN).map(|s| (s.iter().sum::<f32>().abs() * 97.0) as u8 % 10),
        );
    }
}

/// Makes the events and drops them.
struct Drops;

impl Recorder for Drops {
    fn record(&mut self, event: TankEvent) {
        std::hint::black_box(event);
    }
}

/// Makes the bytes that go to the log, as the farm does, and adds up what each kind takes.
struct Encodes {
    game_id: GameId,
    /// Inputs, deltas and checkpoints too.
    play: bool,
    by_kind: BTreeMap<&'static str, (u64, u64, f64)>,
}

impl Recorder for Encodes {
    fn record(&mut self, event: TankEvent) {
        let kind = event.kind();
        if !self.play && [kinds::TANK_INPUT, kinds::TANK_TICK, kinds::TANK_CHECKPOINT].contains(&kind) {
            return;
        }
        let start = std::time::Instant::now();
        let bytes = Event::new(System::Tank, kind, self.game_id.clone(), 0, 0)
            .actor(event.actor())
            .model(event.model.clone())
            .payload(&event.body)
            .encode();
        let (n, size, seconds) = self.by_kind.entry(kind).or_default();
        (*n, *size, *seconds) = (*n + 1, *size + bytes.len() as u64, *seconds + start.elapsed().as_secs_f64());
    }
}

fn play<R: Recorder>(interval: u32, recorder: &mut R) -> f64 {
    let (start, mut ticks) = (cpu_seconds(), 0);
    for seed in 0..40u64 {
        let map = &Map::shipped()[seed as usize % Map::shipped().len()];
        let config = TankConfig { transition_interval: interval, ..TankConfig::default() };
        let mut game = Headless::new(map, &config, seed, Script::Hunter).expect("a spawn is free");
        ticks += loop {
            if let Some(result) = game.run_period(&mut Spread, recorder) {
                break result.ticks;
            }
        };
    }
    ticks as f64 / (cpu_seconds() - start)
}

fn main() {
    for interval in [1, 4] {
        println!("a decision every {interval} ticks");
        println!("  played            {:9.0} ticks/s", play(interval, &mut ()));
        println!("  events made       {:9.0} ticks/s", play(interval, &mut Drops));
        for play_too in [false, true] {
            let game_id = GameId::new("record").expect("a plain name");
            let mut encodes = Encodes { game_id, play: play_too, by_kind: BTreeMap::new() };
            let rate = play(interval, &mut encodes);
            println!("  encoded, {} {rate:9.0} ticks/s", if play_too { "all     " } else { "no play " });
            for (kind, (n, bytes, seconds)) in encodes.by_kind {
                println!("    {kind:22} {n:7} events {:6} bytes each {:8.3} s in all", bytes / n, seconds);
            }
        }
    }
}
