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

#[tokio::test]
async fn the_weights_of_a_version_are_handed_out_once_and_only_so_many_at_a_time() {
    let server = Running::start(ControlConfig { stub_page: true, weights_max: 2, ..ControlConfig::default() }).await;
    let path = "/v1/models/tank-ai-dqn/versions/3/weights";
    let first = server.get(path).await;
    assert_eq!((first.status, first.body.len(), first.header("etag")), (200, 32 << 20, Some("\"00\"")));
    assert!(first.body.iter().all(|&byte| byte == 7));
    assert_eq!(first.header("content-type"), Some("application/octet-stream"));
    assert!(first.header("cache-control").unwrap().contains("immutable"));
    let again = server.ask("GET", path, &[("if-none-match", "\"00\"")], "").await;
    assert_eq!((again.status, again.body.len()), (304, 0));
    for (path, status) in [
        ("/v1/models/tank-ai-dqn/versions/4/weights", 404),
        ("/v1/models/other/versions/3/weights", 404),
        ("/v1/models/no%20such/versions/3/weights", 422),
        ("/v1/models/tank-ai-dqn/versions/three/weights", 400),
    ] {
        assert_eq!(server.get(path).await.status, status, "{path}");
    }

    // Two readers who read the head and then nothing hold the two places, until they go.
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", server.address);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        slow.push(stream);
    }
    let refused = server.get(path).await;
    assert_eq!((refused.status, refused.header("content-type")), (503, Some("application/problem+json")));
    drop(slow);
    loop {
        match server.get(path).await.status {
            503 => tokio::task::yield_now().await,
            status => break assert_eq!(status, 200),
        }
    }
}
