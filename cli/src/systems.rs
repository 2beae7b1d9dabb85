//! Which game systems there are: the one place of this program that names their rules.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use flywheel_archive::ColdStore;
use flywheel_backends::{BackendUrls, Backends, OtherLog};
use flywheel_events::System;
use flywheel_flows::{assemble_low_app_id, land_app_id};
use flywheel_game_api::Experience;
use flywheel_judge::{Arena, GameResult};
use flywheel_lake::{CompactOptions, Lake, TableName};
use flywheel_log::Topic;
use flywheel_maintain::{Archived, ArchivingConfig, AuditConfig, AuditReport};
use flywheel_policy::{Policy, Scratch, argmax};
use flywheel_registry::Registry;
use flywheel_tank::{
    ACTIONS, Action, Map, OBSERVATION_LEN, TankConfig, TankExperience,
    headless::{Decide, Headless},
    script::Script,
};

use crate::{
    config::Config,
    data::DataDir,
    exit::{Code, Failure},
    writable,
};

/// Between two looks at which days are old enough for the archive.
const ARCHIVE_EVERY: Duration = Duration::from_secs(3600);

/// A fresh reader of one game's events.
pub fn experience(system: System) -> Option<Box<dyn Experience>> {
    match system {
        System::Tank => Some(Box::new(TankExperience::new())),
        _ => None,
    }
}

/// Where a configuration's backends are.
pub fn urls(config: &Config) -> BackendUrls {
    BackendUrls {
        log: config.stream.url.clone(),
        data: config.data.clone(),
        store: config.store.clone(),
        catalog: config.catalog.clone(),
    }
}

/// The backends of a data folder that is there, shared with a running loop.
pub async fn open_existing(config: &Config) -> Result<Backends, Failure> {
    DataDir::open(&config.data)?;
    Backends::connect(&urls(config)).await.map_err(|error| match error.is::<OtherLog>() {
        true => not_opened(error),
        false => {
            let failure = not_opened(error);
            match failure.hinted() {
                Some(_) => failure,
                None => failure.hint("if a loop is just starting or stopping, try again in a moment"),
            }
        }
    })
}

/// Why a store could not be opened: something does not answer, may not be written, or the tables are of another log.
pub fn not_opened(error: anyhow::Error) -> Failure {
    refused(error, writable::DATA)
}

/// As [`not_opened`], for the archive.
pub fn archive_not_opened(error: anyhow::Error) -> Failure {
    refused(error, "`archive.url`")
}

fn refused(error: anyhow::Error, setting: &str) -> Failure {
    let code = if error.is::<OtherLog>() { Code::Conflict } else { Code::Unreachable };
    let hint = writable::hint_of(&error, setting);
    let failure = Failure::new(code, error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Refuses a bucket on which commits could lose or double rows.
pub async fn check_store(config: &Config) -> Result<(), Failure> {
    let Some(bucket) = config.store.bucket().map_err(|error| Failure::new(Code::Config, error))? else {
        return Ok(());
    };
    let unreachable = |error| Failure::new(Code::Unreachable, error);
    bucket.reach().await.map_err(unreachable)?;
    match bucket.probe(4, 3).await.map_err(unreachable)?.refusal() {
        Some(why) => {
            Err(Failure::msg(Code::CheckFailed, format!("`{bucket}`: {why}")).hint("`flywheel doctor` says more"))
        }
        None => Ok(()),
    }
}

/// The tables alone: those of a data folder that is there, or of a bucket, which need no data folder.
pub async fn open_lake(config: &Config) -> Result<Lake, Failure> {
    if config.store.is_local() {
        DataDir::open(&config.data)?;
    }
    urls(config).open_lake().await.map_err(not_opened)
}

/// The models alone, as [`open_lake`].
pub async fn open_registry(config: &Config) -> Result<Arc<Registry>, Failure> {
    if config.store.is_local() {
        DataDir::open(&config.data)?;
    }
    urls(config).open_registry(None).await.map_err(not_opened)
}

/// The archive, where one is configured.
pub async fn open_archive(config: &Config) -> Result<Option<Arc<dyn ColdStore>>, Failure> {
    if config.archive.is_on() && config.store.is_local() {
        DataDir::open(&config.data)?;
    }
    urls(config).open_archive(&config.archive).await.map_err(archive_not_opened)
}

/// Where the consumers of the log keep how far they are with a partition.
pub fn consumers(topic: &Topic, partition: u32) -> Vec<(TableName, String)> {
    let land = (TableName::Events, land_app_id(topic, partition));
    let system = System::ALL.into_iter().find(|system| system.topic() == topic.as_str());
    // A system without rules here has nobody who assembles its games.
    match system.and_then(experience) {
        Some(_) => vec![land, (TableName::Episodes, assemble_low_app_id(topic, partition))],
        None => vec![land],
    }
}

/// How days are archived.
pub fn archiving(config: &Config) -> ArchivingConfig {
    ArchivingConfig {
        after_days: config.archive.after_days,
        consumers,
        target_bytes: CompactOptions::default().target_bytes,
        thaw_days: config.archive.thaw_days,
        interval: ARCHIVE_EVERY,
    }
}

/// Compares log and tables, all systems.
pub async fn audit(
    backends: &Backends,
    archive: Option<Arc<dyn ColdStore>>,
    acknowledged: BTreeMap<flywheel_events::GameId, u64>,
) -> Result<AuditReport, Failure> {
    let known = backends.log.topics().await?;
    let topics =
        known.into_iter().filter(|(topic, _)| System::ALL.iter().any(|s| s.topic() == topic.as_str())).collect();
    let archive = archive.map(|store| Archived::new(&backends.lake, store));
    let config = AuditConfig { topics, experience: Box::new(experience), acknowledged, archive };
    Ok(flywheel_maintain::audit(&backends.log, &backends.lake, &config).await?)
}

/// The tank system as the judge plays it: the AI side against a scripted player.
#[derive(Debug)]
pub struct TankArena {
    maps: Vec<Map>,
    config: TankConfig,
}

impl TankArena {
    pub fn new(config: TankConfig) -> Self {
        Self { maps: Map::shipped().to_vec(), config }
    }
}

/// Takes the best action of each row and counts what is unsound.
struct Judged<'a> {
    policy: &'a dyn Policy,
    values: Vec<f32>,
    scratch: Scratch,
    result: GameResult,
    times_us: Vec<f32>,
}

impl Decide for Judged<'_> {
    fn decide(&mut self, observations: &[f32], n: usize, out: &mut Vec<u8>) {
        let started = Instant::now();
        self.values.resize(n * ACTIONS, 0.0);
        self.policy.evaluate(observations, &mut self.values, &mut self.scratch);
        out.clear();
        for row in self.values.chunks_exact(ACTIONS) {
            let action = argmax(row);
            self.result.not_finite += u32::from(row.iter().any(|v| !v.is_finite()));
            self.result.illegal_actions += u32::from(Action::from_index(action).is_none());
            out.push(action as u8);
        }
        self.times_us.push(started.elapsed().as_secs_f32() * 1e6);
        self.result.decisions += n as u64;
    }
}

