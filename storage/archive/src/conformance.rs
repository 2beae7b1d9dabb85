//! What every archive must do. [`archive_conformance!`](crate::archive_conformance) turns each case into a test.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;

use crate::{ArchiveErrorKind, ColdStore, Put, Readiness, Temper, checked, keep, read, sha256};

/// Gives an empty archive, and a second handle on the same one where asked again with its number.
#[async_trait::async_trait]
pub trait ArchiveFixture: Send + Sync {
    async fn fresh(&self) -> Arc<dyn ColdStore>;
}

async fn put(store: &Arc<dyn ColdStore>, name: &str, bytes: &'static [u8], temper: Temper) -> Put {
    store.put(name, Bytes::from_static(bytes), &sha256(bytes), temper).await.unwrap()
}

/// What is put is there, whole, in both tempers.
pub async fn what_was_put_is_read_as_it_was(fixture: &impl ArchiveFixture) {
    let store = fixture.fresh().await;
    let large: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let cases = [
        ("cold/a/system=tank/dt=2026-11-01/x.parquet", Bytes::from(large), Temper::Cold),
        ("index/a", Bytes::from_static(b"{}"), Temper::Warm),
        ("index/empty", Bytes::new(), Temper::Warm),
    ];
    for (name, bytes, temper) in cases {
        assert_eq!(keep(&*store, name, bytes.clone(), temper).await.unwrap(), Put::Done, "{name}");
        let held = store.head(name).await.unwrap().unwrap();
        assert_eq!((held.bytes, held.readiness), (bytes.len() as u64, Readiness::Ready), "{name}");
        assert!(held.sha256.is_none_or(|told| told == sha256(&bytes)), "{name}");
        assert!(read(&*store, name, &sha256(&bytes)).await.unwrap() == bytes, "{name}");
        let pieces: Vec<Bytes> =
            checked(store.stream(name).await.unwrap(), name, &sha256(&bytes)).try_collect().await.unwrap();
        assert!(pieces.concat() == bytes, "{name}");
        assert!(bytes.len() < 1 << 20 || pieces.len() > 1, "{name} came in one piece");
    }
}

/// A name is written once: a second put is told so, and changes nothing.
pub async fn a_name_is_written_once(fixture: &impl ArchiveFixture) {
    let store = fixture.fresh().await;
    assert_eq!(put(&store, "index/1", b"one", Temper::Warm).await, Put::Done);
    assert_eq!(put(&store, "index/1", b"other", Temper::Warm).await, Put::There);
    assert_eq!(store.get("index/1").await.unwrap(), "one");
    assert_eq!(keep(&*store, "index/1", "one".into(), Temper::Warm).await.unwrap(), Put::There);
    let error = keep(&*store, "index/1", "two".into(), Temper::Warm).await.unwrap_err();
    assert_eq!(error.kind(), ArchiveErrorKind::Corrupt, "{error}");
    assert_eq!(store.get("index/1").await.unwrap(), "one");
}

/// Of many that put one name at once, one is told that it was first, and its bytes are there.
pub async fn of_many_that_put_one_name_one_wins(fixture: &impl ArchiveFixture) {
    let store = fixture.fresh().await;
    for round in 0..24 {
        let name = format!("index/raced-{round}");
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..6 {
            let (store, name) = (Arc::clone(&store), name.clone());
            tasks.spawn(async move {
                let bytes = Bytes::from(format!("writer {writer}"));
                let sha = sha256(&bytes);
                (store.put(&name, bytes.clone(), &sha, Temper::Warm).await.unwrap(), bytes)
            });
        }
        let done = tasks.join_all().await;
        let winners: Vec<_> = done.iter().filter(|(put, _)| *put == Put::Done).map(|(_, bytes)| bytes).collect();
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(store.get(&name).await.unwrap(), *winners[0]);
    }
}

