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

use crate::{Advance, DataFile, Expected, LakeError, LakeErrorKind, Table, fence::lost, state::State};

/// Names the commit, so that its writer knows it again when the store did not answer.
const NONCE_KEY: &str = "flywheelCommit";

/// Whose a log entry is.
enum Settled {
    Ours,
    Taken,
}

/// Words that a commit carries for people, such as where the rows are that it takes out.
pub(crate) const NOTE_KEY: &str = "flywheelNote";

/// What must be true of the newest state for a commit to happen.
#[derive(Clone, Copy, Default)]
pub(crate) struct Condition<'a> {
    /// The positions stand where the writer believes.
    pub positions: &'a [Advance],
    /// The files that it takes out are there.
    pub files: &'a [DataFile],
    /// Carried by the commit.
    pub note: Option<&'a str>,
}

/// Why nothing was committed.
pub(crate) enum Stop {
    /// Every position is reached already.
    Reached(Version),
    /// Somebody else moved a position.
    Moved(String),
    /// Somebody else has claimed a fence.
    Fenced(String),
    /// Somebody else took a file.
    Taken,
}

impl Table {
    /// Commits `actions` as the next version if `condition` holds; it is looked at again whenever somebody else's
    /// commit came between. Writers of one process take turns.
    ///
    /// The rules are those of a store that may apply a put and lose its answer: after any failure entry N is
    /// read. Ours: done. Somebody else's: look again and take the next number. Absent: put N again, never N+1.
    pub(crate) async fn commit(
        &self,
        actions: Vec<Action>,
        operation: DeltaOperation,
        condition: Condition<'_>,
    ) -> Result<Result<Version, Stop>, LakeError> {
        let _turn = self.inner.turn.lock().await;
        let Condition { positions, files, note } = condition;
        let transactions = positions.iter().map(|to| Transaction::new(&to.app_id, to.to)).collect();
        let nonce = Uuid::new_v4().to_string();
        let mut words = HashMap::from([(NONCE_KEY.to_owned(), nonce.clone().into())]);
        words.extend(note.map(|note| (NOTE_KEY.to_owned(), note.into())));
        let data = CommitData::new(actions, operation, words, transactions);
        let bytes = data
            .get_bytes()
            .map_err(|e| LakeError::new(LakeErrorKind::Internal, "encoding a commit of", self.name(), e))?;
        loop {
            let state = self.create().await?;
            let taken = || files.iter().any(|file| !state.files.contains_key(&file.path)).then_some(Stop::Taken);
            if let Some(stop) = self.weigh(&state, positions).await?.or_else(taken) {
                return Ok(Err(stop));
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
                #[cfg(flywheel_bug)]
                Ok(None) | Err(_) if crate::seeded_bug("next-number-after-unknown") => return Ok(Settled::Taken),
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

    /// What the positions at `state` say about a commit; `None` is yes.
    pub(crate) async fn weigh(&self, state: &State, advances: &[Advance]) -> Result<Option<Stop>, LakeError> {
        // Fences first: where a writer has no say, it matters little what it wanted to say.
        let mut fences = HashMap::new();
        for advance in advances.iter().filter(|advance| advance.from == Expected::Held) {
            fences.insert(advance.app_id.as_str(), self.position_at(state, &advance.app_id).await?);
        }
        if let Some(why) = lost(advances, &fences) {
            return Ok(Some(Stop::Fenced(why)));
        }
        let (mut checked, mut reached, mut moved) = (0, 0, None);
        let decides = |advance: &&Advance| !matches!(advance.from, Expected::Anywhere | Expected::Held);
        for advance in advances.iter().filter(decides) {
            checked += 1;
            let found = self.position_at(state, &advance.app_id).await?;
            if found.is_some_and(|found| found >= advance.to) {
                reached += 1;
            } else if let Expected::At(from) = advance.from
                && from != found
            {
                moved = Some(format!("`{}` stands at {found:?}, not at {from:?}", advance.app_id));
            }
        }
        Ok(match moved {
            _ if checked == 0 => None,
            _ if reached == checked => Some(Stop::Reached(state.version)),
            Some(why) => Some(Stop::Moved(why)),
            None if reached > 0 => Some(Stop::Moved(format!("{reached} of {checked} positions are reached"))),
            None => None,
        })
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
