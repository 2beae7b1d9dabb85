//! A disk in memory that remembers what was not synced, and can lose it in every way that a real one does.

use std::{io, sync::Arc};

use parking_lot::Mutex;
use rand::{Rng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use redb::{Database, StorageBackend};

use crate::store::{LogFile, Opening, initialise};

/// Disks write sectors whole or not at all, and nothing larger.
const SECTOR: usize = 512;

#[derive(Debug, Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => {
                if to.len() < at + bytes.len() {
                    to.resize(at + bytes.len(), 0);
                }
                to[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Self::Length(length) => to.resize(*length, 0),
        }
    }

    /// The change in pieces that reach the disk each for itself.
    fn sectors(&self) -> Vec<Self> {
        let Self::Write { at, bytes } = self else { return vec![self.clone()] };
        let (mut pieces, mut from) = (Vec::new(), 0);
        while from < bytes.len() {
            let to = (from + SECTOR - (at + from) % SECTOR).min(bytes.len());
            pieces.push(Self::Write { at: at + from, bytes: bytes[from..to].to_vec() });
            from = to;
        }
        pieces
    }
}

/// What a loss of power leaves of the changes since the last sync.
#[derive(Debug, Clone, Copy)]
pub enum Cut {
    /// None of them.
    Nothing,
    /// All of them, as after `kill -9`.
    Everything,
    /// The first few, and of the next one some sectors.
    Torn,
    /// Some of them, written in another order.
    Shuffled,
    /// Of each sector any state that it went through, whatever its neighbours hold.
    Sectors,
}

/// The first two leave the same each time.
pub const CUTS: [Cut; 5] = [Cut::Nothing, Cut::Everything, Cut::Torn, Cut::Shuffled, Cut::Sectors];

/// What goes wrong, until it is taken away again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Blocks that were never written find no space; those that were can be written again.
    Full,
    Read,
    Write,
    /// A sync fails, and its changes are dropped: the system shows them until its cache is forgotten, the disk never gets
    /// them.
    Sync,
}

#[derive(Debug)]
struct State {
    /// On the platter.
    synced: Vec<u8>,
    /// What the system shows.
    shown: Vec<u8>,
    since: Vec<Change>,
    honest: bool,
    forgets: bool,
    fault: Fault,
    hits: u64,
    /// Writes, syncs and changes of length until the power goes.
    left: Option<u64>,
    off: bool,
}

/// A handle; clones are the same disk.
#[derive(Debug, Clone)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    /// With an empty log on it.
    pub fn with_log() -> Self {
        let disk = Self::holding(Vec::new());
        initialise(&Database::builder().create_with_backend(disk.clone()).unwrap()).unwrap();
        disk
    }

    pub fn holding(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State {
            synced: bytes.clone(),
            shown: bytes,
            since: Vec::new(),
            honest: true,
            forgets: true,
            fault: Fault::None,
            hits: 0,
            left: None,
            off: false,
        })))
    }

    /// Opened as the log opens its file: after a failure without what the system has cached. With a small cache, so that
    /// reads reach the disk.
    pub fn open(&self) -> Result<LogFile, flywheel_log::LogError> {
        let disk = self.clone();
        LogFile::with("a disk in memory".to_owned(), move |opening| {
            if opening == Opening::AfterFailure {
                disk.forget();
            }
            Database::builder().set_cache_size(64 << 10).create_with_backend(disk.clone())
        })
    }

    /// Syncs from now on do nothing and say that all is well.
    pub fn lie(&self) {
        self.0.lock().honest = false;
    }

    /// The system clings to pages that the disk never got.
    pub fn never_forget(&self) {
        self.0.lock().forgets = false;
    }

    fn forget(&self) {
        let mut state = self.0.lock();
        if state.forgets && state.since.is_empty() {
            state.shown = state.synced.clone();
        }
    }

    pub fn fail(&self, fault: Fault) {
        let mut state = self.0.lock();
        (state.fault, state.hits) = (fault, 0);
    }

    /// How often the fault was met since it was set.
    pub fn hits(&self) -> u64 {
        self.0.lock().hits
    }

    pub fn cut_after(&self, changes: u64) {
        self.0.lock().left = Some(changes);
    }

    pub fn is_off(&self) -> bool {
        self.0.lock().off
    }

    pub fn cut_now(&self) {
        self.0.lock().off = true;
    }

    /// The bytes found when the power comes back.
    pub fn after(&self, cut: Cut, random: &mut ChaCha8Rng) -> Vec<u8> {
        let state = self.0.lock();
        let (mut bytes, since) = (state.synced.clone(), &state.since);
        match cut {
            Cut::Nothing => {}
            Cut::Everything => since.iter().for_each(|change| change.apply(&mut bytes)),
            Cut::Torn => {
                let whole = random.random_range(0..=since.len());
                since[..whole].iter().for_each(|change| change.apply(&mut bytes));
                let torn = since.get(whole).map(Change::sectors).unwrap_or_default();
                torn.iter().filter(|_| random.random()).for_each(|sector| sector.apply(&mut bytes));
            }
            Cut::Shuffled => {
                let mut some: Vec<_> = since.iter().filter(|_| random.random()).collect();
                some.shuffle(random);
                some.into_iter().for_each(|change| change.apply(&mut bytes));
            }
            Cut::Sectors => {
                let mut states: std::collections::BTreeMap<usize, Vec<Change>> = std::collections::BTreeMap::new();
                for piece in since.iter().flat_map(Change::sectors) {
                    let place = match &piece {
                        Change::Write { at, .. } => at / SECTOR,
                        Change::Length(_) => usize::MAX,
                    };
                    states.entry(place).or_default().push(piece);
                }
                for changes in states.into_values() {
                    let until = random.random_range(0..=changes.len());
                    changes[..until].iter().for_each(|change| change.apply(&mut bytes));
                }
            }
        }
        bytes
    }
}

impl State {
    fn fails(&mut self, fault: Fault) -> bool {
        let fails = self.fault == fault;
        self.hits += u64::from(fails);
        fails
    }

    /// One more change is about to happen; none does once the power is off.
    fn powered(&mut self) -> io::Result<()> {
        match &mut self.left {
            Some(0) => self.off = true,
            Some(left) => *left -= 1,
            None => {}
        }
        if self.off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        self.powered()?;
        if self.fails(Fault::Write) {
            return Err(io::Error::other("the disk does not write"));
        }
        if let Change::Write { at, bytes } = &change
            && self.fault == Fault::Full
            && self.shown.get(*at..at + bytes.len()).is_none_or(|old| old.iter().all(|byte| *byte == 0))
        {
            self.hits += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        change.apply(&mut self.shown);
        self.since.push(change);
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().shown.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.off || state.fails(Fault::Read) {
            return Err(io::Error::other("the disk does not read"));
        }
        let offset = offset as usize;
        out.copy_from_slice(state.shown.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.lock().change(Change::Length(length as usize))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().change(Change::Write { at: offset as usize, bytes: bytes.to_vec() })
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        state.powered()?;
        if state.fails(Fault::Sync) {
            state.since.clear();
            return Err(io::Error::other("the disk does not sync"));
        }
        if state.honest {
            // Not `shown`: it may hold what a failed sync has dropped.
            let State { synced, since, .. } = &mut *state;
            since.drain(..).for_each(|change| change.apply(synced));
        }
        Ok(())
    }
}
