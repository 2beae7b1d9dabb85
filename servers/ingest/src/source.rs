//! Who sends, and so which games he may write.

use std::sync::Arc;

/// The producer behind a request or a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Reached doors that know no keys.
    Local,
    /// Has no key: games under these prefixes belong to others.
    Keyless(Arc<Prefixes>),
    /// Has a key: only games under its prefix are his.
    Key { prefix: Arc<str> },
}

/// Prefixes of game ids, found quickly.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefixes {
    /// Sorted, and none begins with another one.
    shortest: Vec<String>,
}

impl FromIterator<String> for Prefixes {
    fn from_iter<T: IntoIterator<Item = String>>(prefixes: T) -> Self {
        let mut all: Vec<String> = prefixes.into_iter().collect();
        all.sort();
        let mut shortest: Vec<String> = Vec::new();
        for prefix in all {
            if shortest.last().is_none_or(|last| !prefix.starts_with(last)) {
                shortest.push(prefix);
            }
        }
        Self { shortest }
    }
}

impl Prefixes {
    /// The prefix that `game` lies under, if any.
    pub fn of(&self, game: &str) -> Option<&str> {
        // Of prefixes none of which begins with another, the last one not behind `game` is the only candidate.
        let behind = self.shortest.partition_point(|prefix| prefix.as_str() <= game);
        let candidate = self.shortest[..behind].last()?;
        game.starts_with(candidate.as_str()).then_some(candidate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_of_a_game_is_found_as_by_looking_at_all() {
        let words = ["a", "ab", "abc", "b-", "b-1", "b-10-", "c", "ca", "x.y_z", "zz"];
        let games = [
            "", "a", "abd", "b", "b-", "b-0", "b-10", "b-10-7", "b0", "bz", "c", "cb", "d", "x.y", "x.y_z9", "zy",
            "zz", "zzz",
        ];
        // Every set of these words.
        for set in 0_u32..1 << words.len() {
            let chosen: Vec<&str> =
                words.iter().enumerate().filter(|(at, _)| set >> at & 1 == 1).map(|(_, word)| *word).collect();
            let prefixes: Prefixes = chosen.iter().map(|word| (*word).to_owned()).collect();
            for game in games {
                let slowly = chosen.iter().any(|prefix| game.starts_with(prefix));
                assert_eq!(prefixes.of(game).is_some(), slowly, "{game} under {chosen:?}");
                assert!(prefixes.of(game).is_none_or(|prefix| game.starts_with(prefix)));
            }
        }
    }
}
