//! Ids as types, so that swapping two arguments does not compile.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// An id that cannot be used as one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not a {what}: {reason}")]
pub struct IdError {
    what: &'static str,
    value: String,
    reason: &'static str,
}

fn check(what: &'static str, value: &str, extra: &str) -> Result<(), IdError> {
    let fail = |reason| Err(IdError { what, value: value.chars().take(64).collect(), reason });
    if value.is_empty() {
        return fail("it is empty");
    }
    if value.len() > 128 {
        return fail("it is longer than 128 bytes");
    }
    if !value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c) || extra.contains(c)) {
        return fail("only ASCII letters, digits and punctuation `-_.` are allowed");
    }
    if value.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return fail("it must not be or contain an empty or dotted path segment");
    }
    Ok(())
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $extra:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// # Errors
            /// If the text is empty, longer than 128 bytes, or holds a character outside the allowed set.
            pub fn new(value: impl AsRef<str>) -> Result<Self, IdError> {
                check($what, value.as_ref(), $extra)?;
                Ok(Self(value.as_ref().into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                Self::new(s)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                Self::new(text).map_err(D::Error::custom)
            }
        }
    };
}

text_id! {
    /// One played game, unique over all time. `doom` uses the run id, `/`, and the episode number.
    GameId, "game id", "/:"
}
text_id! {
    /// Which slot in a game a model fills, such as `tank-ai-dqn-stage03`.
    BaseKey, "base key", ""
}

/// A version of one base key; strictly increasing from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelVersion(pub u64);

impl fmt::Display for ModelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `{base_key}@{version}`: the model that made a decision.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelRef {
    pub base_key: BaseKey,
    pub version: ModelVersion,
}

impl ModelRef {
    pub fn new(base_key: BaseKey, version: ModelVersion) -> Self {
        Self { base_key, version }
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.base_key, self.version)
    }
}

impl fmt::Debug for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for ModelRef {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let bad = |reason| IdError { what: "model", value: s.chars().take(64).collect(), reason };
        let (key, version) = s.rsplit_once('@').ok_or_else(|| bad("it is not `base_key@version`"))?;
        let version = version.parse().map_err(|_| bad("the version is not a whole number"))?;
        Ok(Self { base_key: BaseKey::new(key)?, version: ModelVersion(version) })
    }
}

impl Serialize for ModelRef {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ModelRef {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// One of the five game systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    Tank,
    Battle,
    Wallwars,
    Baloot,
    Doom,
}

impl System {
    pub const ALL: [System; 5] = [Self::Tank, Self::Battle, Self::Wallwars, Self::Baloot, Self::Doom];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tank => "tank",
            Self::Battle => "battle",
            Self::Wallwars => "wallwars",
            Self::Baloot => "baloot",
            Self::Doom => "doom",
        }
    }

    /// The log topic that carries all events of this system: `fw.{system}.events`.
    pub fn topic(self) -> &'static str {
        match self {
            Self::Tank => "fw.tank.events",
            Self::Battle => "fw.battle.events",
            Self::Wallwars => "fw.wallwars.events",
            Self::Baloot => "fw.baloot.events",
            Self::Doom => "fw.doom.events",
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for System {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        Self::ALL.into_iter().find(|system| system.as_str() == s).ok_or_else(|| IdError {
            what: "system",
            value: s.chars().take(64).collect(),
            reason: "known systems are tank, battle, wallwars, baloot, doom",
        })
    }
}
