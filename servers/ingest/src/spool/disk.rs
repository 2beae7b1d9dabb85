//! A folder in memory that knows what was synced, and loses the rest when its power is cut.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::Arc,
};

use flywheel_kit::spill::{Folder, Growing};
use parking_lot::Mutex;

#[derive(Debug, Default)]
struct State {
    /// Contents by number, and how much of each is synced.
    contents: Vec<(Vec<u8>, usize)>,
    /// As programs see it: names, and which contents they stand for.
    names: BTreeMap<String, usize>,
    /// As it is on the platter.
    synced: BTreeMap<String, usize>,
    /// Operations until it is off; each fails from then on.
    left: Option<usize>,
    full: bool,
    lies: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

impl State {
    fn op(&mut self) -> io::Result<()> {
        match &mut self.left {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the power is off")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

impl Disk {
    /// The power goes after so many more operations.
    pub fn cut_after(&self, operations: usize) {
        self.0.lock().left = Some(operations);
    }

    pub fn is_off(&self) -> bool {
        self.0.lock().left == Some(0)
    }

    /// Writes find no space.
    pub fn set_full(&self, full: bool) {
        self.0.lock().full = full;
    }

    /// Syncs do nothing from now on.
    pub fn lie(&self) {
        self.0.lock().lies = true;
    }

    /// What a loss of power leaves; `draw` gives a number below its argument. Of what was not synced anything may be
    /// there: names old or new, bytes in part, or as zeros.
    pub fn after_a_cut(&self, mut draw: impl FnMut(usize) -> usize) -> Self {
        let state = self.0.lock();
        let mut left = State::default();
        let names: std::collections::BTreeSet<_> = state.names.keys().chain(state.synced.keys()).collect();
        for name in names {
            let (now, safe) = (state.names.get(name), state.synced.get(name));
            let chosen = if now == safe || draw(2) == 0 { safe } else { now };
            let Some(&number) = chosen else { continue };
            let (bytes, synced) = &state.contents[number];
            let kept = synced + draw(bytes.len() - synced + 1);
            let mut bytes = bytes[..kept].to_vec();
            if draw(3) == 0 {
                bytes[*synced..].fill(0);
            }
            left.contents.push((bytes.clone(), bytes.len()));
            left.names.insert(name.clone(), left.contents.len() - 1);
        }
        left.synced = left.names.clone();
        Self(Arc::new(Mutex::new(left)))
    }
}

#[derive(Debug)]
struct File {
    disk: Disk,
    number: usize,
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.disk.0.lock();
        if state.full {
            // Half of it still fits.
            let half = bytes.len() / 2;
            state.contents[self.number].0.extend_from_slice(&bytes[..half]);
            return Err(io::ErrorKind::StorageFull.into());
        }
        let done = state.op();
        let taken = if done.is_ok() { bytes.len() } else { 0 };
        state.contents[self.number].0.extend_from_slice(&bytes[..taken]);
        done.map(|()| taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Growing for File {
    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.op()?;
        if !state.lies {
            let (bytes, synced) = &mut state.contents[self.number];
            *synced = bytes.len();
        }
        Ok(())
    }
}

impl Folder for Disk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let state = self.0.lock();
        Ok(state.names.iter().map(|(name, number)| (name.clone(), state.contents[*number].0.len() as u64)).collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Growing>> {
        let mut state = self.0.lock();
        state.op()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.contents.push((Vec::new(), 0));
        let number = state.contents.len() - 1;
        state.names.insert(name.to_owned(), number);
        Ok(Box::new(File { disk: self.clone(), number }))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut state = self.0.lock();
        state.op()?;
        let number = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(state.contents[number].0.clone())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.op()?;
        let number = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), number);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.op()?;
        state.names.remove(name).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        state.op()?;
        if !state.lies {
            state.synced = state.names.clone();
        }
        Ok(())
    }
}
