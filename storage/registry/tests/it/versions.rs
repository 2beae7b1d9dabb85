use flywheel_events::{BaseKey, ModelRef, ModelVersion};
use flywheel_registry::RegistryErrorKind;
use object_store::{ObjectStoreExt, PutPayload, path::Path};
use serde_json::json;

use crate::{assert_whole, base, model, network, new_version, open, stores};

#[tokio::test]
async fn what_was_published_is_what_is_fetched() {
    let (stores, _dir) = stores();
    for store in &stores {
        let registry = open(store);
        let mut new = new_version(7);
        new.parent = Some(ModelVersion(3));
        let card = registry.publish(new.clone()).await.unwrap();
        let (fetched, found) = open(store).fetch(&model(1)).await.unwrap();
        assert_eq!((&fetched, &found), (&card, &network(7)));
        assert_eq!((card.version, card.parent_version), (ModelVersion(1), Some(ModelVersion(3))));
        assert_eq!((card.format.as_str(), card.status.as_str()), ("safetensors", "candidate"));
        assert_eq!(card.size_bytes, new.weights.len() as u64);
        assert_eq!((&card.metrics, &card.metadata), (&json!({"loss": 0.5}), &json!({"seed": 7})));
        assert_eq!((card.data_range, card.train_job_id), (new.data_range, new.train_job_id));
        assert_eq!(registry.resolve(&base(), "candidate").await.unwrap().unwrap().version, card.version);
        assert!(registry.resolve(&base(), "champion").await.unwrap().is_none());
        assert_eq!(registry.base_keys().await.unwrap(), [base()]);
    }
}

#[tokio::test]
async fn versions_of_two_models_are_counted_apart_and_listed_newest_first() {
    let (stores, _dir) = stores();
    for store in &stores {
        let registry = open(store);
        let other = BaseKey::new("tank-ai-dqn-Stage01").unwrap();
        for seed in 1..=12 {
            registry.publish(new_version(seed)).await.unwrap();
        }
        let mut new = new_version(1);
        new.base_key = other.clone();
        assert_eq!(registry.publish(new).await.unwrap().version, ModelVersion(1));
        let listed: Vec<_> = registry.list(&base()).await.unwrap().iter().map(|card| card.version.0).collect();
        assert_eq!(listed, (1..=12).rev().collect::<Vec<_>>());
        let newest: Vec<_> = registry.list_newest(&base(), 2).await.unwrap().iter().map(|c| c.version.0).collect();
        assert_eq!(newest, [12, 11]);
        assert_eq!(registry.base_keys().await.unwrap(), [base(), other]);
        assert_whole(&registry).await;
    }
}

#[tokio::test]
async fn a_rollback_is_a_move_to_what_was_before_or_to_a_named_version() {
    let (stores, _dir) = stores();
    for store in &stores {
        let registry = open(store);
        assert!(registry.rollback(&base(), None).await.unwrap_err().to_string().contains("there is no champion"));
        for seed in 1..=3 {
            registry.publish(new_version(seed)).await.unwrap();
            registry.promote(&base(), "champion", ModelVersion(seed), Some(seed - 1), "better").await.unwrap();
        }
        let named = |alias: &'static str| {
            let registry = open(store);
            async move { registry.resolve(&base(), alias).await.unwrap().map(|state| state.version.0) }
        };
        assert_eq!((named("champion").await, named("previous").await), (Some(3), Some(2)));
        let back = registry.rollback(&base(), None).await.unwrap();
        assert_eq!((back.version.0, back.previous, back.revision), (2, Some(ModelVersion(3)), 4));
        assert_eq!((named("champion").await, named("previous").await), (Some(2), Some(3)));
        registry.rollback(&base(), Some(ModelVersion(1))).await.unwrap();
        assert_eq!((named("champion").await, named("previous").await), (Some(1), Some(2)));
        let error = registry.rollback(&base(), Some(ModelVersion(9))).await.unwrap_err();
        assert!(error.is_not_found() && error.to_string().contains("tank-ai-dqn@9"), "{error}");
    }
}

#[tokio::test]
async fn a_move_from_another_revision_to_nowhere_or_of_no_alias_is_refused() {
    let (stores, _dir) = stores();
    for store in &stores {
        let registry = open(store);
        registry.publish(new_version(1)).await.unwrap();
        registry.promote(&base(), "champion", ModelVersion(1), Some(0), "the first").await.unwrap();
        let refused = |alias: &'static str, version, expected| {
            let registry = open(store);
            async move { registry.promote(&base(), alias, ModelVersion(version), expected, "no").await.unwrap_err() }
        };
        let error = refused("champion", 1, Some(0)).await;
        assert!(error.is_conflict() && error.to_string().contains("at revision 1, not at 0"), "{error}");
        assert!(refused("champion", 2, None).await.is_not_found());
        assert!(refused("previous", 1, None).await.is_conflict());
        for name in ["", "../champion", "a/b", "champion.json"] {
            assert!(refused(name, 1, None).await.is_not_found(), "{name}");
        }
        // Moving it to where it is is done already.
        let same = registry.promote(&base(), "champion", ModelVersion(1), None, "again").await.unwrap();
        assert_eq!((same.revision, same.reason.as_str()), (1, "the first"));
    }
}

