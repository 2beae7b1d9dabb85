//! The rules of one session: what happens in one tick, in the order of the spec's section 7.3.
//!
//! Randomness is one ChaCha8 generator seeded with the session's seed. A spawn attempt below the cap draws two
//! 32-bit words: first the type index (`word * 4 >> 32` into the AI types), then the start index
//! (`word * n >> 32` into the map's AI spawns). Nothing else draws.

pub mod ballistics;
mod hash;
#[cfg(test)]
mod oracle_tests;
mod rewards;
mod tank;
#[cfg(test)]
mod tests;

pub use ballistics::Rect;
use ballistics::{Contact, Flight, Grid};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
pub(crate) use rewards::Bounty;
pub use rewards::{IDLE_TICKS, Reason, Reasons, RewardEntry, STALL_TICKS, TURN_TICKS};
use tank::{AiPart, PlayerPart};
pub use tank::{InputSource, QUEUE_LEN, Tank, bounds_at};

use crate::{
    Action, ConfigError, Map, Move, NetId, Role, TankConfig, TankId, TankKind,
    map::{Cell, TILE, tile},
};

/// Player inputs that one tick takes; more are refused.
pub const MAX_PLAYER_INPUTS: usize = 64;
/// An AI queue longer than this is worth a warning.
pub const QUEUE_WARN: usize = 3;

/// Why a session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    PlayerDestroyed,
    HqDestroyed,
    TimeLimit,
}

impl EndReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PlayerDestroyed => "player_destroyed",
            Self::HqDestroyed => "hq_destroyed",
            Self::TimeLimit => "time_limit",
        }
    }

    /// For the AI side: +1 when the players lost, -1 when they held out.
    pub fn outcome(self) -> i8 {
        match self {
            Self::PlayerDestroyed | Self::HqDestroyed => 1,
            Self::TimeLimit => -1,
        }
    }
}

/// What the rules refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("map `{map}` has no free player spawn: {players} of {spawns} are taken or blocked")]
    NoFreeSpawn { map: String, players: usize, spawns: usize },
    #[error("`{0}` is not a player's tank type")]
    NotAPlayerKind(String),
    #[error("tank {0} is not in this session")]
    UnknownTank(TankId),
    #[error("tank {0} has {QUEUE_LEN} inputs waiting; this one is dropped")]
    QueueFull(TankId),
    #[error("{MAX_PLAYER_INPUTS} player inputs wait for the next tick; this one is dropped")]
    TooManyPlayerInputs,
    #[error("the game is over")]
    GameOver,
}

/// A bullet in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bullet {
    pub id: NetId,
    pub owner: TankId,
    pub x: i32,
    pub y: i32,
    pub dir: Move,
    pub radius: i32,
    pub speed: i32,
}

/// Something to see or hear in one tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect {
    pub kind: EffectKind,
    pub x: i32,
    pub y: i32,
    pub tank: Option<TankId>,
    pub label: Option<TankKind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EffectKind {
    GameStart,
    Fire,
    Hit,
    HitTank,
    DestroyTank,
    DestroyHq,
    GameOver,
    AiSpawn,
}

/// A tile that a bullet changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TileChange {
    pub row: u16,
    pub col: u16,
    #[serde(rename = "tileId")]
    pub tile_id: u8,
}

/// An input as it was applied in a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    pub tank: TankId,
    pub role: Role,
    pub action: Action,
    pub source: InputSource,
}

/// One tank's whole game so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TankRecord {
    pub tank: TankId,
    pub kind: TankKind,
    /// Sum of the rewards handed out in transitions.
    pub episode_return: f32,
    pub shots: u32,
    /// Shots predicted to hit a player or the HQ.
    pub predicted_hits: u32,
    pub damage_dealt: u32,
    pub damage_taken: u32,
}

/// A player that has just joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    pub id: TankId,
    pub kind: TankKind,
    /// Index into [`Map::player_spawns`].
    pub spawn_index: u32,
}

/// What one tick came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TickReport {
    pub tick: u64,
    /// The game ended in this very tick.
    pub ended: Option<EndReason>,
    /// [`Rules::rewards`] holds the entries of a transition.
    pub transition_due: bool,
}

