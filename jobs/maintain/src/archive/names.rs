//! What is called how in an archive. Cold things lie below `cold/`, so that a lifecycle rule takes them and nothing else.

use std::collections::BTreeMap;

use flywheel_archive::{ArchiveError, ColdStore};

use super::Day;

const INDEX: &str = "index/events/";

pub(crate) struct Names;

impl Names {
    /// A Parquet file, under its content.
    pub fn file(day: &Day, sha256: &str) -> String {
        format!("cold/events/system={}/dt={}/{sha256}.parquet", day.system, day.dt)
    }

    /// What a manifest holds, game by game.
    pub fn book(day: &Day, sha256: &str) -> String {
        format!("books/events/system={}/dt={}/{sha256}.json.zst", day.system, day.dt)
    }

    pub fn manifest(day: &Day, number: u64) -> String {
        format!("{}{number:08}.json", Self::index(day))
    }

    fn index(day: &Day) -> String {
        format!("{INDEX}system={}/dt={}/", day.system, day.dt)
    }

    /// The numbers of a day's manifests, ascending.
    pub async fn manifests(store: &dyn ColdStore, day: &Day) -> Result<Vec<u64>, ArchiveError> {
        let prefix = Self::index(day);
        let names = store.list(&prefix).await?;
        let number = |name: &String| name.strip_prefix(&prefix)?.strip_suffix(".json")?.parse().ok();
        Ok(names.iter().filter_map(number).collect())
    }

    /// Every day that has a manifest, with their numbers, ascending.
    pub async fn days(store: &dyn ColdStore) -> Result<BTreeMap<Day, Vec<u64>>, ArchiveError> {
        let mut days: BTreeMap<Day, Vec<u64>> = BTreeMap::new();
        for name in store.list(INDEX).await? {
            if let Some((day, number)) = parse(&name) {
                days.entry(day).or_default().push(number);
            }
        }
        Ok(days)
    }
}

fn parse(name: &str) -> Option<(Day, u64)> {
    let mut parts = name.strip_prefix(INDEX)?.split('/');
    let system = parts.next()?.strip_prefix("system=")?.to_owned();
    let dt = parts.next()?.strip_prefix("dt=")?.to_owned();
    let number = parts.next()?.strip_suffix(".json")?.parse().ok()?;
    parts.next().is_none().then_some((Day { system, dt }, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_manifest_is_read_back_and_other_names_are_not() {
        let day = Day { system: "tank".into(), dt: "2026-11-01".into() };
        assert_eq!(parse(&Names::manifest(&day, 12)), Some((day, 12)));
        for name in [
            "index/events/system=tank/dt=2026-11-01/x.json",
            "index/events/system=tank/dt=2026-11-01/1.json/y",
            "index/events/tank/2026-11-01/1.json",
            "index/claim.json",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
