//! The session's state as the wire names it: full states and deltas (tank spec, 5.4 and 5.5).

use std::borrow::Cow;

use serde::{Deserialize, Serialize, Serializer, ser::SerializeSeq as _};
use serde_json::Value;

use crate::{Bullet, Effect, EffectKind, EndReason, NetId, Role, Rules, TankKind, TileChange, rules::Tank};

/// Who a state is for: AI sockets also see `speed`, `shootCooldown` and `cooldown` of AI tanks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    Player,
    Ai,
}

pub const PLAYER_LABELS: [&str; 12] =
    ["id", "label", "role", "x", "y", "dirX", "dirY", "health", "maxHealth", "speed", "shootCooldown", "cooldown"];
pub const BULLET_LABELS: [&str; 6] = ["id", "x", "y", "dirX", "dirY", "radius"];
/// `PLAYER_LABELS` that every audience sees.
pub const N_PLAIN_LABELS: usize = 9;

/// One tank on the wire.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlayerView {
    pub id: NetId,
    pub label: Cow<'static, str>,
    pub role: Role,
    pub x: i32,
    pub y: i32,
    pub dir_x: i32,
    pub dir_y: i32,
    pub health: i32,
    pub max_health: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shoot_cooldown: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown: Option<u32>,
}

impl PlayerView {
    pub fn of(tank: &Tank, audience: Audience) -> Self {
        let spec = tank.kind.spec();
        let extra = audience == Audience::Ai && tank.is_ai();
        Self {
            id: tank.id,
            label: Cow::Borrowed(spec.label),
            role: tank.kind.role(),
            x: tank.x,
            y: tank.y,
            dir_x: tank.dir.dx(),
            dir_y: tank.dir.dy(),
            health: tank.health,
            max_health: spec.health,
            speed: extra.then_some(spec.speed),
            shoot_cooldown: extra.then_some(tank.shoot_cooldown),
            cooldown: extra.then_some(spec.cooldown),
        }
    }
}

/// One bullet on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BulletView {
    pub id: NetId,
    pub x: i32,
    pub y: i32,
    pub dir_x: i32,
    pub dir_y: i32,
    pub radius: i32,
}

impl From<&Bullet> for BulletView {
    fn from(b: &Bullet) -> Self {
        Self { id: b.id, x: b.x, y: b.y, dir_x: b.dir.dx(), dir_y: b.dir.dy(), radius: b.radius }
    }
}

/// One effect on the wire: `{type:"fx",name,x,y,tankId?}` or `{type:"ai_spawn",tankId,label,x,y}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EffectView {
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Cow<'static, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tank_id: Option<NetId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Cow<'static, str>>,
    #[serde(default)]
    pub x: i32,
    #[serde(default)]
    pub y: i32,
}

