use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::http::HeaderValue;

use super::*;

/// Keys in memory, which may be away.
#[derive(Debug, Default)]
struct Store {
    keys: Mutex<Vec<KeyRecord>>,
    used: Mutex<Vec<(String, i64)>>,
    away: AtomicBool,
    looks: AtomicUsize,
}

impl KeyStore for Store {
    fn keys(&self) -> BoxFuture<'_, Result<Vec<KeyRecord>, String>> {
        Box::pin(async {
            self.looks.fetch_add(1, Ordering::SeqCst);
            if self.away.load(Ordering::SeqCst) {
                Err("away on purpose".to_owned())
            } else {
                Ok(self.keys.lock().clone())
            }
        })
    }

    fn used<'a>(&'a self, id: &'a str, at_ms: i64) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            self.used.lock().push((id.to_owned(), at_ms));
            Ok(())
        })
    }
}

impl Store {
    fn add(&self, prefix: &str) -> Token {
        let token = Token::generate().unwrap();
        let (id, secret_sha256) = (token.id().to_owned(), token.secret_sha256());
        let prefix = prefix.to_owned();
        self.keys.lock().push(KeyRecord { id, prefix, secret_sha256, expires_at_ms: None, revoked: false });
        token
    }

    fn change(&self, token: &Token, change: impl FnOnce(&mut KeyRecord)) {
        change(self.keys.lock().iter_mut().find(|key| key.id == token.id()).unwrap());
    }
}

async fn ring(config: RingConfig) -> (Arc<KeyRing>, Arc<Store>) {
    let store = Arc::new(Store::default());
    let ring = KeyRing::new(store.clone(), config);
    ring.refresh().await.unwrap();
    (ring, store)
}

fn head(text: &str) -> HeaderMap {
    HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(text).unwrap())])
}

fn with(token: &Token) -> HeaderMap {
    head(&format!("Bearer {}", token.reveal()))
}

fn game(name: &str) -> GameId {
    GameId::new(name).unwrap()
}

/// The text of a key with another secret, and the checksum that fits it.
fn forged(token: &Token) -> String {
    let other = Token::generate().unwrap().reveal();
    let parts: Vec<&str> = other.split('_').collect();
    let body = format!("fw_live_{}_{}", token.id(), parts[3]);
    let crc = crc32c::crc32c(body.as_bytes());
    // By hand, so that it is checked against something else.
    let digits: Vec<char> = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz".chars().collect();
    let mut number = crc as usize;
    let mut text = Vec::new();
    for _ in 0..6 {
        text.push(digits[number % 62]);
        number /= 62;
    }
    format!("{body}_{}", text.into_iter().rev().collect::<String>())
}

