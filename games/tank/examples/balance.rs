//! How often the AI side wins on each map against each script, for policies that have learnt nothing and for a
//! greedy one that sees only the state vector: `cargo run --release -p flywheel-tank --example balance -- 40`.

use std::collections::BTreeMap;

use flywheel_tank::{Decide, EndReason, Headless, Map, OBSERVATION_LEN, STATE_LEN, Script, TankConfig};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

enum Policy {
    Random(Box<ChaCha8Rng>),
    Constant(u8),
    /// 108 – 64 – 10, He-initialised.
    Network(Vec<f32>, Vec<f32>),
    Greedy,
}

impl Policy {
    fn network(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut layer = |n: usize, fan_in: usize| -> Vec<f32> {
            let scale = (6.0 / fan_in as f32).sqrt();
            (0..n).map(|_| rng.random_range(-scale..scale)).collect()
        };
        Self::Network(layer(64 * OBSERVATION_LEN, OBSERVATION_LEN), layer(10 * 64, 64))
    }

    fn act(&mut self, s: &[f32]) -> u8 {
        match self {
            Self::Random(rng) => rng.random_range(0..10),
            Self::Constant(a) => *a,
            Self::Network(first, second) => {
                let hidden: Vec<f32> = first
                    .chunks(OBSERVATION_LEN)
                    .map(|w| w.iter().zip(s).map(|(a, b)| a * b).sum::<f32>().max(0.0))
                    .collect();
                let q: Vec<f32> = second.chunks(64).map(|w| w.iter().zip(&hidden).map(|(a, b)| a * b).sum()).collect();
                (0..10).fold(0, |best, i| if q[i] > q[best] { i } else { best }) as u8
            }
            Self::Greedy => greedy(&s[OBSERVATION_LEN - STATE_LEN..]),
        }
    }
}

/// Along the longer axis to the HQ, always firing; along the other while that is blocked.
fn greedy(v: &[f32]) -> u8 {
    let (dx, dy, idle) = (v[12], v[13], v[16]);
    let horizontal = if dx < 0.0 { 8 } else { 9 };
    let vertical = if dy < 0.0 { 6 } else { 7 };
    let blocked = idle >= 0.8;
    if (dx.abs() > dy.abs()) != blocked { horizontal } else { vertical }
}

impl Decide for Policy {
    fn decide(&mut self, observations: &[f32], _n: usize, actions: &mut Vec<u8>) {
        actions.extend(observations.chunks(OBSERVATION_LEN).map(|s| self.act(s)));
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let games: u64 = args.next().and_then(|n| n.parse().ok()).unwrap_or(20);
    let only = args.next();
    let config = TankConfig { transition_interval: 4, ..TankConfig::default() };
    // Standing still, driving without firing: nothing to see.
    let constants: Vec<String> = (5..10).map(|a| format!("constant{a}")).collect();
    let mut names = vec!["random", "network", "greedy"];
    names.extend(constants.iter().map(String::as_str));
    for map in Map::shipped() {
        for opponent in [Script::Camper, Script::Hunter] {
            for name in &names {
                if only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
                    continue;
                }
                let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
                let (mut won, mut ticks) = (0, 0);
                for seed in 0..games {
                    let mut policy = match *name {
                        "random" => Policy::Random(Box::new(ChaCha8Rng::seed_from_u64(seed))),
                        "network" => Policy::network(seed),
                        "greedy" => Policy::Greedy,
                        constant => Policy::Constant(constant["constant".len()..].parse().unwrap()),
                    };
                    let mut game = Headless::new(map, &config, seed, opponent).unwrap();
                    let result = game.play(&mut policy);
                    *ends.entry(result.reason.as_str()).or_default() += 1;
                    won += u64::from(result.reason != EndReason::TimeLimit);
                    ticks += result.ticks;
                }
                println!(
                    "{:12} {:7} {:10} won {:5.1} %  ticks {:6.0}  {ends:?}",
                    map.name(),
                    opponent,
                    name,
                    100.0 * won as f64 / games as f64,
                    ticks as f64 / games as f64,
                );
            }
        }
    }
}
