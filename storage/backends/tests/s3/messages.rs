//! What is wrong with a setting is said in one message that names the setting and the fix.

use flywheel_backends::{CredentialsConfig, StoreConfig};
use flywheel_lake::{LakeErrorKind, TableName};

use crate::{
    lake_cases::{NOON, rows},
    new_version,
    server::{KEY, Kind, READER, Server, one},
};

/// What opening the store says.
async fn refused(settings: &StoreConfig) -> String {
    let error = settings.bucket().unwrap().unwrap().reach().await.unwrap_err();
    format!("{error:#}")
}

fn assert_told(said: &str, telling: &[&str]) {
    for word in telling {
        assert!(said.contains(word), "`{said}` does not tell of `{word}`");
    }
    for secret in [KEY.1, READER.1, KEY.0, "wrong-secret", "<Error>", "Signature="] {
        assert!(!said.contains(secret), "`{said}` shows `{secret}`");
    }
    assert!(!said.contains('\n') && said.len() < 600, "one line: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_a_missing_bucket_and_a_wrong_address_are_each_told_apart() {
    let Some(server) = one(Kind::SeaweedFs) else { return };
    let good = server.settings("messages", KEY);
    good.bucket().unwrap().unwrap().reach().await.unwrap();

    let said = refused(&server.settings("messages", (KEY.0, "wrong-secret"))).await;
    assert_told(
        &said,
        &["SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY", "store.credentials.file", "s3://lake/messages"],
    );
    let said = refused(&server.settings("messages", ("nobody", "wrong-secret"))).await;
    assert_told(&said, &["InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"]);

    // Whoever may ask for all buckets hears that there is none; others hear that they may not.
    let elsewhere = StoreConfig { url: "s3://nowhere/x".into(), ..good.clone() };
    assert_told(&refused(&elsewhere).await, &["`nowhere`", "s3://nowhere/x", &server.endpoint()]);

    let silent = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let said = refused(&StoreConfig { endpoint: silent.clone(), ..good.clone() }).await;
    assert_told(&said, &["nothing answers", &silent, "store.endpoint"]);

    let plain = StoreConfig { allow_http: false, ..good.clone() }.bucket().unwrap_err().to_string();
    assert_told(&plain, &["store.allow_http"]);
    let missing = CredentialsConfig { file: "/nowhere/keys".into() };
    let said = format!("{:#}", StoreConfig { credentials: missing, ..good }.bucket().unwrap_err());
    assert_told(&said, &["store.credentials.file", "/nowhere/keys"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_not_there_is_never_an_empty_store() {
    let Some(server) = one(Kind::Moto) else { return };
    let settings = StoreConfig { url: "s3://nowhere/x".into(), ..server.settings("x", KEY) };
    assert_told(&refused(&settings).await, &["there is no bucket `nowhere`", "store.url", "create it"]);
    let bucket = settings.bucket().unwrap().unwrap();
    let error = bucket.lake().table(TableName::Events).append(vec![rows("g", 0, 1, NOON)], &[]).await.unwrap_err();
    assert_eq!(error.kind(), LakeErrorKind::Unavailable, "{error}");
    assert_told(&error.to_string(), &["there is no bucket `nowhere`"]);
    let error = bucket.registry(None).list(&crate::base()).await.unwrap_err();
    assert_told(&error.to_string(), &["there is no bucket `nowhere`"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_only_read_says_so_at_the_first_write_and_at_the_probe() {
    let Some(server) = one(Kind::SeaweedFs) else { return };
    let bucket = server.settings("reader", READER).bucket().unwrap().unwrap();
    bucket.reach().await.unwrap();
    let error = bucket.lake().table(TableName::Events).append(vec![rows("g", 0, 1, NOON)], &[]).await.unwrap_err();
    assert_told(&error.to_string(), &["AccessDenied", "put", "store.credentials.file"]);
    let error = bucket.registry(None).publish(new_version(1)).await.unwrap_err();
    assert_told(&error.to_string(), &["AccessDenied", "put"]);
    let error = bucket.probe(2, 1).await.unwrap_err();
    assert_told(&format!("{error:#}"), &["probing the store", "AccessDenied", "put"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_went_away_says_so_and_is_well_again_once_it_is_back() {
    let Some(mut server) = Server::start(Kind::SeaweedFs).await else { return };
    let bucket = server.bucket("away");
    let table = bucket.lake().table(TableName::Events);
    table.append(vec![rows("g", 0, 1, NOON)], &[("a".into(), 0)]).await.unwrap();
    server.kill();
    let error = table.append(vec![rows("g", 1, 2, NOON)], &[("a".into(), 1)]).await.unwrap_err();
    assert!(error.kind().is_retryable(), "{error}");
    assert_told(&error.to_string(), &["nothing answers", "store.endpoint"]);
    server.launch().await;
    table.append(vec![rows("g", 1, 2, NOON)], &[("a".into(), 1)]).await.unwrap();
    assert_eq!(table.rows().await.unwrap(), 2);
}
