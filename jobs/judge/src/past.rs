//! What earlier judges found, read back from the table and from the moves of `champion`.

use std::collections::BTreeMap;

use flywheel_events::{BaseKey, ModelVersion};
use flywheel_lake::{Lake, ScanOptions};
use flywheel_registry::{AliasState, Registry};
use flywheel_tables::{EvaluationRow, TableName, evaluations_from};
use futures::TryStreamExt;

use crate::service::{JudgeError, Promotion, ScoreRow};

/// Scores, moves and verdicts that were there before this judge began.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Past {
    /// Score sheets of all champions, by rising time; one row for each opponent.
    pub scores: Vec<ScoreRow>,
    /// Moves of `champion`, oldest first, whoever made them.
    pub promotions: Vec<Promotion>,
    /// Version, whether it became champion, and why; by rising version.
    pub verdicts: Vec<(u64, bool, String)>,
}

impl Past {
    /// Reads all rows of `evaluations` for `base` once, file by file, and every move of its champion.
    ///
    /// # Errors
    /// If the table or the registry cannot be read.
    pub async fn read(lake: &Lake, registry: &Registry, base: &BaseKey) -> Result<Self, JudgeError> {
        let moves = registry.moves(base, "champion", 0).await?;
        let mut sums = Sums::default();
        let mut batches = lake.table(TableName::Evaluations).scan_stream(ScanOptions::default()).await?;
        while let Some(batch) = batches.try_next().await? {
            evaluations_from(&batch)?.iter().filter(|row| row.base_key == *base).for_each(|row| sums.add(row));
        }
        Ok(Self { scores: sums.scores(), verdicts: sums.verdicts(&moves), promotions: moved(&moves) })
    }
}

fn moved(moves: &[AliasState]) -> Vec<Promotion> {
    let promotion = |state: &AliasState| Promotion {
        t_ms: state.moved_at_ms,
        from: state.previous.map(|version| version.0),
        to: state.version.0,
        reason: state.reason.clone(),
        // The judge only ever promotes newer versions; a move to an older one takes something back.
        rollback: state.previous.is_some_and(|previous| previous > state.version),
    };
    moves.iter().map(promotion).collect()
}

#[derive(Debug, Default)]
struct Sums {
    /// Of the score sheets: time of the first row, games, sum of scores.
    sheets: BTreeMap<(ModelVersion, String), (i64, u32, f64)>,
    /// Of the trials: pairs won, lost and played against the champion of then.
    trials: BTreeMap<ModelVersion, (u32, u32, u32)>,
}

impl Sums {
    fn add(&mut self, row: &EvaluationRow) {
        if row.run_id.starts_with("sheet-") {
            let key = (row.candidate, row.opponent.clone());
            let sum = self.sheets.entry(key).or_insert((row.created_at_ms, 0, 0.0));
            sum.0 = sum.0.min(row.created_at_ms);
            sum.1 += 1;
            sum.2 += f64::from(row.result + 1) / 2.0;
        } else if row.run_id.starts_with("trial-") {
            let sum = self.trials.entry(row.candidate).or_default();
            if row.opponent.starts_with("champion@") {
                sum.0 += u32::from(row.result > 0);
                sum.1 += u32::from(row.result < 0);
                sum.2 += 1;
            }
        }
    }

    fn scores(&self) -> Vec<ScoreRow> {
        let row = |(key, sum): (&(ModelVersion, String), &(i64, u32, f64))| ScoreRow {
            t_ms: sum.0,
            version: key.0.0,
            opponent: key.1.clone(),
            games: sum.1,
            score: sum.2 / f64::from(sum.1),
        };
        let mut rows: Vec<_> = self.sheets.iter().map(row).collect();
        rows.sort_by_key(|row| row.t_ms);
        rows
    }