/// What is not there is told by its kind, also below a name that is there.
pub async fn what_is_not_there_is_told_so(fixture: &impl ArchiveFixture) {
    let store = fixture.fresh().await;
    put(&store, "index/a", b"x", Temper::Warm).await;
    for name in ["index/b", "cold/a", "index/a/b"] {
        assert_eq!(store.head(name).await.unwrap(), None, "{name}");
    }
    for name in ["index/b", "cold/a"] {
        assert_eq!(store.get(name).await.unwrap_err().kind(), ArchiveErrorKind::NotFound, "{name}");
        assert_eq!(store.thaw(name, 1).await.unwrap_err().kind(), ArchiveErrorKind::NotFound, "{name}");
        assert_eq!(read(&*store, name, "").await.unwrap_err().kind(), ArchiveErrorKind::NotFound, "{name}");
    }
}

/// A listing has every name that begins so, in order, and no other, however many there are.
pub async fn a_listing_is_whole_and_in_order(fixture: &impl ArchiveFixture) {
    let store = fixture.fresh().await;
    assert_eq!(store.list("index/").await.unwrap(), Vec::<String>::new());
    for n in [7, 0, 11, 3] {
        put(&store, &format!("index/t/dt=2026-11-{:02}/{n:08}.json", n % 2 + 1), b"x", Temper::Warm).await;
    }
    put(&store, "index/tt/y", b"y", Temper::Warm).await;
    let all = [
        "index/t/dt=2026-11-01/00000000.json",
        "index/t/dt=2026-11-02/00000003.json",
        "index/t/dt=2026-11-02/00000007.json",
        "index/t/dt=2026-11-02/00000011.json",
    ];
    assert_eq!(store.list("index/t/").await.unwrap(), all);
    assert_eq!(store.list("index/t/dt=2026-11-02/0000000").await.unwrap(), all[1..3]);
    assert_eq!(store.list("index/t").await.unwrap().len(), 5);
    assert_eq!(store.list("nothing").await.unwrap(), Vec::<String>::new());
}

/// Bytes that are not those that were promised are found, and never handed on.
pub async fn other_bytes_are_never_taken_for_the_ones_that_were_put(fixture: &impl ArchiveFixture) {
    let store = fixture.fresh().await;
    put(&store, "cold/a", b"what is there", Temper::Cold).await;
    let error = read(&*store, "cold/a", &sha256(b"what was put")).await.unwrap_err();
    assert_eq!(error.kind(), ArchiveErrorKind::Corrupt);
    assert!(error.to_string().contains("cold/a"), "{error}");
    let pieces = checked(store.stream("cold/a").await.unwrap(), "cold/a", &sha256(b"what was put"));
    let error = pieces.try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(error.kind(), ArchiveErrorKind::Corrupt, "pieces of another object end in an error");
}

/// Thawing what needs none says that it is ready; preparing again is harmless.
pub async fn thawing_what_is_warm_is_ready_at_once(fixture: &impl ArchiveFixture) {
    let store = fixture.fresh().await;
    put(&store, "index/a", b"x", Temper::Warm).await;
    for _ in 0..2 {
        store.prepare().await.unwrap();
        assert_eq!(store.thaw("index/a", 1).await.unwrap(), Readiness::Ready);
    }
}

/// Makes each case a test of its own: `archive_conformance!(fixture_expression)`.
#[macro_export]
macro_rules! archive_conformance {
    ($fixture:expr) => {
        $crate::archive_conformance!(@ $fixture;
            what_was_put_is_read_as_it_was,
            a_name_is_written_once,
            of_many_that_put_one_name_one_wins,
            what_is_not_there_is_told_so,
            a_listing_is_whole_and_in_order,
            other_bytes_are_never_taken_for_the_ones_that_were_put,
            thawing_what_is_warm_is_ready_at_once,
        );
    };
    (@ $fixture:expr; $($name:ident),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            for fixture in $fixture {
                $crate::conformance::$name(&fixture).await;
            }
        }
    )*};
}
