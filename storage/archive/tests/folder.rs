//! The suite of the seam on a local folder, and what only a folder can meet.

use std::sync::Arc;

use flywheel_archive::{ArchiveErrorKind, ColdStore, Folder, Temper, conformance::ArchiveFixture, sha256};

struct InFolder(tempfile::TempDir);

#[async_trait::async_trait]
impl ArchiveFixture for InFolder {
    async fn fresh(&self) -> Arc<dyn ColdStore> {
        Arc::new(Folder::new(self.0.path().join(uuid::Uuid::new_v4().to_string()).join("deep")))
    }
}

flywheel_archive::archive_conformance!([InFolder(tempfile::tempdir().unwrap())]);

#[tokio::test]
async fn what_a_killed_writer_left_is_no_object() {
    let dir = tempfile::tempdir().unwrap();
    let store = Folder::new(dir.path());
    store.put("index/a", "x".into(), &sha256(b"x"), Temper::Warm).await.unwrap();
    std::fs::write(dir.path().join("index/0f#"), "half").unwrap();
    assert_eq!(store.list("").await.unwrap(), ["index/a"]);
    assert_eq!(std::fs::read_dir(dir.path().join("index")).unwrap().count(), 2, "a put leaves nothing else");
}

#[tokio::test]
async fn no_name_leads_out_of_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let store = Folder::new(dir.path().join("in"));
    for name in ["../a", "a/../../b", "/etc/passwd", "a//b", "", ".", "a b", "a#"] {
        let error = store.put(name, "x".into(), "", Temper::Warm).await.unwrap_err();
        assert_eq!(error.kind(), ArchiveErrorKind::Internal, "{name}");
        assert!(store.get(name).await.is_err() && store.head(name).await.is_err(), "{name}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
