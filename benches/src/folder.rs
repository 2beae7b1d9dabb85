//! A place for what a bench writes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

/// A folder of this process and one bench, removed at the end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub fn new(bench: &str) -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("flywheel-bench-{bench}-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("creating `{}`", path.display()))?;
        Ok(Self(path.canonicalize().with_context(|| format!("finding `{}`", path.display()))?))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone_or_left = fs::remove_dir_all(&self.0);
    }
}
