//! Ticks per CPU-second of the rules alone, and of whole headless games; `flywheel bench sim` measures the same in
//! windows: `cargo run --release -p flywheel-tank --example sim`.

use flywheel_tank::{
    Action, Decide, Headless, InputSource, Map, OBSERVATION_LEN, Role, Rules, Script, TankConfig, TankId,
};

const DECISION_TICKS: u64 = 4;

/// CPU time of this process; of its only thread.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").expect("Linux shows its scheduler's accounts");
    text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).expect("the first field is nanoseconds") * 1e-9
}

fn main() {
    let mut games = Games::new();
    for _ in 0..5 {
        let (start, ticks) = (cpu_seconds(), games.run(2_000_000));
        println!("rules    {:9.0} ticks/s", ticks as f64 / (cpu_seconds() - start));
    }
    println!("         {} games", games.played);
    for opponent in Script::ALL {
        let (start, mut ticks) = (cpu_seconds(), 0);
        for seed in 0..200u64 {
            let map = &Map::shipped()[seed as usize % Map::shipped().len()];
            let config = TankConfig { transition_interval: DECISION_TICKS as u32, ..TankConfig::default() };
            ticks += Headless::new(map, &config, seed, opponent).expect("a spawn is free").play(&mut Spread).ticks;
        }
        println!("{opponent:8} {:9.0} ticks/s over {ticks} ticks", ticks as f64 / (cpu_seconds() - start));
    }
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

struct Games {
    rules: Rules,
    player: TankId,
    played: u64,
    word: u64,
}

impl Games {
    fn new() -> Self {
        let (rules, player) = Self::start(0);
        Self { rules, player, played: 0, word: 1 }
    }

    fn start(seed: u64) -> (Rules, TankId) {
        let map = &Map::shipped()[seed as usize % Map::shipped().len()];
        let config = TankConfig {
            enemy_spawn_interval_ticks: 1,
            transition_interval: DECISION_TICKS as u32,
            ..TankConfig::default()
        };
        let mut rules = Rules::new(map, &config, seed).expect("the settings are valid");
        let player = rules.add_player(None).expect("shipped maps have player spawns").id;
        (rules, player)
    }

    fn input(&mut self) -> Action {
        // Marsaglia's xorshift64.
        self.word ^= self.word << 13;
        self.word ^= self.word >> 7;
        self.word ^= self.word << 17;
        Action::from_index((self.word >> 33) as usize % 10).expect("the index is below 10")
    }

    fn run(&mut self, ticks: u64) -> u64 {
        let mut action = Action::NOTHING;
        for _ in 0..ticks {
            if self.rules.ticks().is_multiple_of(DECISION_TICKS) {
                action = self.input();
                for i in 0..self.rules.tanks().len() {
                    let (id, role) = (self.rules.tanks()[i].id, self.rules.tanks()[i].kind.role());
                    if role == Role::Ai {
                        let action = self.input();
                        // Its queue is emptied every tick, so it has room.
                        let _ = self.rules.queue_input(id, action, InputSource::Farm);
                    }
                }
            }
            // The player is gone only when the game is over.
            let _ = self.rules.queue_input(self.player, action, InputSource::Farm);
            if self.rules.tick().ended.is_some() {
                self.played += 1;
                (self.rules, self.player) = Self::start(self.played);
            }
        }
        ticks
    }
}
