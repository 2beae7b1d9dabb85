//! Events that wait in a file: appended at the end, taken from the front, kept over restarts.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use tracing::warn;

use crate::{ClientError, ClientErrorKind};

/// What is acknowledged is cut off the file once it is this much, and at least as much as still waits.
const CUT_FROM_BYTES: u64 = 4 << 20;

/// One event a line. `path` holds the events, `path.done` how many bytes of it are acknowledged, as in the Python
/// client, so that either takes over the other's file.
///
/// A line without its newline was torn by a crash and is cut off. If the process dies between an acknowledgement and
/// the note of it, events are sent again, which the server recognises.
///
/// What waits is bounded by `limit`. The file is that and a quarter of the limit at most: what is acknowledged lies in
/// front until it is worth copying the rest away from it.
#[derive(Debug)]
pub(crate) struct Spool {
    path: PathBuf,
    limit: u64,
    file: File,
    size: u64,
    done: u64,
    /// What [`Spool::peek`] gave last lies where it lay.
    in_place: bool,
    /// So much must be acknowledged before it is cut off; grows while that fails.
    cut_from: u64,
}

impl Spool {
    pub fn open(path: &Path, limit: u64) -> Result<Self, ClientError> {
        let failed = |why: &str| ClientError::new(ClientErrorKind::Spool, "opening the spool", path.display(), why);
        let file = OpenOptions::new().read(true).append(true).create(true).open(path);
        let file = file.map_err(|error| failed(&error.to_string()).caused_by(error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(failed("it is in use by another emitter; give each its own file"));
            }
            Err(TryLockError::Error(error)) => {
                return Err(failed("it cannot be locked; put it on a local disk").caused_by(error));
            }
        }
        let mut spool =
            Self { path: path.to_owned(), limit, file, size: 0, done: 0, in_place: true, cut_from: CUT_FROM_BYTES };
        spool.recover().map_err(|error| failed(&error.to_string()).caused_by(error))?;
        Ok(spool)
    }

    /// Bytes that are not acknowledged.
    pub fn pending(&self) -> u64 {
        self.size - self.done
    }