type Change = Box<dyn Fn(&mut Vec<u8>)>;

/// Overwrites the one object below `folder` by what `change` makes of it.
async fn damage(store: &dyn object_store::ObjectStore, folder: &str, change: impl Fn(&mut Vec<u8>)) {
    use futures::TryStreamExt;
    let found: Vec<_> = store.list(Some(&Path::from(folder))).try_collect().await.unwrap();
    let [object] = &found[..] else { panic!("{} objects below {folder}", found.len()) };
    let mut bytes = store.get(&object.location).await.unwrap().bytes().await.unwrap().to_vec();
    change(&mut bytes);
    store.put(&object.location, PutPayload::from(bytes)).await.unwrap();
}

#[tokio::test]
async fn damaged_weights_are_refused_with_what_and_where_and_healed_by_publishing_again() {
    let (stores, _dir) = stores();
    for store in &stores {
        let registry = open(store);
        let card = registry.publish(new_version(1)).await.unwrap();
        let last = card.size_bytes as usize - 1;
        let changes: [(&str, Change); 3] = [
            ("a flipped bit", Box::new(move |bytes| bytes[last] ^= 1)),
            ("cut in half", Box::new(|bytes| bytes.truncate(bytes.len() / 2))),
            ("empty", Box::new(Vec::clear)),
        ];
        for (what, change) in changes {
            damage(store, "registry/blobs", change).await;
            let error = registry.fetch(&model(1)).await.unwrap_err();
            assert!(error.is_corrupt(), "{what}: {error}");
            let text = error.to_string();
            assert!(text.contains(&card.sha256) && text.contains("damaged"), "{what}: {text}");
            let again = registry.publish(new_version(1)).await.unwrap();
            assert_eq!(again.sha256, card.sha256);
            registry.fetch(&model(1)).await.unwrap();
        }
        store.delete(&Path::from(format!("registry/blobs/{}", card.sha256))).await.unwrap();
        let error = registry.fetch(&model(1)).await.unwrap_err();
        assert!(error.is_corrupt() && error.to_string().contains("missing"), "{error}");
    }
}

#[tokio::test]
async fn every_flipped_bit_of_the_weights_is_found() {
    let store: std::sync::Arc<dyn object_store::ObjectStore> =
        std::sync::Arc::new(object_store::memory::InMemory::new());
    let registry = open(&store);
    let card = registry.publish(new_version(1)).await.unwrap();
    for at in 0..card.size_bytes as usize {
        let flip = |bytes: &mut Vec<u8>| bytes[at] ^= 1 << (at % 8);
        damage(&store, "registry/blobs", flip).await;
        assert!(registry.fetch(&model(1)).await.unwrap_err().is_corrupt(), "byte {at}");
        damage(&store, "registry/blobs", flip).await;
    }
    registry.fetch(&model(1)).await.unwrap();
}

#[tokio::test]
async fn a_card_that_is_not_its_own_is_refused() {
    let (stores, _dir) = stores();
    for store in &stores {
        let registry = open(store);
        registry.publish(new_version(1)).await.unwrap();
        let card = Path::from("registry/models/tank-ai-dqn/versions/0000000001.json");
        let good = store.get(&card).await.unwrap().bytes().await.unwrap();
        let with = |from: &str, to: &str| {
            let text = String::from_utf8(good.to_vec()).unwrap().replace(from, to);
            assert_ne!(text.as_bytes(), good, "nothing was replaced");
            store.put(&card, PutPayload::from(text.into_bytes()))
        };
        let refused = || async { registry.fetch(&model(1)).await.unwrap_err() };
        with(r#""inputs":6"#, r#""inputs":7"#).await.unwrap();
        assert!(refused().await.to_string().contains("the card says 7-5-3"));
        with(r#""version":1"#, r#""version":2"#).await.unwrap();
        assert!(refused().await.to_string().contains("it is the card of tank-ai-dqn@2"));
        store.put(&card, PutPayload::from(good.slice(..good.len() / 2))).await.unwrap();
        let error = refused().await;
        assert!(error.is_corrupt() && error.to_string().contains("0000000001.json"), "{error}");
    }
}

#[tokio::test]
async fn weights_that_are_no_network_are_never_published() {
    let (stores, _dir) = stores();
    for store in &stores {
        let registry = open(store);
        let mut new = new_version(1);
        new.weights = b"\x80\x04\x95a pickle".to_vec();
        let error = registry.publish(new).await.unwrap_err();
        assert_eq!(error.kind(), RegistryErrorKind::Corrupt);
        assert!(error.to_string().contains("pickle"), "{error}");
        assert!(registry.list(&base()).await.unwrap().is_empty());
        let error = registry.fetch(&ModelRef::new(base(), ModelVersion(1))).await.unwrap_err();
        assert!(error.is_not_found() && error.to_string().contains("there is no such version"), "{error}");
    }
}
