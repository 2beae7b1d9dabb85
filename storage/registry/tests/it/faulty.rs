//! A store that dies, or loses an answer, at a chosen operation.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};

/// What happens at the chosen operation, the first being 1.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Never reaches the store; nor does anything after it: the process was killed.
    KilledBefore(usize),
    /// Reaches the store, but the answer does not come back; nor does anything after it.
    KilledAfter(usize),
    /// Reaches the store, only the answer is lost.
    AnswerLost(usize),
    /// So many puts-if-absent in a row are answered "it exists" while nothing does, as S3 answers 409 in a race.
    Undecided(usize),
    /// From this put on, puts fail undone with this error of the system, until [`Faulty::heal`]; all else works.
    PutsFail(usize, i32),
}

#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    fault: Fault,
    operations: AtomicUsize,
    undecided: AtomicUsize,
    puts: AtomicUsize,
    healed: AtomicBool,
}

impl Faulty {
    pub fn new(inner: Arc<dyn ObjectStore>, fault: Fault) -> Arc<Self> {
        Arc::new(Self {
            inner,
            fault,
            operations: AtomicUsize::default(),
            undecided: AtomicUsize::default(),
            puts: AtomicUsize::default(),
            healed: AtomicBool::default(),
        })
    }

    pub fn operations(&self) -> usize {
        self.operations.load(Ordering::SeqCst)
    }

    pub fn puts(&self) -> usize {
        self.puts.load(Ordering::SeqCst)
    }

    /// Puts work again.
    pub fn heal(&self) {
        self.healed.store(true, Ordering::SeqCst);
    }

    /// Why this put fails.
    fn refusal(&self) -> Option<Error> {
        let put = self.puts.fetch_add(1, Ordering::SeqCst) + 1;
        match self.fault {
            Fault::PutsFail(from, os_error) if put >= from && !self.healed.load(Ordering::SeqCst) => {
                let source = std::io::Error::from_raw_os_error(os_error).into();
                Some(Error::Generic { store: "faulty", source })
            }
            _ => None,
        }
    }

    /// Whether this operation reaches the store, and whether its answer comes back.
    fn next(&self) -> (bool, bool) {
        let now = self.operations.fetch_add(1, Ordering::SeqCst) + 1;
        match self.fault {
            Fault::KilledBefore(at) => (now < at, now < at),
            Fault::KilledAfter(at) => (now <= at, now < at),
            Fault::AnswerLost(at) => (true, now != at),
            Fault::Undecided(_) | Fault::PutsFail(..) => (true, true),
        }
    }

    async fn through<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let (reaches, answers) = self.next();
        if !reaches {
            return Err(lost());
        }
        let result = work.await;
        if answers { result } else { Err(lost()) }
    }
}

fn lost() -> Error {
    Error::Generic { store: "faulty", source: "the connection was lost".into() }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        if let Fault::Undecided(times) = self.fault
            && matches!(options.mode, PutMode::Create)
            && self.undecided.fetch_add(1, Ordering::SeqCst) % (times + 1) < times
        {
            return Err(Error::AlreadyExists {
                path: location.to_string(),
                source: "ConditionalRequestConflict".into(),
            });
        }
        self.through(self.inner.put_opts(location, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        self.through(self.inner.put_multipart_opts(location, options)).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.through(self.inner.get_opts(location, options)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.next() {
            (false, _) => futures::stream::once(async { Err(lost()) }).boxed(),
            (true, true) => self.inner.delete_stream(locations),
            (true, false) => self.inner.delete_stream(locations).and_then(|_| async { Err(lost()) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.next() {
            (true, true) => self.inner.list(prefix),
            _ => futures::stream::once(async { Err(lost()) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.through(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.through(self.inner.copy_opts(from, to, options)).await
    }
}
