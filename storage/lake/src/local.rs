//! The local file system as an object store whose puts survive a loss of power.

use std::{
    fmt,
    fs::File,
    io::{ErrorKind, Write},
    path::{Path as FsPath, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart, local::LocalFileSystem,
    path::Path,
};

use crate::staged;

const STORE: &str = "local file system";

/// [`LocalFileSystem`], except that a put is on disk when it returns: file synced, then named, then its folder
/// synced. (The plain one leaves that to the page cache, so a power cut could keep a commit and lose its data.)
#[derive(Debug, Clone)]
pub struct DurableFileSystem {
    inner: Arc<LocalFileSystem>,
}

impl DurableFileSystem {
    /// The whole file system; object paths are absolute paths without the leading slash.
    pub fn new() -> Self {
        Self { inner: Arc::new(LocalFileSystem::new()) }
    }

    /// As [`DurableFileSystem::new`], after removing what killed writers left below `folder`: files that were to be
    /// put and never got their name, untouched for an hour. Looks at every name below `folder`.
    pub fn open(folder: impl AsRef<FsPath>) -> Self {
        staged::collect(folder.as_ref(), staged::MIN_AGE);
        Self::new()
    }

    fn put_blocking(path: &FsPath, payload: &PutPayload, mode: &PutMode) -> Result<()> {
        let generic = |source: std::io::Error| Error::Generic { store: STORE, source: source.into() };
        let folder = path.parent().expect("an object lies in a folder");
        create_folder(folder).map_err(generic)?;
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

/// Creates the folder and syncs every parent that got a new entry.
fn create_folder(folder: &FsPath) -> std::io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        create_folder(parent)?;
        match std::fs::create_dir(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => sync_folder(parent)?,
        }
    }
    Ok(())
}

fn sync_folder(folder: &FsPath) -> std::io::Result<()> {
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
        tokio::task::spawn_blocking(move || Self::put_blocking(&path, &payload, &opts.mode))
            .await
            .map_err(|source| Error::Generic { store: STORE, source: source.into() })??;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let path = self.inner.path_to_filesystem(location)?;
        let folder = path.parent().expect("an object lies in a folder").to_owned();
        blocking(move || create_folder(&folder)).await?;
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(DurableUpload { inner, path }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
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
