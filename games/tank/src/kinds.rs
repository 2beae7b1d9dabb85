//! The tank table: what each of the eight types can do.

use std::{fmt, sync::OnceLock};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which side a tank fights for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Player,
    Ai,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Player => "player",
            Self::Ai => "ai",
        }
    }
}

/// A tank type; the numbers are indices into [`TABLE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TankKind {
    NormalPl,
    SpeedyPl,
    HeavyPl,
    RapidFirePl,
    NormalEn,
    SpeedyEn,
    HeavyEn,
    RapidEn,
}

/// One row of the tank table. Offsets are pixels from the top-left of the 32×32 box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TankSpec {
    pub label: &'static str,
    /// Pixels a tick.
    pub speed: i32,
    /// Ticks between two shots.
    pub cooldown: u32,
    pub health: i32,
    /// First pixel of the bound rectangle.
    pub bound_min: (i32, i32),
    /// Last pixel of the bound rectangle.
    pub bound_max: (i32, i32),
    pub shell_radius: i32,
    /// Pixels a tick.
    pub shell_speed: i32,
}

const fn row(
    label: &'static str,
    (speed, cooldown, health): (i32, u32, i32),
    bound_min: (i32, i32),
    bound_max: (i32, i32),
    (shell_radius, shell_speed): (i32, i32),
) -> TankSpec {
    TankSpec { label, speed, cooldown, health, bound_min, bound_max, shell_radius, shell_speed }
}

/// Every tank type, players first, in the order of [`TankKind`].
pub static TABLE: [TankSpec; 8] = [
    row("normal_pl", (2, 15, 2), (3, 3), (28, 28), (2, 4)),
    row("speedy_pl", (4, 15, 2), (3, 0), (28, 30), (2, 6)),
    row("heavy_pl", (3, 15, 4), (2, 1), (29, 30), (3, 5)),
    row("rapidFire_pl", (3, 7, 2), (3, 1), (28, 30), (1, 6)),
    row("normal_en", (2, 15, 2), (3, 2), (28, 31), (2, 4)),
    row("speedy_en", (4, 15, 2), (3, 0), (28, 30), (2, 6)),
    row("heavy_en", (3, 15, 4), (2, 1), (29, 30), (3, 5)),
    row("rapid_en", (3, 7, 2), (3, 1), (28, 30), (1, 6)),
];

impl TankKind {
    pub const PLAYERS: [TankKind; 4] = [Self::NormalPl, Self::SpeedyPl, Self::HeavyPl, Self::RapidFirePl];
    /// The AI types in the order of their type index.
    pub const AI: [TankKind; 4] = [Self::NormalEn, Self::SpeedyEn, Self::HeavyEn, Self::RapidEn];

    #[inline]
    pub fn spec(self) -> &'static TankSpec {
        &TABLE[self as usize]
    }

    pub fn label(self) -> &'static str {
        self.spec().label
    }

    pub fn from_label(label: &str) -> Option<Self> {
        Self::PLAYERS.into_iter().chain(Self::AI).find(|kind| kind.label() == label)
    }

    #[inline]
    pub fn role(self) -> Role {
        if (self as u8) < 4 { Role::Player } else { Role::Ai }
    }

    /// 0..=3 within the own side.
    #[inline]
    pub fn type_index(self) -> u8 {
        self as u8 & 3
    }
}

impl fmt::Display for TankKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl Serialize for TankKind {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.label())
    }
}

impl<'de> Deserialize<'de> for TankKind {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let label = std::borrow::Cow::<'de, str>::deserialize(d)?;
        Self::from_label(&label)
            .ok_or_else(|| serde::de::Error::custom(format!("`{label}` is not a tank type; see the tank table")))
    }
}

impl JsonSchema for TankKind {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TankKind".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let labels: Vec<&str> = TABLE.iter().map(|row| row.label).collect();
        schemars::json_schema!({ "type": "string", "enum": labels })
    }
}

/// 16 hexadecimal digits that change whenever a value of the table does: a replay made with other values is
/// refused by name instead of diverging.
pub fn table_hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| {
        let mut bytes = Vec::new();
        for spec in &TABLE {
            bytes.extend_from_slice(spec.label.as_bytes());
            for value in [
                spec.speed,
                spec.cooldown as i32,
                spec.health,
                spec.bound_min.0,
                spec.bound_min.1,
                spec.bound_max.0,
                spec.bound_max.1,
                spec.shell_radius,
                spec.shell_speed,
            ] {
                bytes.extend_from_slice(&value.to_le_bytes());
            }
        }
        format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&bytes))
    })
}
