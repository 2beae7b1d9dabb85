//! A store that fails where a test says: before doing what it was asked, or after, without telling.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::SeqCst},
    },
};

use async_trait::async_trait;
use futures::{StreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, path::Path,
};

/// Whether a failing operation was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fail {
    Before,
    /// It was applied, and the answer was lost.
    After,
}

/// Decides which operations fail. Every put, get, list, copy, rename and delete counts as one.
#[derive(Debug, Default)]
pub struct Faults {
    operations: AtomicU64,
    /// Number of the operation at which the process "dies": it and all later ones fail.
    death: AtomicU64,
    death_applies: AtomicBool,
    /// Puts fail with a chance of so many in 1,024 each, by a hash of their number and the seed.
    before: AtomicU64,
    after: AtomicU64,
    seed: AtomicU64,
    puts: AtomicU64,
    /// Numbers of the first put that fails with `os_error`, and of the first after it that does not.
    full: AtomicU64,
    roomy: AtomicU64,
    os_error: AtomicI32,
}

impl Faults {
    /// From operation `n` (1-based) on, nothing works any more; `n` itself may still be applied.
    pub fn die_at(&self, n: u64, how: Fail) {
        self.death_applies.store(how == Fail::After, SeqCst);
        self.death.store(n, SeqCst);
    }

    /// Puts fail at random: `before` of 1,024 undone, `after` of 1,024 done without an answer.
    pub fn flaky_puts(&self, before: u64, after: u64, seed: u64) {
        self.seed.store(seed, SeqCst);
        self.before.store(before, SeqCst);
        self.after.store(after, SeqCst);
    }

    /// These puts (1-based, counted from now) fail undone with this error of the system, as on a full or a broken disk; all
    /// else works.
    pub fn puts_fail(&self, which: Range<u64>, os_error: i32) {
        self.os_error.store(os_error, SeqCst);
        self.puts.store(0, SeqCst);
        self.full.store(which.start, SeqCst);
        self.roomy.store(which.end, SeqCst);
    }

    /// Puts since [`Faults::puts_fail`].
    pub fn puts(&self) -> u64 {
        self.puts.load(SeqCst)
    }

    /// Everything works again.
    pub fn heal(&self) {
        self.full.store(0, SeqCst);
        self.os_error.store(0, SeqCst);
        self.death.store(0, SeqCst);
        self.flaky_puts(0, 0, 0);
    }

    pub fn operations(&self) -> u64 {
        self.operations.load(SeqCst)
    }

    /// Whether the operation that was to be the last has been reached.
    pub fn is_dead(&self) -> bool {
        let death = self.death.load(SeqCst);
        death != 0 && self.operations() >= death
    }

    fn next(&self, is_put: bool) -> Option<Fail> {
        let n = self.operations.fetch_add(1, SeqCst) + 1;
        let death = self.death.load(SeqCst);
        if death != 0 && n >= death {
            return Some(if n == death && self.death_applies.load(SeqCst) { Fail::After } else { Fail::Before });
        }
        if !is_put {
            return None;
        }
        let (put, full) = (self.puts.fetch_add(1, SeqCst) + 1, self.full.load(SeqCst));
        if full != 0 && (full..self.roomy.load(SeqCst)).contains(&put) {
            return Some(Fail::Before);
        }
        // splitmix64
        let mut x = self.seed.load(SeqCst).wrapping_add(n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let chance = (x ^ (x >> 31)) % 1024;
        let (before, after) = (self.before.load(SeqCst), self.after.load(SeqCst));
        match chance {
            c if c < before => Some(Fail::Before),
            c if c < before + after => Some(Fail::After),
            _ => None,
        }
    }
}

/// A store around another one.
#[derive(Debug, Clone)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    faults: Arc<Faults>,
}

impl FaultyStore {
    pub fn new(inner: Arc<dyn ObjectStore>, faults: Arc<Faults>) -> Self {
        Self { inner, faults }
    }
}

fn failure<T>(faults: &Faults) -> Result<T> {
    let source = match faults.os_error.load(SeqCst) {
        0 => "the test said so".into(),
        os_error => std::io::Error::from_raw_os_error(os_error).into(),
    };
    Err(Error::Generic { store: "faulty store", source })
}

macro_rules! faulty {
    ($self:ident, $is_put:literal, $work:expr) => {
        match $self.faults.next($is_put) {
            None => $work.await,
            Some(Fail::Before) => failure(&$self.faults),
            Some(Fail::After) => {
                let _ = $work.await;
                failure(&$self.faults)
            }
        }
    };
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        faulty!(self, true, self.inner.put_opts(location, payload, opts))
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        faulty!(self, true, self.inner.put_multipart_opts(location, opts))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        faulty!(self, false, self.inner.get_opts(location, options))
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.faults.next(false) {
            None => self.inner.delete_stream(locations),
            Some(_) => stream::iter([failure(&self.faults)]).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.faults.next(false) {
            None => self.inner.list(prefix),
            Some(_) => stream::iter([failure(&self.faults)]).boxed(),
        }
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.faults.next(false) {
            None => self.inner.list_with_offset(prefix, offset),
            Some(_) => stream::iter([failure(&self.faults)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        faulty!(self, false, self.inner.list_with_delimiter(prefix))
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        faulty!(self, true, self.inner.copy_opts(from, to, options))
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        faulty!(self, true, self.inner.rename_opts(from, to, options))
    }
}
