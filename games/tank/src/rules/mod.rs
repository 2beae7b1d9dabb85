//! The rules of one session: what happens in one tick, in the order of the spec's section 7.3.
//!
//! Randomness is one ChaCha8 generator seeded with the session's seed. A spawn attempt below the cap draws two
//! 32-bit words: first the type index (`word * 4 >> 32` into the AI types), then the start index
//! (`word * n >> 32` into the map's AI spawns). Nothing else draws.

pub mod ballistics;
mod hash;
#[cfg(test)]
mod oracle_tests;
mod query;
mod report;
mod resume;
mod rewards;
mod tank;
#[cfg(test)]
mod tests;

pub use ballistics::Rect;
use ballistics::{Contact, Flight, Grid};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
pub use report::{
    Applied, Bullet, Effect, EffectKind, EndReason, Joined, RulesError, TankRecord, TickReport, TileChange,
};
pub(crate) use rewards::Bounty;
pub use rewards::{IDLE_TICKS, Reason, Reasons, RewardEntry, STALL_TICKS, TURN_TICKS};
use tank::{AiPart, PlayerPart};
pub use tank::{InputSource, QUEUE_LEN, Tank, bounds_at};

use crate::{
    Action, Map, Move, NetId, Role, TankConfig, TankId, TankKind,
    map::{Cell, TILE, tile},
};

/// Inputs that one player's tank has waiting for the next tick; more are refused.
pub const MAX_PLAYER_INPUTS: usize = 64;
/// An AI queue longer than this is worth a warning.
pub const QUEUE_WARN: usize = 3;

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
        let waiting = self.player_inputs.iter().filter(|(id, ..)| *id == tank).count();
        if waiting >= MAX_PLAYER_INPUTS {
            return Err(RulesError::TooManyPlayerInputs(tank));
        }
        self.player_inputs.push((tank, action, source));
        Ok(waiting + 1)
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
            let hq_fell = self.effects.iter().any(|effect| effect.kind == EffectKind::DestroyHq);
            self.score_tick(hq_fell);
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
