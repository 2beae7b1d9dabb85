//! Tables that this program must not touch.

mod common;

use common::*;
use flywheel_lake::LakeErrorKind;
use object_store::{ObjectStoreExt, path::Path};

const LOG: &str = "warehouse/lake/events/_delta_log";

/// Appends a log entry as a newer program would.
async fn add_entry(store: &std::sync::Arc<dyn object_store::ObjectStore>, version: u64, line: &str) {
    let path = Path::from(format!("{LOG}/{version:020}.json"));
    store.put(&path, line.as_bytes().to_vec().into()).await.unwrap();
}

async fn refused(line: &str, telling: &[&str]) {
    let store = memory();
    let before = events(&lake_on(&store));
    before.append(vec![rows("g", 0, 3, NOON)], &[]).await.unwrap();
    add_entry(&store, 2, line).await;
    // One that had the table open, and one that opens it now.
    for table in [before, events(&lake_on(&store))] {
        let error = table.append(vec![rows("g", 3, 6, NOON)], &[]).await.unwrap_err();
        assert_eq!(error.kind(), LakeErrorKind::Unsupported, "{error}");
        for word in telling {
            assert!(error.to_string().contains(word), "`{error}` does not tell of `{word}`");
        }
        assert_eq!(table.version().await.unwrap_err().kind(), LakeErrorKind::Unsupported);
    }
    assert!(store.get(&Path::from(format!("{LOG}/{:020}.json", 3))).await.is_err(), "something was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_a_newer_protocol_is_refused_and_not_written() {
    refused(r#"{"protocol":{"minReaderVersion":1,"minWriterVersion":4}}"#, &["writer 4", "nothing was written"]).await;
}

async fn metadata(change: impl Fn(&mut serde_json::Value)) -> String {
    let store = memory();
    events(&lake_on(&store)).append(vec![rows("g", 0, 1, NOON)], &[]).await.unwrap();
    let first = store.get(&Path::from(format!("{LOG}/{:020}.json", 0))).await.unwrap().bytes().await.unwrap();
    let lines = std::str::from_utf8(&first).unwrap().lines();
    let mut line: serde_json::Value = lines
        .map(|l| serde_json::from_str(l).unwrap())
        .find(|l: &serde_json::Value| l.get("metaData").is_some())
        .unwrap();
    change(&mut line["metaData"]);
    line.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_a_newer_format_is_refused_and_not_written() {
    let line = metadata(|m| m["configuration"]["flywheel.format"] = "2".into()).await;
    refused(&line, &["format is 2", "up to 1", "newer program"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_another_column_type_is_refused_by_its_name() {
    let line = metadata(|m| {
        let schema = m["schemaString"].as_str().unwrap().replacen(
            r#""name":"seq","type":"long""#,
            r#""name":"seq","type":"string""#,
            1,
        );
        m["schemaString"] = schema.into();
    })
    .await;
    refused(&line, &["`seq`", "string", "long"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_entry_is_an_error_and_never_an_empty_table() {
    let store = memory();
    events(&lake_on(&store)).append(vec![rows("g", 0, 3, NOON)], &[]).await.unwrap();
    add_entry(&store, 1, r#"{"add":{"path":"#).await;
    for name in 0..2 {
        let path = Path::from(format!("{LOG}/{name:020}.json"));
        store.put(&path, b"{\"add\":{\"path\":".to_vec().into()).await.unwrap();
    }
    let table = events(&lake_on(&store));
    assert!(table.version().await.is_err());
    assert!(table.append(vec![rows("g", 3, 4, NOON)], &[]).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_data_file_is_named() {
    let store = memory();
    let table = events(&lake_on(&store));
    table.append(vec![rows("g", 0, 300, NOON)], &[]).await.unwrap();
    let file = table.files().await.unwrap().remove(0);
    let path = Path::from(format!("warehouse/lake/events/{}", file.path));
    let mut bytes = store.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
    let half = bytes.len() / 2;
    bytes.truncate(half);
    store.put(&path, bytes.into()).await.unwrap();
    let error = table.scan(Default::default()).await.unwrap_err();
    assert_eq!(error.kind(), LakeErrorKind::Corrupt);
    assert!(error.to_string().contains(&file.path), "{error}");
}
