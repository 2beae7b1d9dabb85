//! Taking back what was not synced.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use anyhow::Context;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{
    Undone,
    journal::{Change, Journal},
};

const SECTOR: u64 = 512;

/// How little the disk under the files promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// What POSIX says and no more.
    Careless,
    /// Names are safe once anything was synced after them, and files lose their tail, not their middle.
    Ordered,
}

/// What becomes of the changes of one file that are not safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Nothing,
    Everything,
    Beginning,
    Sectors,
}

/// Takes back what `journal` does not know to be safe, in the files below `root`.
pub fn undo(
    journal: &Journal,
    root: &Path,
    stash: &Path,
    disk: Disk,
    random: &mut ChaCha8Rng,
) -> anyhow::Result<Undone> {
    let mut undone = Undone::default();
    let mut data: BTreeMap<u64, Vec<&Change>> = BTreeMap::new();
    let mut names: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    let ordered = journal.safe_by_any();
    for (place, change) in journal.changes.iter().enumerate() {
        let Some((subject, change)) = change else { continue };
        let safe = journal.safe_of(*subject);
        if change.is_of_a_name() {
            let safe = if disk == Disk::Ordered { ordered } else { safe };
            if place >= safe {
                names.entry(*subject).or_default().push(place);
            }
        } else if place >= safe {
            data.entry(*subject).or_default().push(change);
        }
    }
    let paths = by_inode(root, stash)?;
    for (inode, changes) in data {
        // A file without any name left is nobody's.
        let Some(path) = paths.get(&inode) else { continue };
        let bytes = one_file(path, &changes, disk, random).with_context(|| format!("undoing {}", path.display()))?;
        undone.bytes += bytes;
        undone.files += u64::from(bytes > 0);
    }
    // Each folder keeps a beginning of what was done to its names.
    let mut gone: Vec<usize> = Vec::new();
    for places in names.values() {
        let kept = match random.random_range(0..10) {
            0..3 => places.len(),
            3..7 => 0,
            _ => random.random_range(0..=places.len()),
        };
        gone.extend(&places[kept..]);
    }
    gone.sort_unstable();
    undone.names = gone.len() as u64;
    for place in gone.into_iter().rev() {
        let (_, change) = journal.changes[place].as_ref().expect("only changes were listed");
        one_name(change, stash).with_context(|| format!("undoing {change:?}"))?;
    }
    Ok(undone)
}

fn by_inode(root: &Path, stash: &Path) -> anyhow::Result<HashMap<u64, PathBuf>> {
    let mut found = HashMap::new();
    let mut folders = vec![root.to_owned(), stash.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let (path, metadata) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
            if metadata.is_dir() {
                folders.push(path);
            } else {
                found.insert(metadata.ino(), path);
            }
        }
    }
    Ok(found)
}

/// Bytes that a change has put at a place; or a size.
enum Redo {
    Bytes(u64, Vec<u8>),
    Size(u64),
}

/// Undoes all changes, then does again what the disk happens to have kept. Returns how many bytes were lost.
fn one_file(path: &Path, changes: &[&Change], disk: Disk, random: &mut ChaCha8Rng) -> io::Result<u64> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut redo = Vec::new();
    for change in changes.iter().rev() {
        match change {
            Change::Data { at, size, old, length } => {
                let there = file.metadata()?.len();
                let mut now = vec![0; (*length).min(there.saturating_sub(*at)) as usize];
                file.read_exact_at(&mut now, *at)?;
                redo.push(Redo::Bytes(*at, now));
                file.write_all_at(old, *at)?;
                // Where the process died before it wrote, the file is as it was.
                file.set_len(*size)?;
            }
            Change::Size { to, size, cut } => {
                redo.push(Redo::Size(*to));
                file.set_len(*size)?;
                file.write_all_at(cut, *to)?;
            }
            _ => unreachable!("only changes of bytes were listed"),
        }
    }
    redo.reverse();
    let fate = match random.random_range(0..100) {
        0..40 => Fate::Nothing,
        40..55 => Fate::Everything,
        55..80 => Fate::Beginning,
        _ if disk == Disk::Ordered => Fate::Beginning,
        _ => Fate::Sectors,
    };
    let torn_at = random.random_range(0..redo.len());
    let mut lost = 0;
    for (place, redo) in redo.iter().enumerate() {
        match (redo, fate) {
            (_, Fate::Everything) => again(&file, redo, u64::MAX)?,
            (_, Fate::Beginning) if place < torn_at => again(&file, redo, u64::MAX)?,
            (Redo::Bytes(_, bytes), Fate::Beginning) if place == torn_at => {
                let kept = random.random_range(0..=bytes.len() as u64);
                again(&file, redo, kept)?;
                lost += bytes.len() as u64 - kept;
            }
            (Redo::Bytes(at, bytes), Fate::Sectors) => lost += some_sectors(&file, *at, bytes, random)?,
            (Redo::Size(_), Fate::Sectors) if random.random() => again(&file, redo, 0)?,
            (Redo::Bytes(_, bytes), _) => lost += bytes.len() as u64,
            (Redo::Size(_), _) => {}
        }
    }
    file.sync_all()?;
    Ok(lost)
}

fn again(file: &File, redo: &Redo, limit: u64) -> io::Result<()> {
    match redo {
        Redo::Bytes(at, bytes) => file.write_all_at(&bytes[..limit.min(bytes.len() as u64) as usize], *at),
        Redo::Size(to) => file.set_len(*to),
    }
}

/// Each sector is there or is not.
fn some_sectors(file: &File, at: u64, bytes: &[u8], random: &mut ChaCha8Rng) -> io::Result<u64> {
    let (mut from, mut lost) = (0, 0);
    while from < bytes.len() {
        // To the end of the sector that the byte lies in.
        let to = (((at + from as u64) / SECTOR + 1) * SECTOR - at).min(bytes.len() as u64) as usize;
        if random.random() {
            file.write_all_at(&bytes[from..to], at + from as u64)?;
        } else {
            lost += (to - from) as u64;
        }
        from = to;
    }
    Ok(lost)
}

/// A change that was never made, or was undone with its folder, is undone already.
fn one_name(change: &Change, stash: &Path) -> io::Result<()> {
    match change {
        Change::Create(path) | Change::Link(path) => absent_is_fine(fs::remove_file(path)),
        Change::MakeDir(path) => absent_is_fine(fs::remove_dir_all(path)),
        Change::Unlink { path, stashed } => match stashed {
            Some(name) if !path.exists() => absent_is_fine(fs::hard_link(stash.join(name), path)),
            _ => Ok(()),
        },
        Change::Rename { from, to, stashed } => {
            if from.exists() || !to.exists() {
                return Ok(());
            }
            absent_is_fine(fs::rename(to, from))?;
            match stashed {
                Some(name) => absent_is_fine(fs::hard_link(stash.join(name), to)),
                None => Ok(()),
            }
        }
        Change::Data { .. } | Change::Size { .. } => unreachable!("only changes of names were listed"),
    }
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
