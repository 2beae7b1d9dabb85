//! What can be asked of a session.

use super::{Applied, Bullet, Effect, EndReason, RewardEntry, Rules, Tank, TankRecord};
use crate::{
    Map, NetId, Role, TankConfig, TankId, TileChange,
    map::{Cell, tile},
};

impl Rules {
    pub fn map(&self) -> &Map {
        &self.map
    }

    pub fn config(&self) -> &TankConfig {
        &self.config
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn ticks(&self) -> u64 {
        self.tick
    }

    /// Living tanks in the order in which they came.
    pub fn tanks(&self) -> &[Tank] {
        &self.tanks
    }

    pub fn tank(&self, id: TankId) -> Option<&Tank> {
        self.tanks.iter().find(|t| t.id == id)
    }

    /// A tank by its network id or its internal id.
    pub fn tank_named(&self, name: &str) -> Option<&Tank> {
        match NetId::parse(name).and_then(|id| self.tank(id)) {
            Some(tank) => Some(tank),
            None => self.tanks.iter().find(|t| self.internal_id(t.id) == name),
        }
    }

    /// The UUID that a tank or bullet has inside the session; a function of the seed and the network id.
    pub fn internal_id(&self, id: NetId) -> String {
        let mut bytes = [0u8; 16];
        bytes[..8].copy_from_slice(&self.seed.to_le_bytes());
        bytes[8..].copy_from_slice(&id.0.to_le_bytes());
        let hash = xxhash_rust::xxh3::xxh3_128(&bytes);
        // Version 8 (made by the application), variant 1.
        let hash = hash & !(0xf << 76) & !(0x3 << 62) | 0x8 << 76 | 0x2 << 62;
        let text = format!("{hash:032x}");
        format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
    }

    pub fn bullets(&self) -> &[Bullet] {
        &self.bullets
    }

    /// Tile ids, row by row.
    pub fn tiles(&self) -> &[u8] {
        &self.tiles
    }

    /// Rises whenever a tile changes.
    pub fn tiles_revision(&self) -> u64 {
        self.tiles_revision
    }

    /// Where the HQ stands; `None` once it has fallen.
    pub fn hq_cell(&self) -> Option<Cell> {
        let cell = self.map.hq();
        (self.tiles[(cell.row * self.cols + cell.col) as usize] == tile::HQ).then_some(cell)
    }

    pub fn end(&self) -> Option<EndReason> {
        self.end
    }

    /// For the AI side, `None` before the end: +1 won, -1 the clock ran out on a standing HQ and a living player, 0
    /// otherwise.
    pub fn outcome(&self) -> Option<i8> {
        let held_out = self.hq_cell().is_some() && self.tanks.iter().any(|t| !t.is_ai());
        Some(match self.end? {
            EndReason::TimeLimit if !held_out => 0,
            end => end.outcome(),
        })
    }

    pub fn enemies_destroyed(&self) -> u32 {
        self.enemies_destroyed
    }

    /// Effects of the last tick.
    pub fn effects(&self) -> &[Effect] {
        &self.effects
    }

    /// Tiles changed in the last tick.
    pub fn tiles_changed(&self) -> &[TileChange] {
        &self.tiles_changed
    }

    /// Inputs applied in the last tick, repeats included, in order.
    pub fn applied(&self) -> &[Applied] {
        &self.applied
    }

    /// Tanks removed in the last tick.
    pub fn removed(&self) -> &[TankId] {
        &self.removed
    }

    /// Entries of the transition that the last tick made due; empty otherwise.
    pub fn rewards(&self) -> &[RewardEntry] {
        &self.rewards
    }

    /// AI tanks of the whole game, in the order in which they came.
    pub fn records(&self) -> Vec<TankRecord> {
        let living = self.tanks.iter().map(|t| t.record);
        let mut all: Vec<TankRecord> =
            self.fallen.iter().copied().chain(living).filter(|r| r.kind.role() == Role::Ai).collect();
        all.sort_by_key(|r| r.tank);
        all
    }

    /// 32-bit words drawn from the generator so far.
    pub fn rng_position(&self) -> u64 {
        self.rng.get_word_pos() as u64
    }
}
