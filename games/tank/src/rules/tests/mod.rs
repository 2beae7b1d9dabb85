//! Hand-worked cases: what one tick does to tanks, bullets, tiles and rewards.

mod bullets;
mod driving;
mod endings;
mod entering;
mod rewards;
mod tables;

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{rewards::cell_rect, *};
use crate::{TABLE, table_hash};

/// A 512 px map of soil: HQ at the bottom left, an AI spawn at the top right, player spawns at the bottom right.
pub(super) fn open_map(edit: impl FnOnce(&mut Vec<Vec<u8>>)) -> Map {
    let mut tiles = vec![vec![tile::SOIL; 32]; 32];
    tiles[30][1] = tile::HQ;
    tiles[1][30] = tile::AI_SPAWN;
    tiles[30][26] = tile::PLAYER_SPAWN;
    tiles[30][30] = tile::PLAYER_SPAWN;
    edit(&mut tiles);
    Map::from_tiles("test.json", 512, 16, &tiles).unwrap()
}

/// Nothing spawns by itself.
fn quiet() -> TankConfig {
    TankConfig { enemy_spawn_interval_ticks: 1_000_000, ..TankConfig::default() }
}

fn rules_on(map: &Map) -> Rules {
    Rules::new(map, &quiet(), 1).unwrap()
}

fn put(rules: &mut Rules, kind: TankKind, x: i32, y: i32, dir: Move) -> TankId {
    let part = PlayerPart { spawn_index: 0, respawns_left: rules.config.max_player_respawns };
    let id = rules.enter(kind, x, y, (kind.role() == Role::Player).then_some(part));
    rules.tanks.last_mut().unwrap().dir = dir;
    assert!(rules.may_stand(bounds_at(kind, x, y), Some(rules.tanks.len() - 1)), "the tank must fit");
    id
}

fn send(rules: &mut Rules, id: TankId, action: Action) {
    rules.queue_input(id, action, InputSource::Ws).unwrap();
}

const FIRE: Action = Action { movement: None, fire: true };

fn reward(rules: &Rules, id: TankId) -> RewardEntry {
    *rules.rewards().iter().find(|entry| entry.tank == id).expect("the tank has an entry")
}

fn reasons(rules: &Rules, id: TankId) -> Vec<&'static str> {
    reward(rules, id).reasons.iter().collect()
}
