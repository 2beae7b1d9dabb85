//! The client's side of the wire: full states and deltas, of rows or objects, merged into one state.

use std::borrow::Cow;

use serde_json::{Map as JsonMap, Value};

use crate::{
    NetId, Role, TankKind, TileChange,
    wire::{BULLET_LABELS, BulletView, EffectView, PLAYER_LABELS, PlayerView, StateView, Stats},
};

/// Tanks, or bullets, kept at most; more than any session of the largest map can have.
const MAX_ITEMS: usize = 8_192;
/// Labels read of one list.
const MAX_LABELS: usize = 64;

/// A state that cannot be merged; the state before it is kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    #[error("the state is {0}, not an object")]
    NotAnObject(&'static str),
    #[error("the state's `tick` is missing or not a whole number")]
    NoTick,
}

/// What a merge came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merged {
    pub tick: u64,
    /// The tick is lower than before: a new episode has begun.
    pub backwards: bool,
    /// Entries of lists that could not be read and were left out.
    pub skipped: usize,
}

/// Merges what the wire brings. Cost is linear in the message and in the number of tanks and bullets.
#[derive(Debug, Clone)]
pub struct StateMerger {
    state: StateView,
    player_labels: Vec<String>,
    bullet_labels: Vec<String>,
}

impl Default for StateMerger {
    fn default() -> Self {
        Self::new()
    }
}

impl StateMerger {
    pub fn new() -> Self {
        let owned = |labels: &[&str]| labels.iter().map(|&label| label.to_owned()).collect();
        Self { state: StateView::default(), player_labels: owned(&PLAYER_LABELS), bullet_labels: owned(&BULLET_LABELS) }
    }

    /// The state so far; empty at tick 0 before the first merge.
    pub fn state(&self) -> &StateView {
        &self.state
    }

    /// Takes a full state or a delta. What is absent stays, except what belongs to one tick alone: effects, tile
    /// changes, debug objects.
    ///
    /// # Errors
    /// If the value is not an object with a tick. Nothing has changed then.
    pub fn merge(&mut self, wire: &Value) -> Result<Merged, MergeError> {
        let fields = wire.as_object().ok_or(MergeError::NotAnObject(type_name(wire)))?;
        let tick = fields.get("tick").and_then(Value::as_u64).ok_or(MergeError::NoTick)?;
        let backwards = tick < self.state.tick;
        let is_delta = fields.get("delta").and_then(Value::as_bool).unwrap_or(false);
        if backwards && !is_delta {
            self.state = StateView::default();
        }
        let state = &mut self.state;
        let mut skipped = 0;
        state.tick = tick;
        state.stats.ticks = tick;
        if let Some(name) = fields.get("mapName").and_then(Value::as_str) {
            name.clone_into(&mut state.map_name);
        }
        if let Some(list) = fields.get("players") {
            let labels = &mut self.player_labels;
            skipped += merge_list(list, labels, &mut state.players, |p| p.id, read_player);
        }
        if let Some(list) = fields.get("bullets") {
            let labels = &mut self.bullet_labels;
            skipped += merge_list(list, labels, &mut state.bullets, |b| b.id, read_bullet);
        }
        state.events =
            entries(fields, "events", &mut skipped, |v| serde_json::from_value::<EffectView>(v.clone()).ok());
        state.map_tiles_changed =
            entries(fields, "mapTilesChanged", &mut skipped, |v| serde_json::from_value::<TileChange>(v.clone()).ok());
        state.map_tiles =
            fields.get("mapTiles").and_then(|v| serde_json::from_value::<Option<Vec<Vec<u8>>>>(v.clone()).ok()?);
        if let Some(over) = fields.get("gameOver").and_then(Value::as_bool) {
            state.game_over = over;
        }
        if let Some(reason) = fields.get("gameOverReason") {
            state.game_over_reason = reason.as_str().map(str::to_owned);
        }
        if let Some(stats) = fields.get("stats").and_then(|v| serde_json::from_value::<Stats>(v.clone()).ok()) {
            state.stats = Stats { ticks: tick, ..stats };
        }
        state.ai_debug = fields.get("aiDebug").filter(|v| !v.is_null()).cloned();
        state.gbe_debug = fields.get("gbeDebug").filter(|v| !v.is_null()).cloned();
        Ok(Merged { tick, backwards, skipped })
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a bool",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn entries<T>(
    fields: &JsonMap<String, Value>,
    name: &str,
    skipped: &mut usize,
    read: impl Fn(&Value) -> Option<T>,
) -> Vec<T> {
    let Some(list) = fields.get(name).and_then(Value::as_array) else { return Vec::new() };
    let read: Vec<T> = list.iter().filter_map(read).collect();
    *skipped += list.len() - read.len();
    read
}

/// One entry of a list, a row or an object, looked up by label.
#[derive(Clone, Copy)]
enum Entry<'a> {
    Row(&'a [Value], &'a [String]),
    Object(&'a JsonMap<String, Value>),
}

impl<'a> Entry<'a> {
    fn get(self, label: &str) -> Option<&'a Value> {
        match self {
            Self::Row(values, labels) => values.get(labels.iter().position(|l| l == label)?),
            Self::Object(fields) => fields.get(label),
        }
    }