    /// Writes all `lines` or none; a full spool or disk takes none.
    pub fn append<'a>(&mut self, lines: impl IntoIterator<Item = &'a [u8]>) -> bool {
        self.look().is_ok() && self.try_append(lines)
    }

    fn try_append<'a>(&mut self, lines: impl IntoIterator<Item = &'a [u8]>) -> bool {
        let mut data = Vec::new();
        for line in lines {
            data.extend_from_slice(line);
            data.push(b'\n');
            if self.pending() + data.len() as u64 > self.limit {
                return false;
            }
        }
        // Then a quarter of the limit is acknowledged, so that events are copied at most four times.
        if self.size + data.len() as u64 > self.limit.saturating_add(self.limit / 4)
            && !self.cut_front([]).unwrap_or(false)
        {
            return false;
        }
        if self.file.write_all(&data).is_err() {
            // A part may be there. Should the cut fail too, the next start cuts at the last newline; whole lines of
            // the part are then sent though they were counted as lost, which harms nobody.
            let _ = self.file.set_len(self.size);
            return false;
        }
        self.size += data.len() as u64;
        true
    }

    /// Puts lines before all others, or nothing; for events that are older than what is spooled.
    pub fn prepend<'a>(&mut self, lines: impl IntoIterator<Item = &'a [u8]>) -> bool {
        self.look().is_ok() && self.cut_front(lines).unwrap_or(false)
    }

    /// A new file of `lines` and then what waits takes the place of this one; false if that is more than the limit.
    fn cut_front<'a>(&mut self, lines: impl IntoIterator<Item = &'a [u8]>) -> io::Result<bool> {
        let mut data = Vec::new();
        for line in lines {
            data.extend_from_slice(line);
            data.push(b'\n');
        }
        let size = data.len() as u64 + self.pending();
        if size > self.limit.max(self.pending()) {
            return Ok(false);
        }
        let part = beside(&self.path, ".part");
        let cut = self.replace(&part, &data, size);
        match &cut {
            Ok(()) => self.cut_from = CUT_FROM_BYTES,
            Err(_) => {
                // Half a copy on a disk that may be full.
                let _ = fs::remove_file(&part);
                self.cut_from = self.cut_from.max(self.done).saturating_mul(2);
            }
        }
        cut.map(|()| true)
    }

    fn replace(&mut self, part: &Path, data: &[u8], size: u64) -> io::Result<()> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(part)?;
        file.set_len(0)?;
        file.write_all(data)?;
        self.file.seek(SeekFrom::Start(self.done))?;
        if io::copy(&mut (&self.file).take(self.pending()), &mut file)? < self.pending() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.try_lock().map_err(|_| io::ErrorKind::ResourceBusy)?;
        // The note first: after a crash between the two, what was acknowledged is sent again.
        self.note(0)?;
        fs::rename(part, &self.path)?;
        (self.file, self.size, self.done) = (file, size, 0);
        Ok(())
    }

    /// The oldest whole lines, each with its newline, and how many they are: at least one if there is any.
    pub fn peek(&mut self, max_events: usize, max_bytes: usize) -> io::Result<(Vec<u8>, usize)> {
        self.look()?;
        self.in_place = true;
        self.file.seek(SeekFrom::Start(self.done))?;
        let (mut data, mut wanted) = (Vec::new(), max_bytes.max(1) as u64);
        loop {
            let left = self.pending() - data.len() as u64;
            let read = (&self.file).take(wanted.min(left)).read_to_end(&mut data)?;
            let (mut n, mut end) = (0, 0);
            for (at, _) in data.iter().enumerate().filter(|(_, byte)| **byte == b'\n').take(max_events.max(1)) {
                (n, end) = (n + 1, at + 1);
            }
            if n > 0 || data.len() as u64 >= self.pending() {
                data.truncate(end);
                return Ok((data, n));
            }
            if read == 0 {
                // Cut since it was looked at; the next call looks again.
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            wanted = 64 << 10;
        }
    }

    /// The first `n_bytes` of what [`Spool::peek`] gave are acknowledged.
    pub fn drop_front(&mut self, n_bytes: u64) -> io::Result<()> {
        self.look()?;
        if !self.in_place {
            // Where they lay nobody knows any more: they may be sent again, and are recognised.
            return Ok(());
        }
        self.done += n_bytes;
        debug_assert!(self.done <= self.size);
        if self.done < self.size {
            self.note(self.done)?;
            if self.done >= self.cut_from.max(self.pending()) {
                // Should it fail, it is tried again when twice as much is acknowledged.
                let _ = self.cut_front([]);
            }
            return Ok(());
        }
        // The note first: if the process dies between the two, all of it is sent again. The other way round, a note
        // of an earlier file could be believed of a later one.
        self.note(0)?;
        self.file.set_len(0)?;
        (self.size, self.done) = (0, 0);
        Ok(())
    }

    /// Somebody may have cut the file, to get his disk back: then goes on with what is left.
    fn look(&mut self) -> io::Result<()> {
        let found = self.file.metadata()?.len();
        if found < self.size {
            let bytes = self.size - found;
            warn!(path = %self.path.display(), bytes, "the spool was cut by somebody else; what is gone is lost");
            self.in_place = false;
            self.recover()?;
        }
        Ok(())
    }

    fn note(&self, done: u64) -> io::Result<()> {
        let (note, part) = (beside(&self.path, ".done"), beside(&self.path, ".done.part"));
        fs::write(&part, done.to_string())?;
        fs::rename(part, note)
    }

    fn recover(&mut self) -> io::Result<()> {
        let found = self.file.metadata()?.len();
        self.size = found;
        while self.size > 0 {
            let start = self.size.saturating_sub(64 << 10);
            let mut block = Vec::new();
            self.file.seek(SeekFrom::Start(start))?;
            (&self.file).take(self.size - start).read_to_end(&mut block)?;
            if let Some(at) = block.iter().rposition(|&byte| byte == b'\n') {
                self.size = start + at as u64 + 1;
                break;
            }
            self.size = start;
        }
        if self.size < found {
            self.file.set_len(self.size)?;
        }
        let said = fs::read_to_string(beside(&self.path, ".done")).ok().and_then(|note| note.trim().parse().ok());
        self.done = said.unwrap_or(0);
        if !self.ends_a_line(self.done)? {
            // A note of another file. It must not be believed later either, when this file has grown.
            self.done = 0;
            self.note(0)?;
        }
        Ok(())
    }

    fn ends_a_line(&mut self, at: u64) -> io::Result<bool> {
        if at == 0 || at > self.size {
            return Ok(at == 0);
        }
        let mut byte = [0];
        self.file.seek(SeekFrom::Start(at - 1))?;
        self.file.read_exact(&mut byte)?;
        Ok(byte == *b"\n")
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests;
