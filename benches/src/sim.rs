//! Headless tank simulation: rules alone, no sockets, no JSON, no networks.

use flywheel_tank::{
    Action, Decide, Headless, InputSource, Map, OBSERVATION_LEN, Role, Rules, Script, TankConfig, TankId,
};

use crate::{Figure, Options, per_cpu_second};

/// Ticks between two new inputs; in between the AI tanks repeat their last one.
const DECISION_TICKS: u64 = 4;

/// `ticks_per_cpu_second`: one player and four AI tanks on the shipped maps in turn. All five drive and fire by a
/// fixed sequence of pseudo-random inputs, a new one every four ticks; the player sends its input on every tick.
/// AI tanks spawn on every tick below the cap, so that four are alive throughout. Rewards, state effects and
/// respawns are part of it. A game that ends is followed by the next.
///
/// `headless_ticks_per_cpu_second`: whole games as the judge plays them, against the hunter, with observations of
/// all AI tanks every four ticks and a decision that costs nothing.
///
/// # Errors
/// Never; the signature is that of all benches.
pub fn run(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let mut games = Games::new();
    let simulated = per_cpu_second(options.window, || games.run(20_000));
    let mut seed = 0;
    let headless = per_cpu_second(options.window, || {
        seed += 1;
        let map = &Map::shipped()[seed as usize % Map::shipped().len()];
        let config = TankConfig { transition_interval: DECISION_TICKS as u32, ..TankConfig::default() };
        Headless::new(map, &config, seed, Script::Hunter)
            .expect("shipped maps have player spawns")
            .play(&mut Spread)
            .ticks
    });
    Ok(vec![
        Figure::new("sim", "ticks_per_cpu_second", "ticks/s", &simulated),
        Figure::new("sim", "headless_ticks_per_cpu_second", "ticks/s", &headless),
    ])
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
