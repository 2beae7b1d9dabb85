//! Files that come back into a table, piece by piece.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use flywheel_lake::{DataFile, Lake, LakeError, LakeErrorKind, TableName};
use futures::stream;

const PIECE: usize = 1 << 20;

/// Counts the bytes that somebody still holds.
struct Held(Vec<u8>, Arc<AtomicUsize>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.1.fetch_sub(self.0.len(), SeqCst);
    }
}

fn like(bytes: usize) -> DataFile {
    DataFile {
        path: "system=tank/dt=2026-11-01/part-0.parquet".into(),
        system: "tank".into(),
        dt: "2026-11-01".into(),
        bytes: bytes as u64,
        rows: 1,
        modified_ms: 0,
        ranges: Default::default(),
        sums: None,
    }
}

fn files(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries.map(|entry| entry.unwrap().path()).map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_any_size_is_stored_with_two_parts_of_it_in_memory_and_what_is_none_of_ours_does_not_stay() {
    let dir = tempfile::tempdir().unwrap();
    let table = Lake::local(dir.path()).unwrap().table(TableName::Events);
    let (held, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let n = 96;
    let (counted, largest) = (Arc::clone(&held), Arc::clone(&most));
    let pieces = stream::iter((0..n).map(move |piece| {
        largest.fetch_max(counted.fetch_add(PIECE, SeqCst) + PIECE, SeqCst);
        Ok::<_, LakeError>(Bytes::from_owner(Held(vec![piece as u8; PIECE], Arc::clone(&counted))))
    }));
    let error = table.store_file(&like(n * PIECE), pieces).await.unwrap_err();
    assert_eq!(error.kind(), LakeErrorKind::Corrupt);
    assert!(
        error.to_string().contains("no Parquet file") || format!("{error:?}").contains("no Parquet file"),
        "{error:?}"
    );
    assert!(most.load(SeqCst) <= 4 * PIECE, "{} pieces were held at once", most.load(SeqCst) / PIECE);
    assert_eq!((held.load(SeqCst), files(&dir.path().join("events"))), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_ends_too_soon_too_late_or_in_an_error_is_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let table = Lake::local(dir.path()).unwrap().table(TableName::Events);
    let piece = || Ok(Bytes::from(vec![7; PIECE]));
    let gone = || Err(LakeError::new(LakeErrorKind::Unavailable, "reading", "a piece", "the line is down"));
    let many = |n| (0..n).map(|_| piece()).collect::<Vec<_>>();
    for (pieces, kind) in [
        (many(19), LakeErrorKind::Corrupt),
        (many(21), LakeErrorKind::Corrupt),
        (many(12).into_iter().chain([gone()]).collect(), LakeErrorKind::Unavailable),
        (vec![gone()], LakeErrorKind::Unavailable),
    ] {
        let error = table.store_file(&like(20 * PIECE), stream::iter(pieces)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(files(&dir.path().join("events")), 0, "{error}");
    }
}
