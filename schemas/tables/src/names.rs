use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::TableError;

/// The tables of a lake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableName {
    /// One row is one event.
    Events,
    /// One row is one seat's `(s, a, r, s', done)`.
    Transitions,
    /// One row is one seat's whole game.
    Episodes,
    /// One row is one judged game.
    Evaluations,
    /// One row is one record that could not be used.
    DeadLetters,
}

impl TableName {
    pub const ALL: [TableName; 5] =
        [Self::Events, Self::Transitions, Self::Episodes, Self::Evaluations, Self::DeadLetters];

    /// The table's folder under the lake's root.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Transitions => "transitions",
            Self::Episodes => "episodes",
            Self::Evaluations => "evaluations",
            Self::DeadLetters => "dead_letters",
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TableName {
    type Err = TableError;

    fn from_str(text: &str) -> Result<Self, TableError> {
        Self::ALL
            .into_iter()
            .find(|name| name.as_str() == text)
            .ok_or_else(|| TableError::UnknownTable(text.chars().take(64).collect()))
    }
}
