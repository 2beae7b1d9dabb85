//! Losses of power at any change of the file.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hasher as _},
};

use flywheel_log::{EventLog, Position, ReadLimit, Record};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    disk::{CUTS, Disk},
    workload::{Journal, LANES, check, open, topic, try_open, until_the_power_goes},
};

#[derive(Debug, Default)]
struct Seen {
    n_acknowledged: usize,
    n_unknown: usize,
    n_cut_again: usize,
    /// States of the file that were looked at.
    n_different: usize,
}

/// One run: appends and a cut; then a look at what may be left, in as many ways as asked for, in about half of them after
/// one more cut while the file is mended.
async fn one(seed: u64, states: u64, honest: bool, seen: &mut Seen) -> Result<(), String> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let disk = Disk::with_log();
    let log = open(disk.open().unwrap());
    if !honest {
        disk.lie();
    }
    let journal = until_the_power_goes(&log, &disk, seed).await;
    assert!(disk.is_off());
    drop(log);
    seen.n_acknowledged += journal.n_acknowledged();
    seen.n_unknown += journal.batches.iter().filter(|batch| batch.2.is_none()).count();
    let mut different = HashSet::new();
    for nth in 0..states {
        // Once all kinds were there, those that leave something else each time.
        let kinds = if nth < CUTS.len() as u64 { &CUTS[..] } else { &CUTS[2..] };
        let cut = kinds[(seed + nth) as usize % kinds.len()];
        let mut left = disk.after(cut, &mut random);
        if random.random() {
            let mending = Disk::holding(left);
            mending.cut_after(random.random_range(0..12));
            drop(mending.open());
            seen.n_cut_again += usize::from(mending.is_off());
            left = mending.after(cut, &mut random);
        }
        let mut hasher = DefaultHasher::new();
        hasher.write(&left);
        different.insert(hasher.finish());
        holds(&Disk::holding(left), &journal).await.map_err(|why| format!("state {nth}, {cut:?}: {why}"))?;
    }
    seen.n_different += different.len();
    Ok(())
}

/// The file opens, has what was acknowledged, and goes on from there.
async fn holds(disk: &Disk, journal: &Journal) -> Result<(), String> {
    let log = disk.open().and_then(try_open).map_err(|error| error.to_string())?;
    check(&log, journal).await?;
    for lane in (0..LANES).map(|n| topic().partition(n)) {
        let before = log.bounds(&lane).await.unwrap();
        let expected = before.last.max(before.trimmed).map_or(0, |offset| offset.raw() + 1);
        let offset = log.append(&lane, vec![Record::new("k", "after")]).await.map_err(|error| error.to_string())?;
        if offset.raw() != expected {
            return Err(format!("{lane} goes on at {offset} instead of {expected}"));
        }
        let position = before.last.map_or(Position::Start, Position::After);
        let found = log.read(&lane, position, ReadLimit::default()).await.map_err(|error| error.to_string())?;
        assert_eq!(found.len(), 1, "{lane}");
    }
    Ok(())
}

/// A number from the environment.
fn asked(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |n| n.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_change_of_the_file_loses_doubles_and_tears_nothing() {
    let (cuts, states) = (asked("FLYWHEEL_POWER_CUTS", 50), asked("FLYWHEEL_STATES", 1));
    let mut seen = Seen::default();
    for seed in 0..cuts {
        if let Err(why) = one(seed, states, true, &mut seen).await {
            panic!("seed {seed}: {why}");
        }
    }
    println!("{cuts} cuts, {} looks at what was left: {seen:?}, nothing lost", cuts * states);
    assert!(seen.n_acknowledged > 0 && seen.n_unknown > 0 && seen.n_cut_again > 0, "{seen:?}");
}

/// The test above can fail: on a disk whose syncs do nothing, most cuts cost what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_lies_about_syncs_is_seen_to_lose_records() {
    let (mut seen, mut lost) = (Seen::default(), 0);
    for seed in 0..20 {
        lost += u64::from(one(seed, 1, false, &mut seen).await.is_err());
    }
    println!("20 cuts of a disk that lies: {seen:?}, loss seen after {lost}");
    assert!(lost >= 5, "{lost} of 20");
}
