//! What a checkpoint carries beyond the public state, so that a session can go on from it.
//!
//! The full state of the wire says where everything stands; it does not say what the rewards remember, who fired a
//! bullet, how many respawns are left. All of that is here, and [`Rules::resumed`] puts it together again. Inputs
//! still waiting are left out, as they are of the state hash: a replay reads them after the checkpoint.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    AiPart, Bounty, Bullet, EndReason, PlayerPart, Reason, Reasons, RewardEntry, Rules, Tank, TankRecord, bounds_at,
};
use crate::{
    Action, Map, Move, NetId, TankConfig, TankKind,
    map::{TILE, tile},
};

/// Everything of [`Rules`] that is neither in the opening nor in the public tile grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    spawn_timer: u32,
    next_id: u64,
    settled: bool,
    end: Option<EndReason>,
    enemies_destroyed: u32,
    tanks: Vec<TankBody>,
    bullets: Vec<BulletBody>,
    gone: Vec<Entry>,
    fallen: Vec<Record>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TankBody {
    x: i32,
    y: i32,
    dir: u8,
    health: i32,
    shoot_cooldown: u32,
    record: Record,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    player: Option<(u32, u32)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ai: Option<AiBody>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AiBody {
    last: Option<u8>,
    sum_bits: u32,
    reasons: u16,
    /// Tiles seen, 16 hexadecimal digits for 64 of them.
    seen: String,
    ticks_since_new_tile: u32,
    idle_ticks: u32,
    turned_at: u64,
    anchor: (i32, i32),
    ticks_at_anchor: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct BulletBody {
    id: NetId,
    owner: NetId,
    x: i32,
    y: i32,
    dir: u8,
    radius: i32,
    speed: i32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    tank: NetId,
    kind: TankKind,
    reward_bits: u32,
    reasons: u16,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    tank: NetId,
    kind: TankKind,
    return_bits: u32,
    shots: u32,
    predicted_hits: u32,
    damage_dealt: u32,
    damage_taken: u32,
}

/// No count of a session comes near it, and every JSON reader keeps it exactly.
const MOST: u64 = 1 << 53;

#[derive(Debug, Serialize, Deserialize)]
struct Sealed {
    body: Body,
    /// 16 hexadecimal digits over `body`.
    digest: String,
}

impl Body {
    fn digest(&self) -> String {
        let text = serde_json::to_vec(self).expect("plain fields serialise");
        format!("{:016x}", xxh3_64(&text))
    }
}

impl From<&TankRecord> for Record {
    fn from(r: &TankRecord) -> Self {
        Self {
            tank: r.tank,
            kind: r.kind,
            return_bits: r.episode_return.to_bits(),
            shots: r.shots,
            predicted_hits: r.predicted_hits,
            damage_dealt: r.damage_dealt,
            damage_taken: r.damage_taken,
        }
    }
}

impl Record {
    fn is_sound(&self) -> bool {
        let counts = [self.shots, self.predicted_hits, self.damage_dealt, self.damage_taken];
        f32::from_bits(self.return_bits).is_finite() && counts.into_iter().all(|n| n < 1 << 30)
    }
}

impl From<Record> for TankRecord {
    fn from(r: Record) -> Self {
        Self {
            tank: r.tank,
            kind: r.kind,
            episode_return: f32::from_bits(r.return_bits),
            shots: r.shots,
            predicted_hits: r.predicted_hits,
            damage_dealt: r.damage_dealt,
            damage_taken: r.damage_taken,
        }
    }
}

impl AiBody {
    fn of(ai: &AiPart) -> Self {
        Self {
            last: ai.last.map(|action| action.index() as u8),
            sum_bits: ai.bounty.sum.to_bits(),
            reasons: ai.bounty.reasons.0,
            seen: ai.seen.iter().map(|word| format!("{word:016x}")).collect(),
            ticks_since_new_tile: ai.ticks_since_new_tile,
            idle_ticks: ai.idle_ticks,
            turned_at: ai.turned_at,
            anchor: ai.anchor,
            ticks_at_anchor: ai.ticks_at_anchor,
        }
    }

    fn restore(self, n_tiles: usize, tick: u64) -> Result<AiPart, &'static str> {
        let mut ai = AiPart::new(n_tiles, 0, 0);
        if self.seen.len() != ai.seen.len() * 16 || !self.seen.is_ascii() {
            return Err("the tiles seen are not those of this map");
        }
        for (i, word) in ai.seen.iter_mut().enumerate() {
            let digits = &self.seen[i * 16..][..16];
            *word = u64::from_str_radix(digits, 16).map_err(|_| "the tiles seen are not hexadecimal")?;
        }
        let counts = [self.ticks_since_new_tile, self.idle_ticks, self.ticks_at_anchor];
        let inside = |at: i32| at >= 0 && (at as usize) < n_tiles;
        if !inside(self.anchor.0) || !inside(self.anchor.1) {
            return Err("an AI tank's anchor is outside the map");
        }
        if self.turned_at > tick || counts.into_iter().any(|n| u64::from(n) > tick) {
            return Err("an AI tank remembers more ticks than there were");
        }
        let sum = f32::from_bits(self.sum_bits);
        if !sum.is_finite() || self.reasons >> Reason::COUNT != 0 {
            return Err("an AI tank's rewards are not rewards");
        }
        ai.last = match self.last {
            None => None,
            Some(index) => Some(Action::from_index(index.into()).ok_or("an AI tank's last action is none")?),
        };
        ai.seen_count = ai.seen.iter().map(|word| word.count_ones()).sum();
        ai.bounty = Bounty { sum, reasons: Reasons(self.reasons) };
        ai.ticks_since_new_tile = self.ticks_since_new_tile;
        ai.idle_ticks = self.idle_ticks;
        ai.turned_at = self.turned_at;
        ai.anchor = self.anchor;
        ai.ticks_at_anchor = self.ticks_at_anchor;
        Ok(ai)
    }
}

fn direction(index: u8) -> Result<Move, &'static str> {
    Move::ALL.into_iter().find(|m| *m as u8 == index).ok_or("a direction is none of the four")
}

