//! The state hash: 64 bits over everything that decides the future.

use xxhash_rust::xxh3::xxh3_64;

use super::Rules;

impl Rules {
    /// Hash of everything that decides the future, rewards included. Inputs still waiting are left out: they
    /// belong to the ticks that will apply them, and a replay has not read them yet.
    pub fn state_hash(&self) -> u64 {
        let mut bytes = Vec::with_capacity(self.tiles.len() + 1024);
        let mut put = |value: u64| bytes.extend_from_slice(&value.to_le_bytes());
        put(self.seed);
        put(self.rng_position());
        put(self.tick);
        put(self.spawn_timer.into());
        put(self.next_id);
        put(self.end.map_or(0, |end| end as u64 + 1));
        put(self.enemies_destroyed.into());
        put(self.tanks.len() as u64);
        for tank in &self.tanks {
            put(tank.id.0);
            put(tank.kind as u64);
            put(tank.x as u64);
            put(tank.y as u64);
            put(tank.dir as u64);
            put(tank.health as u64);
            put(tank.shoot_cooldown.into());
            put(tank.record.episode_return.to_bits().into());
            if let Some(player) = tank.player {
                put(player.spawn_index.into());
                put(player.respawns_left.into());
            }
            let Some(ai) = tank.ai.as_deref() else { continue };
            put(ai.last.map_or(0, |action| action.index() as u64 + 1));
            put(ai.bounty.sum.to_bits().into());
            put(ai.bounty.reasons.0.into());
            ai.seen.iter().for_each(|&word| put(word));
            put(ai.ticks_since_new_tile.into());
            put(ai.idle_ticks.into());
            put(ai.turned_at);
            put(ai.anchor.0 as u64);
            put(ai.anchor.1 as u64);
            put(ai.ticks_at_anchor.into());
        }
        put(self.bullets.len() as u64);
        for bullet in &self.bullets {
            put(bullet.id.0);
            put(bullet.owner.0);
            put(bullet.x as u64);
            put(bullet.y as u64);
            put(bullet.dir as u64);
        }
        bytes.extend_from_slice(&self.tiles);
        xxh3_64(&bytes)
    }

    /// [`Rules::state_hash`] as the 16 hexadecimal digits of a checkpoint.
    pub fn state_hash_text(&self) -> String {
        format!("{:016x}", self.state_hash())
    }
}