impl Arena for TankArena {
    fn maps(&self) -> Vec<String> {
        self.maps.iter().map(|map| map.name().to_owned()).collect()
    }

    fn anchors(&self) -> Vec<String> {
        ["hunter", "camper", "random"].map(str::to_owned).to_vec()
    }

    fn shape(&self) -> (usize, usize) {
        (OBSERVATION_LEN, ACTIONS)
    }

    fn play(&self, policy: &dyn Policy, opponent: &str, map: &str, seed: u64) -> Result<GameResult, String> {
        let script: Script = opponent.parse().map_err(|_| format!("there is no opponent `{opponent}`"))?;
        let map =
            self.maps.iter().find(|known| known.name() == map).ok_or_else(|| format!("there is no map `{map}`"))?;
        let mut judged = Judged {
            policy,
            values: Vec::new(),
            scratch: Scratch::default(),
            result: GameResult::default(),
            times_us: Vec::with_capacity(2048),
        };
        let mut game = Headless::new(map, &self.config, seed, script).map_err(|error| error.to_string())?;
        let end = game.play(&mut judged);
        let Judged { mut result, mut times_us, .. } = judged;
        times_us.sort_by(f32::total_cmp);
        let at = |share: f64| times_us.get((times_us.len() as f64 * share) as usize).map_or(0.0, |t| f64::from(*t));
        result.score = if end.outcome > 0 { 1.0 } else { 0.0 };
        result.ticks = end.ticks;
        (result.decision_p50_us, result.decision_p99_us) = (at(0.5), at(0.99));
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use flywheel_policy::{Network, NetworkSpec, VersionedNetwork};

    use super::*;

    #[test]
    fn a_judged_game_is_the_same_game_every_time() {
        let arena =
            TankArena::new(TankConfig { transition_interval: 4, max_ticks_per_episode: 600, ..TankConfig::default() });
        let network = Network::random(&NetworkSpec::new(OBSERVATION_LEN, [16], ACTIONS), 3, 0.5).unwrap();
        let policy = VersionedNetwork::unpublished(network);
        let play = || arena.play(&policy, "hunter", &arena.maps()[0], 9).unwrap();
        let (a, b) = (play(), play());
        assert_eq!((a.score, a.ticks, a.decisions), (b.score, b.ticks, b.decisions));
        assert!(a.decisions > 0 && a.illegal_actions == 0 && a.not_finite == 0);
        assert!(arena.play(&policy, "nobody", &arena.maps()[0], 9).unwrap_err().contains("nobody"));
        assert!(arena.play(&policy, "hunter", "nowhere", 9).unwrap_err().contains("nowhere"));
    }
}
