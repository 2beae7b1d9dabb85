//! An accept loop with limits: `axum::serve` alone lets half-open connections stay for ever.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Limits of a server.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// A request's head must be complete within this time.
    pub header_timeout: Duration,
    /// Connections at once; more wait in the kernel's queue.
    pub max_connections: usize,
    /// Longest wait for open requests at the end.
    pub drain: Duration,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self { header_timeout: Duration::from_secs(10), max_connections: 1024, drain: Duration::from_secs(5) }
    }
}

/// A listener on `addr`.
///
/// # Errors
/// Names the address, and what to do when it is taken.
pub async fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(addr).await.map_err(|error| {
        let text = match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!(
                    "port {} of {} is in use; stop what listens there, or choose another port",
                    addr.port(),
                    addr.ip()
                )
            }
            io::ErrorKind::PermissionDenied => format!("port {} needs more rights; choose one above 1023", addr.port()),
            _ => format!("cannot listen on {addr}: {error}"),
        };
        io::Error::new(error.kind(), text)
    })
}

/// Serves `app` until told to stop, then lets open requests end.
///
/// # Errors
/// Never for a single connection; only if the listener itself is gone.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    config: ServeConfig,
    cancel: CancellationToken,
) -> io::Result<()> {
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(config.header_timeout);
    let slots = Arc::new(Semaphore::new(config.max_connections));
    let graceful = GracefulShutdown::new();
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
        let (stream, peer) = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, or a connection that was reset before it was accepted.
                    warn!(%error, "accepting a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        no_delay(&stream);
        let app = app.clone().layer(axum::Extension(ConnectInfo(peer)));
        let (builder, watcher, silence) = (builder.clone(), graceful.watcher(), config.header_timeout);
        tokio::spawn(async move {
            // hyper's clock starts with the first byte of a head; somebody may never send one.
            if !matches!(tokio::time::timeout(silence, stream.peek(&mut [0])).await, Ok(Ok(1))) {
                return;
            }
            let service = TowerToHyperService::new(app);
            let connection =
                watcher.watch(builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned());
            if let Err(error) = connection.await {
                debug!(%error, %peer, "a connection ended badly");
            }
            drop(slot);
        });
    }
    if tokio::time::timeout(config.drain, graceful.shutdown()).await.is_err() {
        debug!("some requests did not end in time");
    }
    Ok(())
}

/// Small messages must not wait for each other.
fn no_delay(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "setting TCP_NODELAY");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn half_open_connections_are_closed_and_others_are_served_meanwhile() {
        let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let config = ServeConfig { header_timeout: Duration::from_millis(50), ..ServeConfig::default() };
        let cancel = CancellationToken::new();
        let app = Router::new().route("/", get(|| async { "hello" }));
        let server = tokio::spawn(serve(listener, app, config, cancel.clone()));
        let mut silent = TcpStream::connect(addr).await.unwrap();
        assert_eq!(reqwest::get(format!("http://{addr}/")).await.unwrap().text().await.unwrap(), "hello");
        // The end of the stream, or an error answer and then the end.
        silent.read_to_end(&mut Vec::new()).await.unwrap();
        cancel.cancel();
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_what_to_do() {
        let taken = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let addr = taken.local_addr().unwrap();
        let error = bind(addr).await.unwrap_err().to_string();
        assert!(error.contains(&addr.port().to_string()) && error.contains("choose another port"), "{error}");
    }
}