impl From<&Effect> for EffectView {
    fn from(effect: &Effect) -> Self {
        let name = match effect.kind {
            EffectKind::GameStart => Some("game_start"),
            EffectKind::Fire => Some("fire"),
            EffectKind::Hit => Some("hit"),
            EffectKind::HitTank => Some("hit_tank"),
            EffectKind::DestroyTank => Some("destroy_tank"),
            EffectKind::DestroyHq => Some("destroy_hq"),
            EffectKind::GameOver => Some("game_over"),
            EffectKind::AiSpawn => None,
        };
        Self {
            kind: Cow::Borrowed(if name.is_some() { "fx" } else { "ai_spawn" }),
            name: name.map(Cow::Borrowed),
            tank_id: effect.tank,
            label: effect.label.map(|kind| Cow::Borrowed(kind.label())),
            x: effect.x,
            y: effect.y,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    #[serde(default)]
    pub ticks: u64,
    #[serde(default)]
    pub enemies_destroyed: u32,
}

/// A full state.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateView {
    pub tick: u64,
    pub map_name: String,
    pub players: Vec<PlayerView>,
    pub bullets: Vec<BulletView>,
    pub events: Vec<EffectView>,
    pub game_over: bool,
    pub game_over_reason: Option<String>,
    pub stats: Stats,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub map_tiles_changed: Vec<TileChange>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map_tiles: Option<Vec<Vec<u8>>>,
    #[serde(default)]
    pub ai_debug: Option<Value>,
    #[serde(default)]
    pub gbe_debug: Option<Value>,
}

impl Rules {
    /// The full state after the last tick. Tile changes are those of that tick; set
    /// [`StateView::map_tiles`] for somebody who has missed earlier ones.
    pub fn full_state(&self, audience: Audience) -> StateView {
        StateView {
            tick: self.ticks(),
            map_name: self.map().name().to_owned(),
            players: self.tanks().iter().map(|tank| PlayerView::of(tank, audience)).collect(),
            bullets: self.bullets().iter().map(BulletView::from).collect(),
            events: self.effects().iter().map(EffectView::from).collect(),
            game_over: self.end().is_some(),
            game_over_reason: self.end().map(|end| end.as_str().to_owned()),
            stats: Stats { ticks: self.ticks(), enemies_destroyed: self.enemies_destroyed() },
            map_tiles_changed: self.tiles_changed().to_vec(),
            map_tiles: None,
            ai_debug: None,
            gbe_debug: None,
        }
    }

    /// The present tile grid, row by row, as `mapTiles` carries it.
    pub fn tile_rows(&self) -> Vec<Vec<u8>> {
        self.tiles().chunks(self.map().cols() as usize).map(<[u8]>::to_vec).collect()
    }
}

/// What changed in one list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ListDelta<T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<&'static [&'static str]>,
    pub upserts: Vec<T>,
    pub removed: Vec<NetId>,
}

/// A tank as a row in the order of the labels; a player's tank ends after `maxHealth`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlayerRow {
    id: NetId,
    kind: TankKind,
    x: i32,
    y: i32,
    dir: (i32, i32),
    health: i32,
    /// Only for AI tanks on AI sockets.
    shoot_cooldown: Option<u32>,
}

impl PlayerRow {
    fn of(tank: &Tank, audience: Audience) -> Self {
        let extra = audience == Audience::Ai && tank.is_ai();
        Self {
            id: tank.id,
            kind: tank.kind,
            x: tank.x,
            y: tank.y,
            dir: (tank.dir.dx(), tank.dir.dy()),
            health: tank.health,
            shoot_cooldown: extra.then_some(tank.shoot_cooldown),
        }
    }
}

impl Serialize for PlayerRow {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let spec = self.kind.spec();
        let mut row = s.serialize_seq(None)?;
        row.serialize_element(&self.id)?;
        row.serialize_element(spec.label)?;
        row.serialize_element(&self.kind.role())?;
        for value in [self.x, self.y, self.dir.0, self.dir.1, self.health, spec.health] {
            row.serialize_element(&value)?;
        }
        if let Some(shoot_cooldown) = self.shoot_cooldown {
            row.serialize_element(&spec.speed)?;
            row.serialize_element(&shoot_cooldown)?;
            row.serialize_element(&spec.cooldown)?;
        }
        row.end()
    }
}

/// A bullet as a row in the order of the labels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BulletRow(pub BulletView);

impl Serialize for BulletRow {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let BulletView { id, x, y, dir_x, dir_y, radius } = self.0;
        (id, x, y, dir_x, dir_y, radius).serialize(s)
    }
}

/// What changed since the tick before.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Delta {
    /// Always true.
    pub delta: bool,
    pub tick: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub players: Option<ListDelta<PlayerRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bullets: Option<ListDelta<BulletRow>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<EffectView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub game_over: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub game_over_reason: Option<Option<EndReason>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<Stats>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub map_tiles_changed: Vec<TileChange>,
    /// For the server to fill, per socket; never part of an event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ai_debug: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gbe_debug: Option<Value>,
}