/// One session.
///
/// The same map, config, seed, joins and inputs give the same states on every machine. [`Rules::tick`] does not
/// allocate once its buffers have grown, except for a new tank.
#[derive(Debug, Clone)]
pub struct Rules {
    map: Map,
    config: TankConfig,
    weight_table: [f32; Reason::COUNT],
    seed: u64,
    rng: ChaCha8Rng,
    tick: u64,
    spawn_timer: u32,
    next_id: u64,
    cols: i32,
    tiles: Vec<u8>,
    /// Rises whenever a tile changes.
    tiles_revision: u64,
    explorable: u32,
    tanks: Vec<Tank>,
    bullets: Vec<Bullet>,
    player_inputs: Vec<(TankId, Action, InputSource)>,
    end: Option<EndReason>,
    /// The last transition has been handed out.
    settled: bool,
    enemies_destroyed: u32,
    /// Entries of tanks destroyed since the last transition.
    gone: Vec<RewardEntry>,
    fallen: Vec<TankRecord>,
    // Of the last tick.
    effects: Vec<Effect>,
    tiles_changed: Vec<TileChange>,
    applied: Vec<Applied>,
    removed: Vec<TankId>,
    rewards: Vec<RewardEntry>,
}

impl Rules {
    /// A session at tick 0 without tanks.
    ///
    /// # Errors
    /// If a setting makes no sense.
    pub fn new(map: &Map, config: &TankConfig, seed: u64) -> Result<Self, RulesError> {
        config.validate()?;
        let (hq_x, hq_y) = map.hq().centre();
        let start = Effect { kind: EffectKind::GameStart, x: hq_x, y: hq_y, tank: None, label: None };
        Ok(Self {
            weight_table: config.weights.table(),
            seed,
            rng: ChaCha8Rng::seed_from_u64(seed),
            tick: 0,
            spawn_timer: 0,
            next_id: 1,
            cols: map.cols(),
            tiles: map.tiles().to_vec(),
            tiles_revision: 0,
            explorable: map.explorable(),
            tanks: Vec::with_capacity(8),
            bullets: Vec::with_capacity(16),
            player_inputs: Vec::new(),
            end: None,
            settled: false,
            enemies_destroyed: 0,
            gone: Vec::new(),
            fallen: Vec::new(),
            effects: vec![start],
            tiles_changed: Vec::new(),
            applied: Vec::new(),
            removed: Vec::new(),
            rewards: Vec::new(),
            map: map.clone(),
            config: config.clone(),
        })
    }

    /// Puts a player on the first spawn that no other player has and that is not blocked.
    ///
    /// # Errors
    /// `NoFreeSpawn`, `NotAPlayerKind`, `GameOver`.
    pub fn add_player(&mut self, kind: Option<TankKind>) -> Result<Joined, RulesError> {
        let kind = kind.unwrap_or(self.config.player_label);
        if kind.role() != Role::Player {
            return Err(RulesError::NotAPlayerKind(kind.to_string()));
        }
        if self.end.is_some() {
            return Err(RulesError::GameOver);
        }
        let taken: Vec<u32> = self.tanks.iter().filter_map(|t| t.player.map(|p| p.spawn_index)).collect();
        let spawns = self.map.player_spawns().len();
        let found = (0..spawns as u32)
            .filter(|index| !taken.contains(index))
            .find_map(|index| Some((index, self.place(kind, self.map.player_spawns()[index as usize], None)?)));
        let Some((spawn_index, (x, y))) = found else {
            return Err(RulesError::NoFreeSpawn { map: self.map.name().to_owned(), players: taken.len(), spawns });
        };
        let player = PlayerPart { spawn_index, respawns_left: self.config.max_player_respawns };
        let id = self.enter(kind, x, y, Some(player));
        Ok(Joined { id, kind, spawn_index })
    }

    /// Queues one input. A player's inputs are all applied in the next tick, in order of arrival; of an AI
    /// tank's queue one is taken each tick. Returns how many then wait for that tank.
    ///
    /// # Errors
    /// `UnknownTank`, `QueueFull`, `TooManyPlayerInputs`; the input is dropped.
    pub fn queue_input(&mut self, tank: TankId, action: Action, source: InputSource) -> Result<usize, RulesError> {
        let index = self.index_of(tank).ok_or(RulesError::UnknownTank(tank))?;
        if let Some(ai) = self.tanks[index].ai.as_deref_mut() {
            if !ai.queue.push(action, source) {
                return Err(RulesError::QueueFull(tank));
            }
            return Ok(ai.queue.len());
        }
        if self.player_inputs.len() >= MAX_PLAYER_INPUTS {
            return Err(RulesError::TooManyPlayerInputs);
        }
        self.player_inputs.push((tank, action, source));
        Ok(self.player_inputs.iter().filter(|(id, ..)| *id == tank).count())
    }

