//! A file on its way to somebody who may never take it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

const PIECE_BYTES: usize = 64 << 10;

/// The file in pieces. Its memory and its place are given back with its last piece, when the connection ends, or at the
/// deadline: a reader who reads nothing is never asked again, so a clock beside him takes them away.
pub(crate) struct OnItsWay {
    held: Arc<Mutex<Option<(Bytes, OwnedSemaphorePermit)>>>,
    clock: JoinHandle<()>,
    over: bool,
}

impl OnItsWay {
    pub(crate) fn new(bytes: Bytes, place: OwnedSemaphorePermit, deadline: Duration) -> Self {
        let held = Arc::new(Mutex::new(Some((bytes, place))));
        let taken = Arc::clone(&held);
        let clock = tokio::spawn(async move {
            tokio::time::sleep(deadline).await;
            taken.lock().take();
        });
        Self { held, clock, over: false }
    }
}

impl Stream for OnItsWay {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        let mut held = self.held.lock();
        let Some((bytes, _)) = held.as_mut() else {
            drop(held);
            self.over = true;
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        };
        let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
        let last = bytes.is_empty();
        // Its own memory: a piece that waits in the socket must not hold the whole file.
        let piece = Bytes::copy_from_slice(&piece);
        if last {
            held.take();
        }
        drop(held);
        self.over = last;
        Poll::Ready(Some(Ok(piece)))
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.clock.abort();
    }
}
