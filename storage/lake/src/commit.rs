//! The one place where a version is made: put-if-absent of a numbered log entry, with every outcome settled.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use deltalake::{
    kernel::{
        Action, Transaction, Version,
        transaction::{CommitData, TransactionError},
    },
    logstore::CommitOrBytes,
    protocol::DeltaOperation,
};
use uuid::Uuid;

use crate::{LakeError, LakeErrorKind, Table, state::State};

/// Names the commit, so that its writer knows it again when the store did not answer.
const NONCE_KEY: &str = "flywheelCommit";

/// Whose a log entry is.
enum Settled {
    Ours,
    Taken,
}

/// What a writer still wants when the newest state is known.
pub(crate) enum Verdict<T> {
    Go,
    /// Nothing to do any more.
    Stop(T),
}

impl Table {
    /// Commits `actions` as the next version, unless `check` of the newest state says otherwise; `check` is asked
    /// again whenever somebody else's commit came between. Call it in one's `turn`.
    ///
    /// The rules are those of a store that may apply a put and lose its answer: after any failure entry N is
    /// read. Ours: done. Somebody else's: look again and take the next number. Absent: put N again, never N+1.
    pub(crate) async fn commit<T>(
        &self,
        actions: Vec<Action>,
        operation: DeltaOperation,
        positions: &[(String, i64)],
        mut check: impl AsyncFnMut(&State) -> Result<Verdict<T>, LakeError>,
    ) -> Result<Result<Version, T>, LakeError> {
        let nonce = Uuid::new_v4().to_string();
        let transactions = positions.iter().map(|(app_id, to)| Transaction::new(app_id, *to)).collect();
        let data = CommitData::new(
            actions,
            operation,
            HashMap::from([(NONCE_KEY.to_owned(), nonce.clone().into())]),
            transactions,
        );
        let bytes = data
            .get_bytes()
            .map_err(|e| LakeError::new(LakeErrorKind::Internal, "encoding a commit of", self.name(), e))?;
        loop {
            let state = self.create().await?;
            if let Verdict::Stop(reason) = check(&state).await? {
                return Ok(Err(reason));
            }
            let version = state.version + 1;
            match self.settle(version, &bytes, &nonce).await? {
                Settled::Ours => {
                    self.committed(state, version, &data.actions);
                    return Ok(Ok(version));
                }
                Settled::Taken => metrics::counter!(crate::metrics::COMMIT_RACES).increment(1),
            }
        }
    }

    /// Puts entry `version` until it is known whose it is.
    async fn settle(&self, version: Version, bytes: &Bytes, nonce: &str) -> Result<Settled, LakeError> {
        let mut attempt = 0;
        loop {
            let entry = CommitOrBytes::LogBytes(bytes.clone());
            let Err(error) = self.inner.log.write_commit_entry(version, entry, Uuid::nil()).await else {
                return Ok(Settled::Ours);
            };
            match self.inner.log.read_commit_entry(version).await {
                Ok(Some(found)) if contains(&found, nonce.as_bytes()) => return Ok(Settled::Ours),
                Ok(Some(_)) => return Ok(Settled::Taken),
                // Nothing is there, or nobody can say. The put may still be on its way: going to the next number
                // now could land it twice.
                Ok(None) | Err(_) => {}
            }
            attempt += 1;
            metrics::counter!(crate::metrics::COMMIT_RETRIES).increment(1);
            if attempt >= self.inner.config.commit_attempts {
                return Err(unknown(self, version, error));
            }
            tokio::time::sleep(backoff(attempt)).await;
        }
    }

    fn committed(&self, mut state: Arc<State>, version: Version, actions: &[Action]) {
        // A commit of ours never changes what the table is.
        let followed = Arc::make_mut(&mut state).apply(version, actions);
        debug_assert!(followed);
        self.remember(state);
    }
}

fn unknown(table: &Table, version: Version, error: TransactionError) -> LakeError {
    LakeError::new(LakeErrorKind::Unavailable, "committing", table.commit_name(version), error)
}

fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(20 << attempt.min(6))
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