    /// One tick. What happened is read off the accessors until the next.
    pub fn tick(&mut self) -> TickReport {
        self.effects.clear();
        self.tiles_changed.clear();
        self.applied.clear();
        self.removed.clear();
        self.rewards.clear();
        self.tick += 1;
        let was_over = self.end.is_some();
        if !was_over {
            self.spawn_timer += 1;
            if self.spawn_timer >= self.config.enemy_spawn_interval_ticks {
                self.spawn_timer = 0;
                self.try_spawn();
            }
        }
        self.apply_inputs();
        self.fly_bullets();
        for tank in &mut self.tanks {
            tank.shoot_cooldown = tank.shoot_cooldown.saturating_sub(1);
        }
        if self.end.is_none() && self.tick >= u64::from(self.config.max_ticks_per_episode) {
            self.end = Some(EndReason::TimeLimit);
        }
        let ended = if was_over { None } else { self.end };
        let mut transition_due = false;
        if !was_over {
            self.score_tick(ended == Some(EndReason::HqDestroyed));
            transition_due = ended.is_some() || self.tick.is_multiple_of(u64::from(self.config.transition_interval));
            if transition_due {
                self.settle_transition();
            }
            self.settled = ended.is_some();
        }
        if ended.is_some() {
            let (x, y) = self.map.hq().centre();
            self.effects.push(Effect { kind: EffectKind::GameOver, x, y, tank: None, label: None });
        }
        TickReport { tick: self.tick, ended, transition_due }
    }

    fn try_spawn(&mut self) {
        let n_spawns = self.map.ai_spawns().len();
        let cap = (self.config.max_enemies_alive as usize).min(n_spawns);
        if self.tanks.iter().filter(|t| t.is_ai()).count() >= cap {
            return;
        }
        let kind = TankKind::AI[self.draw(TankKind::AI.len())];
        let start = self.draw(n_spawns);
        let found = (0..n_spawns).find_map(|i| self.place(kind, self.map.ai_spawns()[(start + i) % n_spawns], None));
        if let Some((x, y)) = found {
            let id = self.enter(kind, x, y, None);
            self.effects.push(Effect { kind: EffectKind::AiSpawn, x, y, tank: Some(id), label: Some(kind) });
        }
    }

    /// A number below `n` from one 32-bit word.
    fn draw(&mut self, n: usize) -> usize {
        ((u64::from(self.rng.next_u32()) * n as u64) >> 32) as usize
    }

    fn enter(&mut self, kind: TankKind, x: i32, y: i32, player: Option<PlayerPart>) -> TankId {
        let id = self.take_id();
        let ai = player.is_none().then(|| Box::new(AiPart::new(self.tiles.len(), x, y)));
        let record = TankRecord {
            tank: id,
            kind,
            episode_return: 0.0,
            shots: 0,
            predicted_hits: 0,
            damage_dealt: 0,
            damage_taken: 0,
        };
        let health = kind.spec().health;
        self.tanks.push(Tank { id, kind, x, y, dir: Move::Up, health, shoot_cooldown: 0, player, ai, record });
        id
    }

    fn take_id(&mut self) -> NetId {
        let id = NetId(self.next_id);
        self.next_id += 1;
        id
    }

    /// The first centre over the 3×3 tiles round a spawn, top-left first, where the tank may stand.
    fn place(&self, kind: TankKind, spawn: Cell, except: Option<usize>) -> Option<(i32, i32)> {
        (0..9).find_map(|i| {
            let (x, y) = Cell { row: spawn.row - 1 + i / 3, col: spawn.col - 1 + i % 3 }.centre();
            self.may_stand(bounds_at(kind, x, y), except).then_some((x, y))
        })
    }

    /// Whether a bound rectangle lies inside the map, on enterable tiles only, over no tank but `except`.
    #[inline]
    fn may_stand(&self, rect: Rect, except: Option<usize>) -> bool {
        let size = self.cols * TILE;
        if rect.left < 0 || rect.top < 0 || rect.right >= size || rect.bottom >= size {
            return false;
        }
        for row in rect.top >> 4..=rect.bottom >> 4 {
            let line = &self.tiles[(row * self.cols) as usize..][..self.cols as usize];
            if line[(rect.left >> 4) as usize..=(rect.right >> 4) as usize].iter().any(|&id| !tile::is_enterable(id)) {
                return false;
            }
        }
        self.tanks.iter().enumerate().all(|(i, other)| Some(i) == except || !rect.overlaps(&other.bounds()))
    }

