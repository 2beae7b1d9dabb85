//! The tank game seen from outside: maps, wire forms, observations, scripts, headless games, replays.

mod experience;
mod games;
mod maps;
mod observe;
mod replay;
mod rewind;
mod wire;

use flywheel_tank::{
    Action, ClientView, Decide, InputSource, Map, OBSERVATION_LEN, Role, Rules, STATE_LEN, TankConfig,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Uniformly random actions.
pub struct RandomAi(pub ChaCha8Rng);

impl RandomAi {
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }
}

impl Decide for RandomAi {
    fn decide(&mut self, _observations: &[f32], n: usize, actions: &mut Vec<u8>) {
        actions.extend((0..n).map(|_| self.0.random_range(0..10u8)));
    }
}

/// Along the longer axis to the HQ, always firing; along the other while that is blocked.
pub struct GreedyAi;

impl Decide for GreedyAi {
    fn decide(&mut self, observations: &[f32], _n: usize, actions: &mut Vec<u8>) {
        actions.extend(observations.chunks_exact(OBSERVATION_LEN).map(|s| {
            let v = &s[OBSERVATION_LEN - STATE_LEN..];
            let (dx, dy, blocked) = (v[12], v[13], v[16] >= 0.8);
            let horizontal = if dx < 0.0 { 8 } else { 9 };
            let vertical = if dy < 0.0 { 6 } else { 7 };
            if (dx.abs() > dy.abs()) != blocked { horizontal } else { vertical }
        }));
    }
}

/// A session with a player, whose every tank gets random inputs now and then.
pub struct Brawl {
    pub rules: Rules,
    rng: ChaCha8Rng,
}

impl Brawl {
    pub fn new(map: &Map, config: &TankConfig, seed: u64) -> Self {
        let mut rules = Rules::new(map, config, seed).unwrap();
        rules.add_player(None).unwrap();
        Self { rules, rng: ChaCha8Rng::seed_from_u64(!seed) }
    }

    pub fn tick(&mut self) {
        let tanks: Vec<_> = self.rules.tanks().iter().map(|t| (t.id, t.kind.role())).collect();
        for (id, role) in tanks {
            if self.rng.random_bool(if role == Role::Player { 0.9 } else { 0.2 }) {
                let action = Action::from_index(self.rng.random_range(0..10)).unwrap();
                let _ = self.rules.queue_input(id, action, InputSource::Ws);
            }
        }
        self.rules.tick();
    }
}

/// Many tanks soon, so that much happens.
pub fn busy() -> TankConfig {
    TankConfig { enemy_spawn_interval_ticks: 10, ..TankConfig::default() }
}

pub fn view_of(rules: &Rules) -> ClientView {
    let mut view = ClientView::new(rules.map());
    view.refresh(rules);
    view
}
