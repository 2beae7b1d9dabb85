use axum::Router;
use axum::body::Bytes;
use axum::routing::post;

use super::*;

#[tokio::test]
async fn routes_that_are_handed_in_stand_behind_the_same_guard() {
    let doors = Router::new().route("/v1/events", post(|body: Bytes| async move { body.len().to_string() }));
    let server = Running::start(ControlConfig { stub_page: true, doors, ..ControlConfig::default() }).await;
    let taken = server.ask("POST", "/v1/events", &[], "12345").await;
    assert_eq!((taken.status, taken.text()), (200, "5"));
    assert!(taken.header("content-security-policy").is_some());
    assert_eq!(server.ask("POST", "/v1/events", &[("origin", "http://evil.example")], "1").await.status, 403);
    assert_eq!(server.ask("POST", "/v1/events", &[("host", "evil.example")], "1").await.status, 403);
    let wrong = server.get("/v1/events").await;
    assert_eq!((wrong.status, wrong.json()["status"].as_u64()), (405, Some(405)));
}

#[tokio::test]
async fn doors_that_ask_for_a_key_are_open_to_other_machines_and_nothing_else_is() {
    // As the doors do: who has no key is told so.
    let keyed = |headers: axum::http::HeaderMap| async move {
        if headers.contains_key("authorization") {
            axum::http::StatusCode::OK
        } else {
            axum::http::StatusCode::UNAUTHORIZED
        }
    };
    let doors = || Router::new().route("/v1/events", post(keyed)).route("/v1/events/ws", axum::routing::get(keyed));
    let from = |peer: &'static str, keyed_doors| async move {
        let (view, stop) = (FakeLoop::new(), CancellationToken::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = ControlConfig { doors: doors(), keyed_doors, ..ControlConfig::default() };
        let peer: SocketAddr = peer.parse().unwrap();
        let app = router(view.clone(), install_metrics().unwrap(), config, stop.clone())
            .layer(axum::Extension(axum::extract::ConnectInfo(peer)));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Running { address, view, stop }
    };
    let key = ("authorization", "Bearer fw_x");
    let upgrade = [("upgrade", "websocket"), ("connection", "upgrade"), key];
    for peer in ["10.1.2.3:4567", "[2001:db8::7]:4567", "[::ffff:10.1.2.3]:4567"] {
        let open = from(peer, true).await;
        assert_eq!(open.ask("POST", "/v1/events", &[key], "{}").await.status, 200, "{peer}");
        assert_eq!(
            open.ask("POST", "/v1/events", &[key, ("host", "loop.lan:8080")], "{}").await.status,
            200,
            "any name"
        );
        assert_eq!(open.ask("POST", "/v1/events", &[], "{}").await.status, 401, "the door itself asks for the key");
        assert_eq!(open.ask("GET", "/v1/events/ws", &upgrade, "").await.status, 200);
        assert_eq!(open.ask("GET", "/v1/events/ws", &upgrade[..2], "").await.status, 401);
        // A page of elsewhere stays out, and a key moves no model and opens no page under another name.
        let page = [key, ("origin", "http://evil.example")];
        assert_eq!(open.ask("POST", "/v1/events", &page, "{}").await.status, 403);
        for path in
            ["/v1/models/tank-ai-dqn/promote", "/v1/models/tank-ai-dqn/rollback", "/v1/events/", "/v1/events/ws"]
        {
            assert_eq!(open.ask("POST", path, &[key], r#"{"version":4}"#).await.status, 403, "{path}");
        }
        assert_eq!(open.ask("GET", "/v1/status", &[key, ("host", "loop.lan:8080")], "").await.status, 403);
        assert!(open.view.moved.lock().is_empty());

        let shut = from(peer, false).await;
        let refused = shut.ask("POST", "/v1/events", &[key], "{}").await;
        assert_eq!(refused.status, 403, "{peer}");
        assert!(refused.json()["hint"].as_str().unwrap().contains("ingest.keys"), "{}", refused.text());
        assert_eq!(shut.ask("GET", "/v1/events/ws", &upgrade, "").await.status, 403);
    }
    let here = from("127.0.0.1:4567", false).await;
    assert_eq!(here.ask("POST", "/v1/events", &[key], "{}").await.status, 200);
    assert_eq!(here.ask("POST", "/v1/events", &[key, ("host", "loop.lan")], "{}").await.status, 403);
}
