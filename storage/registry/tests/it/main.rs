//! The registry on memory and on a local disk: races, deaths at every step, damage, and watching.
//! (`storage/backends/tests/s3` runs races and versions on real servers.)

mod checkpoints;
mod collecting;
mod common;
mod crashes;
mod faulty;
mod following;
mod full;
mod races;
mod stored_crashes;
mod versions;

use std::sync::Arc;

use common::*;
use object_store::{ObjectStore, local::LocalFileSystem, memory::InMemory};

/// Every store that a test runs on; the folder lives as long as the list.
fn stores() -> (Vec<Arc<dyn ObjectStore>>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let local = LocalFileSystem::new_with_prefix(dir.path()).unwrap();
    (vec![Arc::new(InMemory::new()), Arc::new(local)], dir)
}
