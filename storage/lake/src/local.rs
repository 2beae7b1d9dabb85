//! The local file system as an object store whose puts survive a loss of power.

use std::{
    collections::HashSet,
    fmt,
    fs::File,
    io::{ErrorKind, Write},
    path::{Path as FsPath, PathBuf},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
    local::LocalFileSystem, path::Path,
};
use tokio::{runtime::Handle, sync::Semaphore};

use crate::staged;

const STORE: &str = "local file system";
/// So many files are opened at once, and read where they are small. With four of them threads came faster than others were free.
const READS_AT_ONCE: usize = 2;
/// Up to here a file is read whole when it is opened: commits, not columns.
const SMALL_BYTES: u64 = 64 << 10;

/// [`LocalFileSystem`], except that a put is on disk when it returns: file synced, then named, then its folder
/// synced. (The plain one leaves that to the page cache, so a power cut could keep a commit and lose its data.)
#[derive(Debug, Clone)]
pub struct DurableFileSystem {
    inner: Arc<LocalFileSystem>,
    folders: Folders,
    /// A checkpoint asks for all commits that it covers at once. Each would be read by a thread of its own: fifty threads, which
    /// stay, and each keeps memory.
    reads: Arc<Semaphore>,
}

/// Folders whose names are known to be on disk, and those of all above them.
#[derive(Debug, Clone, Default)]
struct Folders(Arc<Mutex<HashSet<PathBuf>>>);

impl DurableFileSystem {
    /// The whole file system; object paths are absolute paths without the leading slash.
    pub fn new() -> Self {
        Self {
            inner: Arc::new(LocalFileSystem::new()),
            folders: Folders::default(),
            reads: Arc::new(Semaphore::new(READS_AT_ONCE)),
        }
    }

    /// As [`DurableFileSystem::new`], after removing what killed writers left below `folder`: files that were to be
    /// put and never got their name, untouched for an hour. Looks at every name below `folder`.
    pub fn open(folder: impl AsRef<FsPath>) -> Self {
        staged::collect(folder.as_ref(), staged::MIN_AGE);
        Self::new()
    }

    fn put_blocking(folders: &Folders, path: &FsPath, payload: &PutPayload, mode: &PutMode) -> Result<()> {
        let generic = |source: std::io::Error| Error::Generic { store: STORE, source: source.into() };
        let folder = path.parent().expect("an object lies in a folder");
        folders.create(folder).map_err(generic)?;
        let (mut file, staged) = staged::create(path).map_err(generic)?;
        let written = write_synced(&mut file, payload).and_then(|()| match mode {
            PutMode::Create => {
                let linked = std::fs::hard_link(&staged, path);
                // The name is there, the staged one is only litter now.
                let _ = std::fs::remove_file(&staged);
                linked
            }
            _ => std::fs::rename(&staged, path),
        });
        if let Err(source) = written {
            let _ = std::fs::remove_file(&staged);
            return Err(match source.kind() {
                ErrorKind::AlreadyExists if matches!(mode, PutMode::Create) => {
                    Error::AlreadyExists { path: path.display().to_string(), source: source.into() }
                }
                _ => generic(source),
            });
        }
        sync_folder(folder).map_err(generic)
    }
}

impl Default for DurableFileSystem {
    fn default() -> Self {
        Self::new()
    }
}

fn write_synced(file: &mut File, payload: &PutPayload) -> std::io::Result<()> {
    for part in payload {
        file.write_all(part)?;
    }
    #[cfg(flywheel_bug)]
    if crate::seeded_bug("lake-file-not-synced") {
        return Ok(());
    }
    file.sync_data()
}

impl Folders {
    /// Creates the folder where it is not, and sees to it that its name is on disk, and those above it.
    ///
    /// Also where it is there already: whoever made it may have been killed before its name was synced, and a cut of power
    /// would then take it back with all that is in it.
    fn create(&self, folder: &FsPath) -> std::io::Result<()> {
        let known = || self.0.lock().expect("nothing panics while it holds this");
        let is_there = folder.is_dir();
        if is_there && known().contains(folder) {
            return Ok(());
        }
        if let Some(parent) = folder.parent() {
            self.create(parent)?;
            if !is_there
                && let Err(error) = std::fs::create_dir(folder)
                && error.kind() != ErrorKind::AlreadyExists
            {
                return Err(error);
            }
            match sync_folder(parent) {
                // Far above our own, folders may be others', who see to them.
                Err(error) if is_there && is_others(&error) => {}
                synced => synced?,
            }
        }
        known().insert(folder.to_owned());
        Ok(())
    }
}

fn is_others(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::InvalidInput)
}

fn sync_folder(folder: &FsPath) -> std::io::Result<()> {
    #[cfg(test)]
    tests::SYNCED.with_borrow_mut(|synced| synced.push(folder.to_owned()));
    #[cfg(flywheel_bug)]
    if crate::seeded_bug("lake-folder-not-synced") {
        return Ok(());
    }
    File::open(folder)?.sync_all()
}

impl fmt::Display for DurableFileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DurableFileSystem")
    }
}

