//! The archive as the loop sees it: asked now and then, done without while it is away.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use flywheel_archive::ColdStore;
use flywheel_backends::ClaimedArchive;
use flywheel_flows::Away;
use tokio_util::sync::CancellationToken;

use super::degraded::Silence;
use crate::{
    config::Config,
    exit::{Code, Failure},
    systems::{archive_not_opened, urls},
};

/// Between two questions, while it is away and else.
const ASK_EVERY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(15));

/// The archive, and since when it does not answer.
#[derive(Debug)]
pub struct Cold {
    archive: Arc<ClaimedArchive>,
    silence: Mutex<Silence>,
}

impl Cold {
    /// The archive where one is configured, also while it does not answer.
    ///
    /// # Errors
    /// If it never would: a setting does not fit, it refuses, or it is the archive of other tables.
    pub async fn open(config: &Config) -> Result<Option<Arc<Self>>, Failure> {
        let opened = urls(config).open_archive_in_time(&config.archive).await;
        let opened = opened.map_err(archive_not_opened)?;
        Ok(opened.map(|(archive, away)| {
            let cold = Self { archive, silence: Mutex::default() };
            if let Some(why) = away {
                tracing::warn!(%why, "starting without the archive");
                cold.note(Some(why.to_string()));
            }
            Arc::new(cold)
        }))
    }

    pub fn store(&self) -> Arc<dyn ColdStore> {
        Arc::clone(&self.archive) as Arc<dyn ColdStore>
    }

    /// Whether it answers now.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn check(&self) -> Result<(), Failure> {
        self.archive.check().await.map_err(|error| Failure::msg(Code::Unreachable, error))
    }

    pub fn away(&self) -> Option<Away> {
        self.silence.lock().expect("nothing panics while it holds it").away()
    }

    fn note(&self, error: Option<String>) {
        let now_ms = jiff::Timestamp::now().as_millisecond();
        self.silence.lock().expect("nothing panics while it holds it").note(now_ms, error);
    }

    /// Asks until told to stop.
    pub async fn keep_watch(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let pause = if self.away().is_some() { ASK_EVERY.0 } else { ASK_EVERY.1 };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                answer = self.archive.check() => self.note(answer.err().map(|error| error.to_string())),
            }
        }
    }
}