#[tokio::test]
async fn every_key_that_is_forged_ended_or_malformed_is_refused_by_name_and_never_repeated() {
    let (ring, store) = ring(RingConfig::default()).await;
    let (good, expired, revoked) = (store.add("a-"), store.add("b-"), store.add("c-"));
    store.change(&expired, |key| key.expires_at_ms = Some(now_ms() - 1));
    store.change(&revoked, |key| key.revoked = true);
    ring.refresh().await.unwrap();
    let text = good.reveal();
    let swapped = format!("{}_{}", text.rsplit_once('_').unwrap().0, "000000");
    let table = [
        (format!("Bearer {}", Token::generate().unwrap().reveal()), "unknown_key"),
        (format!("Bearer {}", forged(&good)), "unknown_key"),
        (format!("Bearer {}", forged(&revoked)), "unknown_key"),
        (format!("Bearer {}", expired.reveal()), "expired_key"),
        (format!("Bearer {}", revoked.reveal()), "revoked_key"),
        (format!("Bearer {swapped}"), "malformed_key"),
        (format!("Bearer {}", &text[..text.len() - 1]), "malformed_key"),
        (format!("Bearer {text}{text}"), "malformed_key"),
        (format!("Bearer {}", text.to_lowercase()), "malformed_key"),
        (format!("Basic {text}"), "malformed_key"),
        (text.clone(), "malformed_key"),
        ("Bearer".to_owned(), "malformed_key"),
        ("Bearer ".to_owned(), "malformed_key"),
        ("Bearer null".to_owned(), "malformed_key"),
        ("Bearer eyJhbGciOiJub25lIn0.e30.".to_owned(), "malformed_key"),
        (format!("Bearer fw_live_{}__", good.id()), "malformed_key"),
        (format!("Bearer {}", "_".repeat(10_000)), "malformed_key"),
    ];
    for (sent, reason) in table {
        let problem = ring.authenticate(&head(&sent), 1).await.unwrap_err();
        assert_eq!((problem.status, problem.reason), (401, reason), "{sent}");
        let said = serde_json::to_string(&problem).unwrap();
        for part in sent.split([' ', '_']).filter(|part| part.len() > 12) {
            assert!(!said.contains(part), "{said}");
        }
    }
    let mut two = with(&good);
    two.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer x"));
    assert_eq!(ring.authenticate(&two, 1).await.unwrap_err().reason, "malformed_key");
    assert_eq!(ring.used(), Vec::<String>::new(), "only a good key was used");
    assert_eq!(
        ring.authenticate(&head(&format!("bearer  {text}")), 1).await.unwrap(),
        Credential::Key(good.id().into())
    );
    let debug = format!("{ring:?} {store:?} {good:?}");
    assert!(!debug.contains(text.split('_').nth(3).unwrap()));
}

#[tokio::test]
async fn a_key_writes_the_games_of_its_prefix_and_nobody_else_does() {
    let (ring, store) = ring(RingConfig::default()).await;
    let (arena, other) = (store.add("arena-"), store.add("other-"));
    let expired = store.add("gone-");
    store.change(&expired, |key| key.expires_at_ms = Some(now_ms() - 1));
    ring.refresh().await.unwrap();
    let mut sources = Vec::new();
    for headers in [with(&arena), with(&other), HeaderMap::new()] {
        let credential = ring.authenticate(&headers, 1).await.unwrap();
        sources.push(ring.source(&credential, 1).unwrap());
    }
    for (name, allowed) in [
        ("arena-1", [true, false, false]),
        ("arena-", [true, false, false]),
        ("arena", [false, false, true]),
        ("Arena-1", [false, false, true]),
        ("other-arena-1", [false, true, false]),
        ("g-17", [false, false, true]),
        ("gone-1", [false, false, true]),
    ] {
        for (source, allowed) in sources.iter().zip(allowed) {
            let checked = source.check(&game(name));
            assert_eq!(checked.is_ok(), allowed, "{name} by {source:?}");
            if let Err(refusal) = checked {
                assert_eq!((refusal.reason, refusal.field.as_deref()), ("forged_source", Some("game_id")));
                assert!(refusal.detail.contains(name) && refusal.detail.contains('-'), "{}", refusal.detail);
            }
        }
    }
}

#[tokio::test]
async fn without_a_key_nothing_is_taken_where_one_is_required() {
    let (ring, store) = ring(RingConfig { rule: KeyRule::Required, ..RingConfig::default() }).await;
    let problem = ring.source(&Credential::None, 1).unwrap_err();
    assert_eq!((problem.status, problem.reason), (401, "key_missing"));
    let key = store.add("arena-");
    // A key that was made a moment ago is looked for once more; many wrong ones share a look.
    let credential = ring.authenticate(&with(&key), 1).await.unwrap();
    assert!(ring.source(&credential, 1).unwrap().check(&game("arena-1")).is_ok());
    let looks = store.looks.load(Ordering::SeqCst);
    let wrong: Vec<_> = (0..100).map(|_| with(&Token::generate().unwrap())).collect();
    let answers = futures::future::join_all(wrong.iter().map(|headers| ring.authenticate(headers, 1))).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap_err().reason == "unknown_key"));
    assert!(store.looks.load(Ordering::SeqCst) <= looks + 2);
}

