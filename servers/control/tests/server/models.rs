//! What names, moves and lists versions.

use crate::*;

#[tokio::test]
async fn an_alias_says_which_version_it_names_and_nothing_new_until_it_moves() {
    let server = Running::stub().await;
    let path = "/v1/models/tank-ai-dqn/champion";
    let first = server.get(path).await;
    let named = first.json();
    assert_eq!((&named["name"], &named["card"]["version"]), (&json!("tank-ai-dqn@3"), &json!(3)), "{named}");
    assert_eq!((&named["revision"], &named["card"]["sha256"]), (&json!(2), &json!("00")), "{named}");
    let tag = first.header("etag").unwrap().to_owned();
    let again = server.ask("GET", path, &[("if-none-match", &tag)], "").await;
    assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, Some(tag.as_str())));

    // Back to a version that was champion before is a move like every other.
    for (revision, version) in [(3, 4), (4, 3)] {
        *server.view.champion.lock() = (revision, version);
        let moved = server.ask("GET", path, &[("if-none-match", &tag)], "").await;
        assert_eq!((moved.status, moved.json()["card"]["version"].as_u64()), (200, Some(version)));
    }
    for path in ["/v1/models/tank-ai-dqn/candidate", "/v1/models/other/champion"] {
        let missing = server.get(path).await;
        assert_eq!((missing.status, missing.header("content-type")), (404, Some("application/problem+json")), "{path}");
    }
    assert_eq!(server.get("/v1/models/tank-ai-dqn/no%20such").await.status, 422);
    assert_eq!(server.get("/v1/models/tank-ai-dqn/promote").await.status, 405);
}

#[tokio::test]
async fn a_promotion_and_a_rollback_reach_the_loop() {
    let server = Running::stub().await;
    let promoted = server.ask("POST", "/v1/models/tank-ai-dqn/promote", &[], r#"{"version":4}"#).await;
    assert_eq!((promoted.status, promoted.json()["version"].as_u64()), (200, Some(4)));
    let origin = server.own_origin();
    let rolled = server.ask("POST", "/v1/models/tank-ai-dqn/rollback", &[("origin", &origin)], "").await;
    assert_eq!((rolled.status, rolled.json()["revision"].as_u64()), (200, Some(3)));
    let moves = server.view.moved.lock().clone();
    assert_eq!(moves, [("tank-ai-dqn".to_owned(), Some(4)), ("tank-ai-dqn".to_owned(), None)]);
}

#[tokio::test]
async fn a_refused_move_says_what_why_and_what_to_do() {
    let server = Running::stub().await;
    let path = "/v1/models/tank-ai-dqn/promote";
    let conflict = server.ask("POST", path, &[], r#"{"version":4,"expected_revision":1}"#).await;
    assert_eq!((conflict.status, conflict.header("content-type")), (409, Some("application/problem+json")));
    assert_eq!(conflict.json()["detail"], "promoting: `champion` moved to revision 2");
    assert_eq!(conflict.json()["hint"], "read the alias again");
    assert_eq!(server.ask("POST", path, &[], r#"{"version":99}"#).await.status, 404);
    for bad in ["", "{", r#"{"version":-1}"#, r#"{"version":1,"force":true}"#, "[]"] {
        assert_eq!(server.ask("POST", path, &[], bad).await.status, 422, "{bad}");
    }
    assert_eq!(server.ask("POST", "/v1/models/a%2F..%2Fb/promote", &[], r#"{"version":4}"#).await.status, 422);
    assert_eq!(server.ask("POST", path, &[], &" ".repeat(20_000)).await.status, 413);
    assert!(server.view.moved.lock().is_empty());
}
