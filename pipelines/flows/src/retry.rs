use std::time::Duration;

use flywheel_lake::LakeError;
use tokio_util::sync::CancellationToken;

use crate::{
    error::{Stop, is_decided},
    status::{FlowStatus, Need},
};

/// Pauses that grow from `min` to `max`.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min }
    }

    pub fn reset(&mut self) {
        self.next = self.min;
    }

    /// `false` if told to stop meanwhile.
    pub async fn pause(&mut self, cancel: &CancellationToken) -> bool {
        let pause = self.next;
        self.next = (self.next * 2).min(self.max);
        tokio::select! {
            biased;
            () = cancel.cancelled() => false,
            () = tokio::time::sleep(pause) => true,
        }
    }
}

/// Runs `work` on the lake until it is done. While it fails the status says why; told to stop, it gives up after
/// the attempt under way: what is not in the table is still in the log.
pub(crate) async fn persist<T, F: Future<Output = Result<T, LakeError>>>(
    status: &FlowStatus,
    cancel: &CancellationToken,
    backoff: &mut Backoff,
    mut work: impl FnMut() -> F,
) -> Result<T, Stop> {
    loop {
        match work().await {
            Ok(done) => {
                backoff.reset();
                status.needs(Need::Lake, None);
                return Ok(done);
            }
            Err(error) if is_decided(&error) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "the lake refuses; trying again");
                status.needs(Need::Lake, Some(error.to_string()));
                if !backoff.pause(cancel).await {
                    return Err(Stop::Cancelled);
                }
            }
        }
    }
}