    fn apply_inputs(&mut self) {
        if self.end.is_some() {
            self.player_inputs.clear();
            for tank in &mut self.tanks {
                if let Some(ai) = tank.ai.as_deref_mut() {
                    ai.queue.clear();
                }
            }
            return;
        }
        for tank in &mut self.tanks {
            if let Some(ai) = tank.ai.as_deref_mut() {
                (ai.moved, ai.blocked, ai.turned, ai.got_hit) = (false, false, false, false);
            }
        }
        let mut player_inputs = std::mem::take(&mut self.player_inputs);
        for (id, action, source) in player_inputs.drain(..) {
            if let Some(index) = self.index_of(id) {
                self.apply(index, action, source);
            }
        }
        self.player_inputs = player_inputs;
        for index in 0..self.tanks.len() {
            let Some(ai) = self.tanks[index].ai.as_deref_mut() else { continue };
            let next = match ai.queue.pop() {
                Some((action, source)) => {
                    ai.last = Some(action);
                    Some((action, source))
                }
                None => ai.last.map(|action| (action, InputSource::Repeat)),
            };
            if let Some((action, source)) = next {
                self.apply(index, action, source);
            }
        }
    }

    fn apply(&mut self, index: usize, action: Action, source: InputSource) {
        let Tank { id, kind, .. } = self.tanks[index];
        self.applied.push(Applied { tank: id, role: kind.role(), action, source });
        if let Some(movement) = action.movement {
            self.drive(index, movement);
        }
        if action.fire && self.tanks[index].shoot_cooldown == 0 {
            self.fire(index);
        }
    }

    fn drive(&mut self, index: usize, movement: Move) {
        let tank = &self.tanks[index];
        let (kind, mut x, mut y, turned) = (tank.kind, tank.x, tank.y, tank.dir != movement);
        let speed = kind.spec().speed;
        // First x, then y; a direction has only one of them.
        if movement.dx() != 0 && self.may_stand(bounds_at(kind, x + movement.dx() * speed, y), Some(index)) {
            x += movement.dx() * speed;
        }
        if movement.dy() != 0 && self.may_stand(bounds_at(kind, x, y + movement.dy() * speed), Some(index)) {
            y += movement.dy() * speed;
        }
        let tank = &mut self.tanks[index];
        let moved = (x, y) != (tank.x, tank.y);
        (tank.x, tank.y, tank.dir) = (x, y, movement);
        if let Some(ai) = tank.ai.as_deref_mut() {
            ai.moved |= moved;
            ai.blocked |= !moved;
            ai.turned |= turned;
        }
    }

    fn fire(&mut self, index: usize) {
        let id = self.take_id();
        let tank = &mut self.tanks[index];
        let spec = tank.kind.spec();
        let (x, y) = tank.muzzle();
        tank.shoot_cooldown = spec.cooldown;
        tank.record.shots += 1;
        let (owner, dir, is_ai) = (tank.id, tank.dir, tank.is_ai());
        self.bullets.push(Bullet { id, owner, x, y, dir, radius: spec.shell_radius, speed: spec.shell_speed });
        self.effects.push(Effect { kind: EffectKind::Fire, x, y, tank: Some(owner), label: None });
        let flight = Flight { x, y, dir, radius: spec.shell_radius };
        let Some((_, contact)) = self.contact(flight, self.cols * TILE, owner) else { return };
        let reason = match contact {
            Contact::Edge => None,
            Contact::Tile { row, col } => Some(match self.tiles[(row * self.cols + col) as usize] {
                tile::HQ => Reason::DestroyHq,
                tile::BRICK => Reason::DestructiveShot,
                _ => Reason::BlockedShot,
            }),
            Contact::Tank(hit) => match self.tanks[hit].ai.as_deref_mut() {
                None => Some(Reason::HitPlayer),
                Some(ai) => {
                    ai.got_hit = true;
                    Some(Reason::HitAlly)
                }
            },
        };
        if let (true, Some(reason)) = (is_ai, reason) {
            let tank = &mut self.tanks[index];
            tank.record.predicted_hits += u32::from(matches!(reason, Reason::HitPlayer | Reason::DestroyHq));
            if let Some(ai) = tank.ai.as_deref_mut() {
                ai.bounty.add(&self.weight_table, reason);
            }
        }
    }

    #[inline]
    fn contact(&self, flight: Flight, steps: i32, owner: TankId) -> Option<(i32, Contact)> {
        let grid = Grid { tiles: &self.tiles, cols: self.cols };
        let targets = self.tanks.iter().enumerate().filter(|(_, t)| t.id != owner).map(|(i, t)| (i, t.bounds()));
        ballistics::first_contact(grid, flight, steps, targets)
    }