impl Rules {
    /// What [`Rules::resumed`] needs beyond the opening and the tile grid; the `resume` of a checkpoint.
    pub fn resume_point(&self) -> serde_json::Value {
        let tank = |t: &Tank| TankBody {
            x: t.x,
            y: t.y,
            dir: t.dir as u8,
            health: t.health,
            shoot_cooldown: t.shoot_cooldown,
            record: (&t.record).into(),
            player: t.player.map(|p| (p.spawn_index, p.respawns_left)),
            ai: t.ai.as_deref().map(AiBody::of),
        };
        let bullet = |b: &Bullet| BulletBody {
            id: b.id,
            owner: b.owner,
            x: b.x,
            y: b.y,
            dir: b.dir as u8,
            radius: b.radius,
            speed: b.speed,
        };
        let entry = |e: &RewardEntry| Entry {
            tank: e.tank,
            kind: e.kind,
            reward_bits: e.reward.to_bits(),
            reasons: e.reasons.0,
        };
        let body = Body {
            spawn_timer: self.spawn_timer,
            next_id: self.next_id,
            settled: self.settled,
            end: self.end,
            enemies_destroyed: self.enemies_destroyed,
            tanks: self.tanks.iter().map(tank).collect(),
            bullets: self.bullets.iter().map(bullet).collect(),
            gone: self.gone.iter().map(entry).collect(),
            fallen: self.fallen.iter().map(Record::from).collect(),
        };
        let digest = body.digest();
        serde_json::to_value(Sealed { body, digest }).expect("plain fields serialise")
    }

    /// The session as it was after `tick`: its opening, its tiles then, its generator's position then, and what
    /// [`Rules::resume_point`] gave. What the last tick alone brought (effects, changes, applied inputs, rewards)
    /// is empty until the next tick.
    ///
    /// # Errors
    /// What does not fit; a point that was damaged is refused by its digest.
    pub fn resumed(
        map: &Map,
        config: &TankConfig,
        seed: u64,
        tick: u64,
        tiles: &[Vec<u8>],
        rng_position: u64,
        point: &serde_json::Value,
    ) -> Result<Self, String> {
        let Sealed { body, digest } =
            Sealed::deserialize(point).map_err(|e| format!("`resume` cannot be read: {e}"))?;
        if body.digest() != digest {
            return Err("`resume` is not what its digest says".to_owned());
        }
        let mut rules = Self::new(map, config, seed).map_err(|e| e.to_string())?;
        let cols = map.cols() as usize;
        if tiles.len() != cols || tiles.iter().any(|row| row.len() != cols || row.iter().any(|&id| id > tile::HQ)) {
            return Err("`mapTiles` is not a grid of this map".to_owned());
        }
        rules.tiles = tiles.concat();
        // A tile changes once, to soil.
        rules.tiles_revision = rules.tiles.iter().zip(map.tiles()).filter(|(now, then)| now != then).count() as u64;
        rules.tick = tick;
        rules.rng.set_word_pos(rng_position.into());
        rules.effects.clear();
        rules.take(body, tick)?;
        Ok(rules)
    }

