//! Who may write for an application id: a number that the table itself hands out, and looks at in every commit.
//!
//! A lease says who should write, and may be wrong: its holder was stopped, and does not know yet that it lost it. So
//! whoever takes over first raises the fence in the table, by a commit. From then on a commit that brings the number
//! before finds another one in the table, wherever its writer stood when it was stopped.

use std::collections::HashMap;

use deltalake::protocol::{DeltaOperation, SaveMode};

use crate::{
    Advance, Expected, LakeError, LakeErrorKind, Table,
    commit::{Condition, Stop},
};

impl Advance {
    /// The commit happens only while the fence `app_id` stands at `number`, as [`Table::claim`] has set it.
    pub fn fence(app_id: impl Into<String>, number: i64) -> Self {
        Self { app_id: app_id.into(), from: Expected::Held, to: number }
    }
}

impl Table {
    /// Where fences stand; one that was never claimed is at 0.
    ///
    /// # Errors
    /// As [`Table::version`].
    pub async fn fences(&self, app_ids: &[String]) -> Result<Vec<i64>, LakeError> {
        let mut found = Vec::with_capacity(app_ids.len());
        for app_id in app_ids {
            found.push(self.position(app_id).await?.unwrap_or(0));
        }
        Ok(found)
    }

    /// Takes each fence from the number that the caller has seen to the next, all in one commit. Of two that saw the
    /// same number, one gets it.
    ///
    /// # Errors
    /// `Fenced` if one of them stands elsewhere, also after an attempt of this very caller whose outcome was unknown:
    /// look again. `Unavailable` if the store fails.
    pub async fn claim(&self, seen: &[(String, i64)]) -> Result<(), LakeError> {
        let before = |number: i64| (number > 0).then_some(number);
        let advances: Vec<_> =
            seen.iter().map(|(app_id, number)| Advance::new(app_id, before(*number), number + 1)).collect();
        match self.commit_fences(&advances).await? {
            Ok(_) => Ok(()),
            // "Reached" too: a number is one writer's, and this commit did not bring it.
            Err(stop) => Err(self.fenced("claiming", stop)),
        }
    }

    /// Brings this table to numbers that the caller has claimed in another, so that none before them counts here.
    ///
    /// # Errors
    /// `Fenced` if somebody claimed after the caller; `Unavailable` if the store fails: again is safe.
    pub async fn raise(&self, claimed: &[(String, i64)]) -> Result<(), LakeError> {
        let ids: Vec<_> = claimed.iter().map(|(app_id, _)| app_id.clone()).collect();
        let found = self.fences(&ids).await?;
        if let Some(((app_id, number), found)) = claimed.iter().zip(&found).find(|((_, number), found)| *found > number)
        {
            return Err(self.fenced("raising", Stop::Fenced(format!("`{app_id}` stands at {found}, past {number}"))));
        }
        let behind = claimed.iter().zip(found).filter(|((_, number), found)| found < number);
        let advances: Vec<_> = behind
            .map(|((app_id, number), found)| Advance::new(app_id, (found > 0).then_some(found), *number))
            .collect();
        if advances.is_empty() {
            return Ok(());
        }
        match self.commit_fences(&advances).await? {
            Ok(_) => Ok(()),
            // An attempt before this one landed after all; a number is one writer's, so it was ours.
            Err(Stop::Reached(_)) if self.fences(&ids).await?.iter().zip(claimed).all(|(found, c)| *found == c.1) => {
                Ok(())
            }
            Err(stop) => Err(self.fenced("raising", stop)),
        }
    }

    async fn commit_fences(&self, advances: &[Advance]) -> Result<Result<u64, Stop>, LakeError> {
        let operation = DeltaOperation::Write {
            mode: SaveMode::Append,
            partition_by: Some(flywheel_tables::PARTITION_COLUMNS.map(str::to_owned).to_vec()),
            predicate: None,
        };
        let done =
            self.commit(Vec::new(), operation, Condition { positions: advances, ..Condition::default() }).await?;
        if let Ok(version) = done {
            self.keep_log_short(version).await;
        }
        Ok(done)
    }

    fn fenced(&self, operation: &'static str, stop: Stop) -> LakeError {
        let why = match stop {
            Stop::Fenced(why) | Stop::Moved(why) => why,
            Stop::Reached(_) => "somebody has claimed the same number".to_owned(),
            Stop::Taken => unreachable!("a fence takes no files out"),
        };
        LakeError::new(LakeErrorKind::Fenced, operation, format!("fences of {}", self.name()), why)
    }
}

/// The first fence of `advances` that is not where its writer holds it.
pub(crate) fn lost(advances: &[Advance], found: &HashMap<&str, Option<i64>>) -> Option<String> {
    let held = advances.iter().filter(|advance| advance.from == Expected::Held);
    held.map(|advance| (advance, found.get(advance.app_id.as_str()).copied().flatten()))
        .find(|(advance, found)| *found != Some(advance.to))
        .map(|(advance, found)| match found {
            Some(found) => {
                format!("the fence `{}` stands at {found}, this writer holds {}", advance.app_id, advance.to)
            }
            None => format!("the fence `{}` was never claimed here, this writer holds {}", advance.app_id, advance.to),
        })
}
