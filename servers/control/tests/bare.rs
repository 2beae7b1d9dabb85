//! What a process without a page answers.

use std::net::SocketAddr;

use flywheel_control::metrics_router;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_process_without_a_page_says_how_long_it_runs_and_that_it_drains() {
    let stop = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = metrics_router(PrometheusBuilder::new().build_recorder().handle(), stop.clone());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let answer = get(address, "/v1/status").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"seconds\":"), "{answer}");
    stop.cancel();
    for path in ["/v1/status", "/readyz"] {
        let answer = get(address, path).await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("draining"), "{answer}");
    }
    assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
}