async fn blocking(work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> Result<()> {
    let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    done.map_err(|source| Error::Generic { store: STORE, source: source.into() })
}

/// One in parts; it is on disk when it is complete.
#[derive(Debug)]
struct DurableUpload {
    inner: Box<dyn MultipartUpload>,
    path: PathBuf,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let done = self.inner.complete().await?;
        let path = self.path.clone();
        blocking(move || {
            File::open(&path)?.sync_all()?;
            sync_folder(path.parent().expect("an object lies in a folder"))
        })
        .await?;
        Ok(done)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

#[async_trait]
impl ObjectStore for DurableFileSystem {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if matches!(opts.mode, PutMode::Update(_)) {
            return self.inner.put_opts(location, payload, opts).await;
        }
        let path = self.inner.path_to_filesystem(location)?;
        let folders = self.folders.clone();
        tokio::task::spawn_blocking(move || Self::put_blocking(&folders, &path, &payload, &opts.mode))
            .await
            .map_err(|source| Error::Generic { store: STORE, source: source.into() })??;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let path = self.inner.path_to_filesystem(location)?;
        let folder = path.parent().expect("an object lies in a folder").to_owned();
        let folders = self.folders.clone();
        blocking(move || folders.create(&folder)).await?;
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(DurableUpload { inner, path }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (inner, reads, location) = (Arc::clone(&self.inner), Arc::clone(&self.reads), location.clone());
        let reading = async move {
            let _turn = reads.acquire().await.expect("nobody closes it");
            let is_head = options.head;
            let found = inner.get_opts(&location, options).await?;
            if is_head || found.range.end - found.range.start > SMALL_BYTES {
                return Ok(found);
            }
            let (meta, range, attributes) = (found.meta.clone(), found.range.clone(), found.attributes.clone());
            let bytes = found.bytes().await?;
            let payload = GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed());
            Ok(GetResult { payload, meta, range, attributes })
        };
        match Handle::try_current() {
            // A task of its own: whoever asked for many and looks at one of them after another holds nobody up.
            Ok(runtime) => {
                runtime.spawn(reading).await.map_err(|source| Error::Generic { store: STORE, source: source.into() })?
            }
            Err(_) => reading.await,
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use futures::future::join_all;
    use object_store::ObjectStoreExt as _;

    use super::*;

    thread_local! {
        pub static SYNCED: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
    }

    /// The folders that were synced meanwhile, from the deepest on.
    fn synced(what: impl FnOnce()) -> Vec<PathBuf> {
        SYNCED.take();
        what();
        SYNCED.take().into_iter().rev().collect()
    }

    #[test]
    fn a_folder_that_a_killed_writer_made_is_synced_before_it_is_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let (above, below) = (dir.path().join("system=tank"), dir.path().join("system=tank/dt=2026-11-22"));
        // It was made, and its maker killed before a sync.
        std::fs::create_dir_all(&below).unwrap();
        let folders = Folders::default();
        let first = synced(|| folders.create(&below).unwrap());
        assert_eq!(first[..2], [above.clone(), dir.path().to_owned()]);
        assert!(synced(|| folders.create(&below).unwrap()).is_empty(), "once is enough");
        let beside = dir.path().join("system=doom");
        assert_eq!(synced(|| folders.create(&beside).unwrap()), [dir.path()]);
        std::fs::remove_dir_all(&above).unwrap();
        assert_eq!(synced(|| folders.create(&below).unwrap()), [above, dir.path().to_owned()], "they are new");
        assert!(below.is_dir() && beside.is_dir());
    }

    #[test]
    fn many_files_read_at_once_take_a_few_threads_and_come_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = |n: usize| Path::from_absolute_path(dir.path().join(format!("{n}.json"))).unwrap();
        let threads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&threads);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name_fn(move || format!("{}", counted.fetch_add(1, Relaxed)))
            .build()
            .unwrap();
        runtime.block_on(async {
            let store = DurableFileSystem::new();
            let text = |n: usize| vec![n as u8; if n == 7 { SMALL_BYTES as usize + 1 } else { n * 100 }];
            for n in 0..100 {
                store.put(&path(n), text(n).into()).await.unwrap();
            }
            let read = async |n: usize| store.get(&path(n)).await.unwrap().bytes().await.unwrap();
            for (n, bytes) in join_all((0..100).map(read)).await.into_iter().enumerate() {
                assert!(bytes == text(n), "{n}");
            }
            // Whoever looks at one after another and asks for more meanwhile waits for nobody.
            let mut ahead = stream::iter((0..50).map(read)).buffered(50);
            while ahead.next().await.is_some() {
                assert!(read(3).await == text(3));
            }
            assert_eq!(store.get_range(&path(9), 100..300).await.unwrap(), vec![9; 200]);
            assert_eq!(store.head(&path(9)).await.unwrap().size, 900);
            let missing = store.get(&path(100)).await.unwrap_err();
            assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
        });
        // A thread of its own for each took a hundred. Some come while others are about to be free.
        assert!(threads.load(Relaxed) <= 50, "{threads:?}");
    }
}
