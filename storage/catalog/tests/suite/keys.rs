//! Keys of sources, on every database that there is.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use flywheel_catalog::{CatalogErrorKind, NewSourceKey, SourceKeys};

use crate::{Fixture, postgres, sqlite};

on_every_database! {
    a_key_is_kept_without_its_secret_and_found_again,
    an_id_is_given_once_also_to_many_that_ask_together,
    a_revoked_key_stays_revoked_from_its_first_moment_on,
    the_use_of_a_key_is_noted_at_most_once_a_minute,
    texts_that_a_database_cannot_hold_are_no_key_and_harm_none,
}

fn new(id: &str, prefix: &str) -> NewSourceKey {
    let (name, expires_at_ms) = (Some("the arena".to_owned()), Some(9_000_000));
    NewSourceKey { id: id.to_owned(), name, prefix: prefix.to_owned(), secret_sha256: [0xab; 32], expires_at_ms }
}

async fn keys(f: &Fixture) -> (SourceKeys, Arc<AtomicI64>) {
    let now = Arc::clone(&f.now);
    (f.open().await.source_keys_at(Arc::new(move || now.load(Ordering::SeqCst))), Arc::clone(&f.now))
}

async fn a_key_is_kept_without_its_secret_and_found_again(f: Fixture) {
    let (keys, now) = keys(&f).await;
    let made = keys.create(&new("aaaa", "arena-")).await.unwrap();
    assert_eq!((made.prefix.as_str(), made.created_at_ms, made.expires_at_ms), ("arena-", 1_000_000, Some(9_000_000)));
    now.fetch_add(1, Ordering::SeqCst);
    let plain = NewSourceKey { name: None, expires_at_ms: None, secret_sha256: [1; 32], ..new("bbbb", "x") };
    keys.create(&plain).await.unwrap();
    let again = f.open().await.source_keys();
    let all = again.all().await.unwrap();
    assert_eq!(all.iter().map(|kept| kept.key.id.as_str()).collect::<Vec<_>>(), ["bbbb", "aaaa"], "newest first");
    assert_eq!((all[0].secret_sha256, all[1].secret_sha256), ([1; 32], [0xab; 32]));
    assert_eq!((&all[1].key, &all[0].key.name, all[0].key.expires_at_ms), (&made, &None, None));
    assert_eq!(again.list().await.unwrap()[1], made);
    let shown = format!("{:?} {:?}", all[1], new("aaaa", "arena-"));
    assert!(!shown.contains("171") && !shown.to_lowercase().contains("abab"), "{shown}");
}

async fn an_id_is_given_once_also_to_many_that_ask_together(f: Fixture) {
    let mut asked = Vec::new();
    for _ in 0..6 {
        let (keys, _) = keys(&f).await;
        asked.push(tokio::spawn(async move { keys.create(&new("same", "a-")).await }));
    }
    let mut made = 0;
    for one in asked {
        match one.await.unwrap() {
            Ok(_) => made += 1,
            Err(error) => assert_eq!(error.kind(), CatalogErrorKind::Conflict, "{error}"),
        }
    }
    assert_eq!(made, 1);
}

async fn a_revoked_key_stays_revoked_from_its_first_moment_on(f: Fixture) {
    let (keys, now) = keys(&f).await;
    keys.create(&new("aaaa", "arena-")).await.unwrap();
    assert_eq!(keys.list().await.unwrap()[0].revoked_at_ms, None);
    assert_eq!(keys.revoke("aaaa").await.unwrap().revoked_at_ms, Some(1_000_000));
    now.fetch_add(5, Ordering::SeqCst);
    assert_eq!(keys.revoke("aaaa").await.unwrap().revoked_at_ms, Some(1_000_000));
    assert!(keys.revoke("bbbb").await.unwrap_err().is_not_found());
    let again = keys.create(&new("aaaa", "other-")).await.unwrap_err();
    assert_eq!(again.kind(), CatalogErrorKind::Conflict, "an id never comes back");
}

async fn the_use_of_a_key_is_noted_at_most_once_a_minute(f: Fixture) {
    let (keys, _) = keys(&f).await;
    keys.create(&new("aaaa", "arena-")).await.unwrap();
    let mut noted = Vec::new();
    for at in [5_000, 5_001, 64_999, 65_000, 70_000, 60_000, 125_001] {
        keys.used("aaaa", at).await.unwrap();
        noted.push(keys.list().await.unwrap()[0].last_used_ms.unwrap());
    }
    assert_eq!(noted, [5_000, 5_000, 5_000, 65_000, 65_000, 65_000, 125_001]);
    keys.used("nobody", 1).await.unwrap();
}

async fn texts_that_a_database_cannot_hold_are_no_key_and_harm_none(f: Fixture) {
    let (keys, _) = keys(&f).await;
    let named = NewSourceKey { name: Some("a\0b'; DROP TABLE source_keys".to_owned()), ..new("aaaa", "arena-") };
    assert_eq!(keys.create(&named).await.unwrap().name.as_deref(), Some("a\u{fffd}b'; DROP TABLE source_keys"));
    for id in ["", "a\0b", "'", &"x".repeat(10_000)] {
        assert!(keys.revoke(id).await.unwrap_err().is_not_found());
    }
    assert_eq!(keys.list().await.unwrap().len(), 1);
}