#[tokio::test]
async fn a_revocation_ends_what_is_open_with_the_next_look() {
    let (ring, store) = ring(RingConfig { every: Duration::from_millis(20), ..RingConfig::default() }).await;
    assert!(RingConfig::default().every < Duration::from_secs(60), "a revoked key is refused within a minute");
    let key = store.add("arena-");
    ring.refresh().await.unwrap();
    let credential = ring.authenticate(&with(&key), 1).await.unwrap();
    ring.source(&credential, 1).unwrap();
    let stop = CancellationToken::new();
    let kept = tokio::spawn(Arc::clone(&ring).keep(stop.clone()));
    store.change(&key, |key| key.revoked = true);
    while ring.source(&credential, 1).is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(ring.source(&credential, 1).unwrap_err().reason, "revoked_key");
    stop.cancel();
    kept.await.unwrap();
}

#[tokio::test]
async fn while_the_catalog_is_away_known_keys_are_good_for_a_while_and_then_nothing_is_taken() {
    assert_eq!(RingConfig::default().valid, Duration::from_secs(300));
    let (ring, store) = ring(RingConfig { valid: Duration::from_secs(3600), ..RingConfig::default() }).await;
    let key = store.add("arena-");
    ring.refresh().await.unwrap();
    store.away.store(true, Ordering::SeqCst);
    assert!(ring.refresh().await.is_err());
    let credential = ring.authenticate(&with(&key), 1).await.unwrap();
    ring.source(&credential, 1).unwrap();

    let ring = KeyRing::new(store.clone(), RingConfig { valid: Duration::ZERO, ..RingConfig::default() });
    store.away.store(false, Ordering::SeqCst);
    ring.refresh().await.unwrap();
    store.away.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert!(ring.refresh().await.is_err());
    for problem in [
        ring.authenticate(&with(&key), 7).await.unwrap_err(),
        ring.source(&credential, 7).unwrap_err(),
        ring.source(&Credential::None, 7).unwrap_err(),
    ] {
        assert_eq!((problem.status, problem.reason, problem.retry_after_s), (503, "keys_away", Some(7)));
        assert!(problem.detail.contains("away on purpose"), "{}", problem.detail);
    }
}

#[tokio::test]
async fn where_there_are_no_keys_a_catalog_that_is_away_stops_nobody() {
    let none_valid = RingConfig { valid: Duration::ZERO, ..RingConfig::default() };
    let (ring, store) = ring(none_valid.clone()).await;
    store.away.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert!(ring.refresh().await.is_err());
    assert!(ring.source(&Credential::None, 1).unwrap().check(&game("g-1")).is_ok());
    assert_eq!(ring.authenticate(&with(&Token::generate().unwrap()), 1).await.unwrap_err().reason, "keys_away");
    // Who has never looked does not know that there are none.
    let blind = KeyRing::new(store.clone(), none_valid.clone());
    assert_eq!(blind.source(&Credential::None, 1).unwrap_err().reason, "keys_away");
    let strict = KeyRing::new(store.clone(), RingConfig { rule: KeyRule::Required, ..none_valid });
    store.away.store(false, Ordering::SeqCst);
    strict.refresh().await.unwrap();
    assert_eq!(strict.source(&Credential::None, 1).unwrap_err().reason, "key_missing");
}

#[tokio::test]
async fn the_use_of_a_key_is_noted_now_and_then() {
    let (ring, store) = ring(RingConfig::default()).await;
    let key = store.add("arena-");
    ring.refresh().await.unwrap();
    for _ in 0..50 {
        ring.authenticate(&with(&key), 1).await.unwrap();
        ring.note_used().await;
    }
    let used = store.used.lock().clone();
    assert!(used.len() == 1 && used[0].0 == key.id() && used[0].1 > 1_700_000_000_000, "{used:?}");
}