    fn verdicts(&self, moves: &[AliasState]) -> Vec<(u64, bool, String)> {
        let verdict = |(version, (won, lost, pairs)): (&ModelVersion, &(u32, u32, u32))| match moves
            .iter()
            .find(|state| state.version == *version)
        {
            Some(state) => (version.0, true, state.reason.clone()),
            None if *pairs > 0 => (version.0, false, format!("{won} won and {lost} lost of {pairs} pairs")),
            None => (version.0, false, "unfit; it did not get as far as the champion".to_owned()),
        };
        self.trials.iter().map(verdict).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flywheel_events::System;
    use flywheel_policy::{Network, NetworkSpec};
    use flywheel_registry::NewVersion;
    use flywheel_tables::EvaluationsBuilder;
    use object_store::memory::InMemory;
    use serde_json::json;

    use super::*;

    fn row(purpose: &str, candidate: u64, opponent: &str, result: i32, created_at_ms: i64) -> EvaluationRow {
        EvaluationRow {
            system: System::Tank,
            run_id: format!("{purpose}-k-{candidate}"),
            base_key: BaseKey::new("k").unwrap(),
            candidate: ModelVersion(candidate),
            opponent: opponent.to_owned(),
            map_key: "one".to_owned(),
            seed: 1,
            seat: "ai".to_owned(),
            result,
            ticks: 10,
            created_at_ms,
        }
    }

    async fn registry_of_three(base: &BaseKey) -> Registry {
        let registry = Registry::open(Arc::new(InMemory::new()), "", None);
        let spec = NetworkSpec::new(2, vec![3], 2);
        for seed in 0..3 {
            let new = NewVersion {
                base_key: base.clone(),
                weights: Network::random(&spec, seed, 0.1).unwrap().to_safetensors(),
                parent: None,
                train_job_id: "train-1".to_owned(),
                data_range: None,
                metrics: json!({}),
                metadata: json!({}),
            };
            registry.publish(new).await.unwrap();
        }
        registry
    }

    #[tokio::test]
    async fn scores_moves_and_verdicts_of_earlier_judges_are_read_back() {
        let base = BaseKey::new("k").unwrap();
        let registry = registry_of_three(&base).await;
        for (version, reason) in [(1, "the first"), (3, "better"), (1, "rolled back")] {
            registry.promote(&base, "champion", ModelVersion(version), None, reason).await.unwrap();
        }
        let lake = Lake::open(Arc::new(InMemory::new()), "memory:///lake/".parse().unwrap());
        let mut rows = EvaluationsBuilder::new();
        for (result, opponent) in [(1, "hunter"), (-1, "hunter"), (0, "camper")] {
            rows.push(&row("sheet", 1, opponent, result, 100));
        }
        for (result, opponent) in [(-1, "champion@1"), (-1, "champion@1"), (1, "champion@1"), (1, "hunter")] {
            rows.push(&row("trial", 2, opponent, result, 200));
        }
        rows.push(&row("trial", 3, "champion@1", 1, 300));
        rows.push(&row("sheet", 3, "hunter", 1, 400));
        // Another slot's games are not ours.
        rows.push(&EvaluationRow { base_key: BaseKey::new("other").unwrap(), ..row("sheet", 9, "hunter", 1, 50) });
        lake.table(TableName::Evaluations).append(vec![rows.finish()], &[]).await.unwrap();

        let past = Past::read(&lake, &registry, &base).await.unwrap();
        let scores: Vec<_> =
            past.scores.iter().map(|s| (s.t_ms, s.version, s.opponent.as_str(), s.games, s.score)).collect();
        assert_eq!(scores, [(100, 1, "camper", 1, 0.5), (100, 1, "hunter", 2, 0.5), (400, 3, "hunter", 1, 1.0)]);
        let moves: Vec<_> = past.promotions.iter().map(|p| (p.from, p.to, p.rollback)).collect();
        assert_eq!(moves, [(None, 1, false), (Some(1), 3, false), (Some(3), 1, true)]);
        assert_eq!(
            past.verdicts,
            [(2, false, "1 won and 2 lost of 3 pairs".to_owned()), (3, true, "better".to_owned())]
        );
    }

    #[tokio::test]
    async fn a_fresh_folder_has_no_past() {
        let base = BaseKey::new("k").unwrap();
        let (lake, registry) = (
            Lake::open(Arc::new(InMemory::new()), "memory:///lake/".parse().unwrap()),
            Registry::open(Arc::new(InMemory::new()), "", None),
        );
        assert_eq!(Past::read(&lake, &registry, &base).await.unwrap(), Past::default());
    }
}