    fn fly_bullets(&mut self) {
        let mut kept = 0;
        for i in 0..self.bullets.len() {
            let mut bullet = self.bullets[i];
            let flight = Flight { x: bullet.x, y: bullet.y, dir: bullet.dir, radius: bullet.radius };
            let contact = self.contact(flight, bullet.speed, bullet.owner);
            let steps = contact.map_or(bullet.speed, |(steps, _)| steps);
            bullet.x += bullet.dir.dx() * steps;
            bullet.y += bullet.dir.dy() * steps;
            match contact {
                None => {
                    self.bullets[kept] = bullet;
                    kept += 1;
                }
                Some((_, Contact::Edge)) => {}
                Some((_, Contact::Tile { row, col })) => self.hit_tile(bullet, row, col),
                Some((_, Contact::Tank(index))) => self.hit_tank(bullet, index),
            }
        }
        self.bullets.truncate(kept);
    }

    fn hit_tile(&mut self, bullet: Bullet, row: i32, col: i32) {
        let at = (row * self.cols + col) as usize;
        let id = self.tiles[at];
        let Bullet { x, y, .. } = bullet;
        self.effects.push(Effect { kind: EffectKind::Hit, x, y, tank: None, label: None });
        if !tile::is_destructible(id) {
            return;
        }
        self.tiles[at] = tile::SOIL;
        self.tiles_revision += 1;
        self.tiles_changed.push(TileChange { row: row as u16, col: col as u16, tile_id: tile::SOIL });
        if id == tile::HQ {
            let (x, y) = Cell { row, col }.centre();
            self.effects.push(Effect { kind: EffectKind::DestroyHq, x, y, tank: None, label: None });
            self.end.get_or_insert(EndReason::HqDestroyed);
        }
    }

    fn hit_tank(&mut self, bullet: Bullet, index: usize) {
        let Bullet { x, y, owner, .. } = bullet;
        let tank = &mut self.tanks[index];
        tank.health -= 1;
        tank.record.damage_taken += 1;
        let (id, health, tank_x, tank_y, kind) = (tank.id, tank.health, tank.x, tank.y, tank.kind);
        self.effects.push(Effect { kind: EffectKind::HitTank, x, y, tank: Some(id), label: None });
        if let Some(record) = self.record_mut(owner) {
            record.damage_dealt += 1;
        }
        if health > 0 {
            return;
        }
        self.effects.push(Effect { kind: EffectKind::DestroyTank, x: tank_x, y: tank_y, tank: Some(id), label: None });
        let Some(player) = self.tanks[index].player else {
            return self.bury(index);
        };
        if player.respawns_left == 0 {
            self.end.get_or_insert(EndReason::PlayerDestroyed);
            self.removed.push(id);
            let tank = self.tanks.remove(index);
            self.fallen.push(tank.record);
            return;
        }
        // With the spawn and everything round it blocked, the tank comes back where it fell.
        let spawn = self.map.player_spawns()[player.spawn_index as usize];
        let (x, y) = self.place(kind, spawn, Some(index)).unwrap_or((tank_x, tank_y));
        let tank = &mut self.tanks[index];
        (tank.x, tank.y, tank.dir, tank.health, tank.shoot_cooldown) = (x, y, Move::Up, kind.spec().health, 0);
        tank.player = Some(PlayerPart { respawns_left: player.respawns_left - 1, ..player });
    }

    /// Removes an AI tank; its last rewards wait for the next transition.
    fn bury(&mut self, index: usize) {
        let mut tank = self.tanks.remove(index);
        self.enemies_destroyed += 1;
        self.removed.push(tank.id);
        let mut bounty = tank.ai.take().map(|ai| ai.bounty).unwrap_or_default();
        bounty.add(&self.weight_table, Reason::Death);
        if !self.settled {
            let (reward, reasons) = (bounty.sum, bounty.reasons);
            self.gone.push(RewardEntry { tank: tank.id, kind: tank.kind, reward, reasons, gone: true });
            tank.record.episode_return += bounty.sum;
        }
        self.fallen.push(tank.record);
    }

    fn record_mut(&mut self, id: TankId) -> Option<&mut TankRecord> {
        match self.tanks.iter().position(|t| t.id == id) {
            Some(index) => Some(&mut self.tanks[index].record),
            None => self.fallen.iter_mut().find(|r| r.tank == id),
        }
    }

    #[inline]
    fn index_of(&self, id: TankId) -> Option<usize> {
        self.tanks.iter().position(|t| t.id == id)
    }
}

/// What can be asked of a session.
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