    fn take(&mut self, body: Body, tick: u64) -> Result<(), &'static str> {
        self.spawn_timer = body.spawn_timer.min(self.config.enemy_spawn_interval_ticks);
        (self.next_id, self.settled, self.end) = (body.next_id, body.settled, body.end);
        self.enemies_destroyed = body.enemies_destroyed;
        let mut records = body.fallen.iter().chain(body.tanks.iter().map(|t| &t.record));
        if body.next_id > MOST || tick > MOST || body.enemies_destroyed >= 1 << 30 || !records.all(Record::is_sound) {
            return Err("a count is beyond what a session can come to");
        }
        let inside = 0..self.cols * TILE;
        for t in body.tanks {
            let record = TankRecord::from(t.record);
            let (id, kind) = (record.tank, record.kind);
            let spec = kind.spec();
            if !inside.contains(&t.x) || !inside.contains(&t.y) || !self.may_stand(bounds_at(kind, t.x, t.y), None) {
                return Err("a tank stands where none can");
            }
            if self.tanks.last().is_some_and(|last| last.id >= id) || id.0 >= body.next_id {
                return Err("the tanks' ids are out of order");
            }
            if !(1..=spec.health).contains(&t.health) || t.shoot_cooldown > spec.cooldown {
                return Err("a tank has more of something than its type allows");
            }
            let spawns = self.map.player_spawns().len() as u32;
            let player = match (kind.role(), t.player) {
                (crate::Role::Player, Some((spawn_index, respawns_left))) if spawn_index < spawns => {
                    Some(PlayerPart { spawn_index, respawns_left })
                }
                (crate::Role::Ai, None) => None,
                _ => return Err("a tank is on no side"),
            };
            let ai = match (player, t.ai) {
                (Some(_), None) => None,
                (None, Some(ai)) => Some(Box::new(ai.restore(self.tiles.len(), tick)?)),
                _ => return Err("a tank is on no side"),
            };
            let (dir, health, shoot_cooldown) = (direction(t.dir)?, t.health, t.shoot_cooldown);
            self.tanks.push(Tank { id, kind, x: t.x, y: t.y, dir, health, shoot_cooldown, player, ai, record });
        }
        for b in body.bullets {
            if !inside.contains(&b.x)
                || !inside.contains(&b.y)
                || !(1..=8).contains(&b.radius)
                || !(0..=64).contains(&b.speed)
            {
                return Err("a bullet flies where none can");
            }
            let BulletBody { id, owner, x, y, radius, speed, .. } = b;
            self.bullets.push(Bullet { id, owner, x, y, dir: direction(b.dir)?, radius, speed });
        }
        self.gone.extend(body.gone.into_iter().map(|e| RewardEntry {
            tank: e.tank,
            kind: e.kind,
            reward: f32::from_bits(e.reward_bits),
            reasons: Reasons(e.reasons),
            gone: true,
        }));
        self.fallen.extend(body.fallen.into_iter().map(TankRecord::from));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::InputSource;

    fn brawl(ticks: u64) -> Rules {
        let config = TankConfig { enemy_spawn_interval_ticks: 10, transition_interval: 64, ..TankConfig::default() };
        let mut rules = Rules::new(&Map::shipped()[0], &config, 9).unwrap();
        rules.add_player(None).unwrap();
        for tick in 0..ticks {
            act(&mut rules, tick);
        }
        rules
    }

    fn act(rules: &mut Rules, tick: u64) {
        let ids: Vec<_> = rules.tanks().iter().map(|t| t.id).collect();
        for id in ids {
            let action = Action::from_index((tick / 5 + id.0 * 3) as usize % 10).unwrap();
            let _ = rules.queue_input(id, action, InputSource::Ws);
        }
        rules.tick();
    }

    fn resumed(rules: &Rules, point: &Value) -> Result<Rules, String> {
        let (map, config) = (rules.map(), rules.config());
        Rules::resumed(map, config, rules.seed(), rules.ticks(), &rules.tile_rows(), rules.rng_position(), point)
    }

    #[test]
    fn a_resumed_session_plays_on_like_the_one_that_went_on() {
        for ticks in [0, 1, 63, 64, 200, 333] {
            let mut rules = brawl(ticks);
            let mut other = resumed(&rules, &rules.resume_point()).unwrap();
            assert_eq!(other.state_hash(), rules.state_hash());
            for tick in ticks..ticks + 150 {
                // Inputs in the queues are no part of a point: both hear only what comes now.
                act(&mut rules, tick);
                act(&mut other, tick);
                assert_eq!(other.resume_point(), rules.resume_point(), "{tick}");
                assert_eq!((other.rewards(), other.effects()), (rules.rewards(), rules.effects()));
            }
        }
    }

    // A seal keeps out accidents; whoever reseals must still not bring the rules down.
    #[test]
    fn a_resealed_point_is_refused_or_played_without_panic() {
        let rules = brawl(200);
        let point = rules.resume_point();
        let (mut paths, mut played, mut refused) = (Vec::new(), 0, 0);
        leaves(&point["body"], String::new(), &mut paths);
        let values = [json!(0), json!(-1), json!(1), json!(300), json!(u32::MAX), json!(i32::MIN), json!(u64::MAX)];
        for (path, value) in paths.iter().flat_map(|path| values.iter().map(move |value| (path, value))) {
            let mut body = point["body"].clone();
            *body.pointer_mut(path).unwrap() = value.clone();
            let Ok(body) = serde_json::from_value::<Body>(body) else { continue };
            let digest = body.digest();
            match resumed(&rules, &serde_json::to_value(Sealed { body, digest }).unwrap()) {
                Ok(mut rules) => {
                    played += 1;
                    (0..40).for_each(|tick| act(&mut rules, tick));
                }
                Err(_) => refused += 1,
            }
        }
        assert!(played > 50 && refused > 50, "{played} played, {refused} refused");
    }

    fn leaves(value: &Value, path: String, out: &mut Vec<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, v)| leaves(v, format!("{path}/{name}"), out)),
            Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| leaves(v, format!("{path}/{i}"), out)),
            _ => out.push(path),
        }
    }
}