impl Delta {
    /// Whether anything but the tick changed. `stats.ticks` alone is no change: it equals the tick.
    pub fn is_empty(&self) -> bool {
        self.map_name.is_none()
            && self.players.is_none()
            && self.bullets.is_none()
            && self.events.is_empty()
            && self.game_over.is_none()
            && self.stats.is_none()
            && self.map_tiles_changed.is_empty()
    }
}

/// Makes the deltas of one session for one audience. Call [`DeltaEncoder::encode`] after every tick: its result
/// depends only on the states it has seen, so a replay makes the same deltas.
#[derive(Debug, Clone)]
pub struct DeltaEncoder {
    audience: Audience,
    players: Vec<PlayerRow>,
    bullets: Vec<BulletView>,
    /// What was last sent; `None` before the first delta, which carries everything.
    sent: Option<(Option<EndReason>, u32)>,
    labels_sent: [bool; 2],
}

impl DeltaEncoder {
    pub fn new(audience: Audience) -> Self {
        Self { audience, players: Vec::new(), bullets: Vec::new(), sent: None, labels_sent: [false; 2] }
    }

    /// The change from the state given last (nothing, the first time) to that of `rules`.
    pub fn encode(&mut self, rules: &Rules) -> Delta {
        let now: Vec<PlayerRow> = rules.tanks().iter().map(|tank| PlayerRow::of(tank, self.audience)).collect();
        let labels = match self.audience {
            Audience::Player => &PLAYER_LABELS[..N_PLAIN_LABELS],
            Audience::Ai => &PLAYER_LABELS[..],
        };
        let players = changes(&self.players, &now, |row| row.id, &mut self.labels_sent[0], labels, |row| *row);
        self.players = now;
        let now: Vec<BulletView> = rules.bullets().iter().map(BulletView::from).collect();
        let bullets =
            changes(&self.bullets, &now, |b| b.id, &mut self.labels_sent[1], &BULLET_LABELS, |b| BulletRow(*b));
        self.bullets = now;

        let (end, enemies_destroyed) = (rules.end(), rules.enemies_destroyed());
        let first = self.sent.is_none();
        let end_changed = self.sent.is_none_or(|(sent, _)| sent != end);
        let stats_changed = self.sent.is_none_or(|(_, sent)| sent != enemies_destroyed);
        self.sent = Some((end, enemies_destroyed));
        Delta {
            delta: true,
            tick: rules.ticks(),
            map_name: first.then(|| rules.map().name().to_owned()),
            players,
            bullets,
            events: rules.effects().iter().map(EffectView::from).collect(),
            game_over: end_changed.then_some(end.is_some()),
            game_over_reason: end_changed.then_some(end),
            stats: stats_changed.then_some(Stats { ticks: rules.ticks(), enemies_destroyed }),
            map_tiles_changed: rules.tiles_changed().to_vec(),
            ai_debug: None,
            gbe_debug: None,
        }
    }
}

fn changes<T: PartialEq, R>(
    before: &[T],
    now: &[T],
    id: impl Fn(&T) -> NetId,
    labels_sent: &mut bool,
    labels: &'static [&'static str],
    row: impl Fn(&T) -> R,
) -> Option<ListDelta<R>> {
    // Ids rise within both lists, so one pass over both finds what is new, changed and gone.
    let (mut upserts, mut removed, mut at) = (Vec::new(), Vec::new(), 0);
    for item in now {
        while at < before.len() && id(&before[at]) < id(item) {
            removed.push(id(&before[at]));
            at += 1;
        }
        if at < before.len() && id(&before[at]) == id(item) {
            if before[at] != *item {
                upserts.push(row(item));
            }
            at += 1;
        } else {
            upserts.push(row(item));
        }
    }
    removed.extend(before[at..].iter().map(&id));
    if upserts.is_empty() && removed.is_empty() {
        return None;
    }
    let labels = (!std::mem::replace(labels_sent, true)).then_some(labels);
    Some(ListDelta { labels, upserts, removed })
}