    fn int(self, label: &str) -> Option<i32> {
        let value = self.get(label)?;
        value.as_i64().and_then(|v| v.try_into().ok()).or_else(|| Some(value.as_f64()? as i32))
    }
}

/// Merges a list: an array replaces it, an object `{labels?, upserts, removed}` changes it. Returns how many
/// entries could not be read.
fn merge_list<T>(
    list: &Value,
    labels: &mut Vec<String>,
    items: &mut Vec<T>,
    id: impl Fn(&T) -> NetId,
    read: impl Fn(Entry<'_>, Option<&T>) -> Option<T>,
) -> usize {
    let upserts = match list {
        Value::Array(all) => {
            items.clear();
            all
        }
        Value::Object(delta) => {
            if let Some(new) = delta.get("labels").and_then(Value::as_array) {
                *labels = new.iter().take(MAX_LABELS).filter_map(Value::as_str).map(str::to_owned).collect();
            }
            for gone in delta.get("removed").and_then(Value::as_array).into_iter().flatten() {
                let gone = gone.as_str().and_then(NetId::parse);
                items.retain(|item| Some(id(item)) != gone);
            }
            match delta.get("upserts").and_then(Value::as_array) {
                Some(upserts) => upserts,
                None => return 0,
            }
        }
        _ => return 1,
    };
    let mut skipped = 0;
    for value in upserts {
        let entry = match value {
            Value::Array(row) => Entry::Row(row, labels),
            Value::Object(fields) => Entry::Object(fields),
            _ => {
                skipped += 1;
                continue;
            }
        };
        let at = entry
            .get("id")
            .and_then(Value::as_str)
            .and_then(NetId::parse)
            .and_then(|wanted| items.iter().position(|item| id(item) == wanted));
        match (read(entry, at.map(|at| &items[at])), at) {
            (Some(item), Some(at)) => items[at] = item,
            (Some(item), None) if items.len() < MAX_ITEMS => items.push(item),
            _ => skipped += 1,
        }
    }
    skipped
}

/// Reads a tank; what an object leaves out is taken from `before`.
fn read_player(entry: Entry<'_>, before: Option<&PlayerView>) -> Option<PlayerView> {
    let id = NetId::parse(entry.get("id")?.as_str()?)?;
    let label: Cow<'static, str> = match entry.get("label").and_then(Value::as_str) {
        Some(label) => match TankKind::from_label(label) {
            Some(kind) => Cow::Borrowed(kind.label()),
            None => Cow::Owned(label.to_owned()),
        },
        None => before?.label.clone(),
    };
    let role = match entry.get("role").and_then(Value::as_str) {
        Some("ai") => Role::Ai,
        Some("player") => Role::Player,
        _ => before.map_or(if label.ends_with("_en") { Role::Ai } else { Role::Player }, |b| b.role),
    };
    let spec = TankKind::from_label(&label).map(TankKind::spec);
    let max_health = entry.int("maxHealth").or(before.map(|b| b.max_health)).or(spec.map(|s| s.health))?;
    Some(PlayerView {
        id,
        role,
        x: entry.int("x").or(before.map(|b| b.x))?,
        y: entry.int("y").or(before.map(|b| b.y))?,
        dir_x: entry.int("dirX").or(before.map(|b| b.dir_x)).unwrap_or(0).clamp(-1, 1),
        dir_y: entry.int("dirY").or(before.map(|b| b.dir_y)).unwrap_or(-1).clamp(-1, 1),
        health: entry.int("health").or(before.map(|b| b.health)).unwrap_or(max_health),
        max_health,
        speed: entry.int("speed").or(before.and_then(|b| b.speed)),
        shoot_cooldown: entry
            .int("shootCooldown")
            .and_then(|v| v.try_into().ok())
            .or(before.and_then(|b| b.shoot_cooldown)),
        cooldown: entry.int("cooldown").and_then(|v| v.try_into().ok()).or(before.and_then(|b| b.cooldown)),
        label,
    })
}

fn read_bullet(entry: Entry<'_>, before: Option<&BulletView>) -> Option<BulletView> {
    Some(BulletView {
        id: NetId::parse(entry.get("id")?.as_str()?)?,
        x: entry.int("x").or(before.map(|b| b.x))?,
        y: entry.int("y").or(before.map(|b| b.y))?,
        dir_x: entry.int("dirX").or(before.map(|b| b.dir_x)).unwrap_or(0),
        dir_y: entry.int("dirY").or(before.map(|b| b.dir_y)).unwrap_or(0),
        radius: entry.int("radius").or(before.map(|b| b.radius)).unwrap_or(1),
    })
}
