//! Rows are there exactly once, whatever the store and other writers do: cases for every store that tables may lie on.

use std::sync::Arc;

use flywheel_lake::{Advance, CompactOptions, LakeErrorKind, ScanOptions, testing::Fail};

use super::*;

/// Gives an empty store.
pub type Fresh<'a> = &'a (dyn Fn() -> Arc<dyn ObjectStore> + Sync);

const APP: &str = "land/t/0";

pub async fn an_append_that_was_made_already_adds_nothing(fresh: Fresh<'_>) {
    let table = events(&lake_on(&fresh()));
    let positions = [(APP.to_owned(), 9)];
    let first = table.append(vec![rows("g", 0, 10, NOON)], &positions).await.unwrap();
    assert!(!first.skipped && first.rows == 10 && first.files == 1);
    let again = table.append(vec![rows("g", 0, 10, NOON)], &positions).await.unwrap();
    assert!(again.skipped && again.rows == 0);
    assert_eq!(contents(&table).await, expected("g", 0, 10));
    assert_eq!(table.position(APP).await.unwrap(), Some(9));
    assert_eq!(table.position("somebody else").await.unwrap(), None);
}

pub async fn a_writer_that_started_elsewhere_is_told_so_and_adds_nothing(fresh: Fresh<'_>) {
    let store = fresh();
    let (one, two) = (events(&lake_on(&store)), events(&lake_on(&store)));
    one.append_from(vec![rows("g", 0, 10, NOON)], &[Advance::new(APP, None, 9)]).await.unwrap();
    // It has read further, from the same start: all its rows would double the first ten.
    let error = two.append_from(vec![rows("g", 0, 15, NOON)], &[Advance::new(APP, None, 14)]).await.unwrap_err();
    assert_eq!(error.kind(), LakeErrorKind::Moved, "{error}");
    two.append_from(vec![rows("g", 10, 15, NOON)], &[Advance::new(APP, Some(9), 14)]).await.unwrap();
    assert_eq!(contents(&one).await, expected("g", 0, 15));
}

pub async fn one_reached_position_of_two_is_no_reason_to_skip_the_other(fresh: Fresh<'_>) {
    let table = events(&lake_on(&fresh()));
    table.append_from(vec![rows("g", 0, 5, NOON)], &[Advance::new("a", None, 4)]).await.unwrap();
    let both = [Advance::new("a", None, 4), Advance::new("b", None, 7)];
    let error = table.append_from(vec![rows("h", 0, 5, NOON)], &both).await.unwrap_err();
    assert_eq!(error.kind(), LakeErrorKind::Moved, "{error}");
    let with_note = [Advance::new("b", None, 7), Advance::note("a", 2)];
    table.append_from(vec![rows("h", 0, 5, NOON)], &with_note).await.unwrap();
    assert_eq!(table.position("a").await.unwrap(), Some(2));
    assert_eq!(table.rows().await.unwrap(), 10);
}

pub async fn writers_of_several_processes_lose_and_double_nothing(fresh: Fresh<'_>) {
    let store = fresh();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        // A lake of its own: nothing is shared but the store.
        let table = events(&lake_on(&store));
        writers.spawn(async move {
            for n in 0..25u64 {
                let from = n.checked_sub(1).map(|n| n as i64);
                let advance = [Advance::new(format!("app/{writer}"), from, n as i64)];
                table.append_from(vec![rows(&format!("g{writer}"), n, n + 1, NOON)], &advance).await.unwrap();
            }
        });
    }
    writers.join_all().await;
    let table = events(&lake_on(&store));
    let all: Vec<_> = (0..4).flat_map(|w| expected(&format!("g{w}"), 0, 25)).collect();
    assert_eq!(sorted(contents(&table).await), sorted(all));
    // Version 0 creates the table.
    assert_eq!(table.version().await.unwrap(), Some(100));
    for writer in 0..4 {
        assert_eq!(table.position(&format!("app/{writer}")).await.unwrap(), Some(24));
    }
}

pub async fn two_writers_of_one_position_add_each_row_once(fresh: Fresh<'_>) {
    let store = fresh();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let table = events(&lake_on(&store));
        writers.spawn(async move {
            let mut moved = 0;
            loop {
                // What a flow does: look where the table stands, go on from there.
                let at = table.position(APP).await.unwrap();
                let from = at.map_or(0, |at| at as u64 + 1);
                if from >= 40 {
                    return moved;
                }
                let to = (from + 3).min(40);
                let advance = [Advance::new(APP, at, to as i64 - 1)];
                match table.append_from(vec![rows("g", from, to, NOON)], &advance).await {
                    Ok(_) => {}
                    Err(error) if error.kind() == LakeErrorKind::Moved => moved += 1,
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    writers.join_all().await;
    assert_eq!(sorted(contents(&events(&lake_on(&store))).await), sorted(expected("g", 0, 40)));
}

/// A process that dies at any operation of the store, having or not having done it, and a new one that repeats
/// the append it knows nothing of.
pub async fn a_crash_at_any_operation_of_the_store_loses_and_doubles_nothing(fresh: Fresh<'_>) {
    for how in [Fail::Before, Fail::After] {
        let mut died = 0;
        for n in 1.. {
            let store = fresh();
            events(&lake_on(&store)).append(vec![rows("g", 0, 3, NOON)], &[(APP.into(), 2)]).await.unwrap();
            let (broken, faults) = faulty(&store);
            faults.die_at(n, how);
            let advance = [Advance::new(APP, Some(2), 5)];
            let first = events(&lake_on(&broken)).append_from(vec![rows("g", 3, 6, NOON)], &advance).await;
            let table = events(&lake_on(&store));
            if table.position(APP).await.unwrap() == Some(2) {
                assert!(first.is_err());
            }
            table.append_from(vec![rows("g", 3, 6, NOON)], &advance).await.unwrap();
            assert_eq!(contents(&table).await, expected("g", 0, 6), "died at {n} {how:?}");
            assert_eq!(table.position(APP).await.unwrap(), Some(5));
            if !faults.is_dead() {
                break;
            }
            died = n;
        }
        assert!(died >= 4, "only {died} operations could die");
    }
}

pub async fn a_store_that_forgets_to_answer_costs_retries_and_no_rows(fresh: Fresh<'_>) {
    let store = fresh();
    let (flaky, faults) = faulty(&store);
    events(&lake_on(&flaky)).append(vec![], &[("made".into(), 0)]).await.unwrap();
    faults.flaky_puts(60, 60, 42);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..2u64 {
        let table = events(&lake_on(&flaky));
        writers.spawn(async move {
            for n in 0..40u64 {
                let from = n.checked_sub(1).map(|n| n as i64);
                let advance = [Advance::new(format!("app/{writer}"), from, n as i64)];
                let batch = rows(&format!("g{writer}"), n, n + 1, NOON);
                while let Err(error) = table.append_from(vec![batch.clone()], &advance).await {
                    assert!(error.kind().is_retryable(), "{error}");
                }
            }
        });
    }
    writers.join_all().await;
    let all: Vec<_> = (0..2).flat_map(|w| expected(&format!("g{w}"), 0, 40)).collect();
    assert_eq!(sorted(contents(&events(&lake_on(&store))).await), sorted(all));
}

pub async fn two_creators_make_one_table(fresh: Fresh<'_>) {
    let store = fresh();
    let mut creators = tokio::task::JoinSet::new();
    for n in 0..6u64 {
        let table = events(&lake_on(&store));
        creators.spawn(async move { table.append(vec![rows("g", n, n + 1, NOON)], &[]).await.unwrap() });
    }
    creators.join_all().await;
    let history = events(&lake_on(&store)).history(9).await.unwrap();
    let created = history.iter().filter(|entry| entry.operation == "CREATE TABLE").count();
    assert_eq!((created, history.len()), (1, 7));
    assert_eq!(sorted(contents(&events(&lake_on(&store))).await), sorted(expected("g", 0, 6)));
}

pub async fn a_table_that_is_not_there_is_empty_and_is_not_made_by_looking(fresh: Fresh<'_>) {
    let store = fresh();
    let table = events(&lake_on(&store));
    assert_eq!(table.version().await.unwrap(), None);
    assert_eq!(table.position(APP).await.unwrap(), None);
    assert!(table.scan(ScanOptions::default()).await.unwrap().is_empty());
    assert!(table.history(5).await.unwrap().is_empty());
    assert_eq!(table.compact(1 << 20).await.unwrap().files_before, 0);
    assert_eq!(events(&lake_on(&store)).version().await.unwrap(), None);
}

pub async fn rows_of_several_days_and_an_empty_append_are_one_commit_each(fresh: Fresh<'_>) {
    let table = events(&lake_on(&fresh()));
    let mut builder = flywheel_tables::EventsBuilder::new();
    for seq in 0..6u64 {
        builder.push(&event("g", seq), 0, seq as i64, NOON + (seq as i64 % 2) * DAY);
    }
    let commit = table.append(vec![builder.finish()], &[(APP.into(), 5)]).await.unwrap();
    assert_eq!((commit.files, commit.rows), (2, 6));
    assert_eq!(contents(&table).await, ["g/0", "g/2", "g/4", "g/1", "g/3", "g/5"]);
    let empty = table.append(vec![], &[(APP.into(), 8)]).await.unwrap();
    assert_eq!((empty.files, empty.version), (0, commit.version + 1));
    assert_eq!(table.position(APP).await.unwrap(), Some(8));
}

pub async fn a_long_log_is_read_from_its_checkpoint_and_old_versions_stay(fresh: Fresh<'_>) {
    let store = fresh();
    let table = events(&lake_on(&store));
    for n in 0..35u64 {
        table.append(vec![rows("g", n, n + 1, NOON)], &[(APP.into(), n as i64)]).await.unwrap();
    }
    let fresh = events(&lake_on(&store));
    assert_eq!(fresh.position(APP).await.unwrap(), Some(34));
    assert_eq!(sorted(contents(&fresh).await), sorted(expected("g", 0, 35)));
    let as_of = ScanOptions { version: Some(12), ..ScanOptions::default() };
    assert_eq!(sorted(contents_of(&fresh, as_of).await), sorted(expected("g", 0, 12)));
    let missing = ScanOptions { version: Some(99), ..ScanOptions::default() };
    assert!(fresh.scan(missing).await.is_err());
    let history = fresh.history(3).await.unwrap();
    assert_eq!(history.iter().map(|entry| entry.version).collect::<Vec<_>>(), [35, 34, 33]);
    assert_eq!(history[0].positions, [(APP.to_owned(), 34)]);
    assert_eq!((history[0].operation.as_str(), history[0].rows_added), ("WRITE", 1));
    let checkpoints = checkpoints(&store).await;
    assert_eq!(checkpoints, 3, "one every ten commits");
}

pub async fn compaction_keeps_rows_order_positions_and_old_versions(fresh: Fresh<'_>) {
    let store = fresh();
    let table = events(&lake_on(&store));
    for n in 0..20u64 {
        let day = if n < 15 { NOON } else { NOON + DAY };
        table.append(vec![rows("g", n * 5, n * 5 + 5, day)], &[("a".into(), n as i64)]).await.unwrap();
    }
    let before = contents(&table).await;
    let version = table.version().await.unwrap();
    let report = table.compact_with(&CompactOptions { target_bytes: 1 << 20, min_files: 4 }).await.unwrap();
    assert_eq!((report.files_before, report.files_after, report.files_merged, report.conflicts), (20, 2, 20, 0));
    // A process that had the table open, and a fresh one.
    for table in [table.clone(), events(&lake_on(&store))] {
        assert_eq!(contents(&table).await, before);
        assert_eq!(table.position("a").await.unwrap(), Some(19));
        assert_eq!(table.rows().await.unwrap(), 100);
        let as_of = ScanOptions { version, ..ScanOptions::default() };
        assert_eq!(contents_of(&table, as_of).await, before);
    }
    let again = table.compact_with(&CompactOptions { target_bytes: 1 << 20, min_files: 4 }).await.unwrap();
    assert_eq!(again.files_merged, 0, "what is merged is left alone");
    let history = table.history(1).await.unwrap();
    assert_eq!((history[0].operation.as_str(), history[0].files_removed), ("OPTIMIZE", 5));
}

pub async fn compaction_beside_writers_and_another_compaction_loses_and_doubles_nothing(fresh: Fresh<'_>) {
    let store = fresh();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..2 {
        let table = events(&lake_on(&store));
        tasks.spawn(async move {
            for n in 0..30u64 {
                let game = format!("g{writer}");
                table.append(vec![rows(&game, n, n + 1, NOON)], &[(game.clone(), n as i64)]).await.unwrap();
            }
            0
        });
    }
    for _ in 0..2 {
        let table = events(&lake_on(&store));
        tasks.spawn(async move {
            let mut conflicts = 0;
            for _ in 0..12 {
                let options = CompactOptions { target_bytes: 1 << 20, min_files: 2 };
                conflicts += table.compact_with(&options).await.unwrap().conflicts;
                tokio::task::yield_now().await;
            }
            conflicts
        });
    }
    tasks.join_all().await;
    let all: Vec<_> = (0..2).flat_map(|w| expected(&format!("g{w}"), 0, 30)).collect();
    let table = events(&lake_on(&store));
    assert_eq!(sorted(contents(&table).await), sorted(all));
    assert_eq!(table.rows().await.unwrap(), 60);
}

async fn checkpoints(store: &Arc<dyn object_store::ObjectStore>) -> usize {
    use futures::TryStreamExt;
    let all: Vec<_> = store.list(None).try_collect().await.unwrap();
    all.iter().filter(|object| object.location.as_ref().ends_with(".checkpoint.parquet")).count()
}

const FENCE: &str = "fence/land/t/0";

fn fenced(from: Option<i64>, to: i64, number: i64) -> [Advance; 2] {
    [Advance::new(APP, from, to), Advance::fence(FENCE, number)]
}

pub async fn a_writer_behind_the_fence_is_refused_and_leaves_the_table_as_it_was(fresh: Fresh<'_>) {
    let store = fresh();
    let (zombie, heir) = (events(&lake_on(&store)), events(&lake_on(&store)));
    zombie.claim(&[(FENCE.to_owned(), 0)]).await.unwrap();
    zombie.append_from(vec![rows("g", 0, 5, NOON)], &fenced(None, 4, 1)).await.unwrap();
    // The lease moves; the heir claims before it reads where the table stands.
    let seen = heir.fences(&[FENCE.to_owned()]).await.unwrap();
    heir.claim(&[(FENCE.to_owned(), seen[0])]).await.unwrap();
    let before = heir.version().await.unwrap();
    // The position is where the zombie believes: without the fence its rows would go in.
    assert_eq!(heir.position(APP).await.unwrap(), Some(4));
    let error = zombie.append_from(vec![rows("g", 5, 9, NOON)], &fenced(Some(4), 8, 1)).await.unwrap_err();
    assert_eq!(error.kind(), LakeErrorKind::Fenced, "{error}");
    // Also when the position says that all of it is there already, and when there are no rows at all.
    for advances in [fenced(None, 4, 1), fenced(Some(4), 8, 1)] {
        let error = zombie.append_from(Vec::new(), &advances).await.unwrap_err();
        assert_eq!(error.kind(), LakeErrorKind::Fenced, "{error}");
    }
    assert_eq!((heir.version().await.unwrap(), contents(&heir).await), (before, expected("g", 0, 5)));
    heir.append_from(vec![rows("g", 5, 12, NOON)], &fenced(Some(4), 11, 2)).await.unwrap();
    assert_eq!(contents(&zombie).await, expected("g", 0, 12));
    // A fence that nobody claimed admits nobody.
    let error = heir.append_from(Vec::new(), &[Advance::fence("fence/land/t/1", 1)]).await.unwrap_err();
    assert_eq!(error.kind(), LakeErrorKind::Fenced, "{error}");
}

pub async fn of_many_that_claim_the_same_number_one_gets_it_and_numbers_only_rise(fresh: Fresh<'_>) {
    let store = fresh();
    let mut claimants = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let table = events(&lake_on(&store));
        claimants.spawn(async move {
            let mut got = Vec::new();
            while got.len() < 10 {
                let seen = table.fences(&[FENCE.to_owned()]).await.unwrap()[0];
                match table.claim(&[(FENCE.to_owned(), seen)]).await {
                    Ok(()) => got.push(seen + 1),
                    Err(error) => assert_eq!(error.kind(), LakeErrorKind::Fenced, "{error}"),
                }
            }
            assert!(got.is_sorted());
            got
        });
    }
    let mut all = claimants.join_all().await.concat();
    all.sort_unstable();
    assert_eq!(all, (1..=40).collect::<Vec<i64>>());
}

pub async fn a_fence_claimed_in_one_table_is_raised_in_another_and_never_lowered(fresh: Fresh<'_>) {
    let table = events(&lake_on(&fresh()));
    let fence = |number| [(FENCE.to_owned(), number)];
    table.raise(&fence(3)).await.unwrap();
    let version = table.version().await.unwrap();
    table.raise(&fence(3)).await.unwrap();
    assert_eq!(table.version().await.unwrap(), version, "what stands there already takes no commit");
    table.raise(&fence(7)).await.unwrap();
    let error = table.raise(&fence(5)).await.unwrap_err();
    assert_eq!(error.kind(), LakeErrorKind::Fenced, "{error}");
    assert_eq!(table.fences(&[FENCE.to_owned()]).await.unwrap(), [7]);
}

/// The zombie's put is under way when the heir claims: whoever of the two gets the number first, no row is doubled, and
/// what the zombie puts after the claim is refused.
pub async fn a_commit_that_races_a_claim_is_before_it_or_refused(fresh: Fresh<'_>) {
    let (mut landed, mut refused) = (0, 0);
    for round in 0..24 {
        let store = fresh();
        let (zombie, heir) = (events(&lake_on(&store)), events(&lake_on(&store)));
        zombie.claim(&[(FENCE.to_owned(), 0)]).await.unwrap();
        let zombies = tokio::spawn(async move {
            for _ in 0..round % 4 {
                tokio::task::yield_now().await;
            }
            zombie.append_from(vec![rows("g", 0, 5, NOON)], &fenced(None, 4, 1)).await
        });
        heir.claim(&[(FENCE.to_owned(), 1)]).await.unwrap();
        let from = heir.position(APP).await.unwrap();
        let first = from.map_or(0, |from| from as u64 + 1);
        heir.append_from(vec![rows("g", first, 9, NOON)], &fenced(from, 8, 2)).await.unwrap();
        match zombies.await.unwrap() {
            Ok(_) => landed += 1,
            Err(error) => {
                assert_eq!(error.kind(), LakeErrorKind::Fenced, "{error}");
                refused += 1;
            }
        }
        assert_eq!(contents(&heir).await, expected("g", 0, 9), "round {round}");
    }
    assert_eq!(landed + refused, 24);
}

/// Hands the names of all cases to `$run`.
macro_rules! commit_cases {
    ($run:ident) => {
        $run! {
            an_append_that_was_made_already_adds_nothing,
            a_writer_that_started_elsewhere_is_told_so_and_adds_nothing,
            one_reached_position_of_two_is_no_reason_to_skip_the_other,
            writers_of_several_processes_lose_and_double_nothing,
            two_writers_of_one_position_add_each_row_once,
            a_writer_behind_the_fence_is_refused_and_leaves_the_table_as_it_was,
            of_many_that_claim_the_same_number_one_gets_it_and_numbers_only_rise,
            a_fence_claimed_in_one_table_is_raised_in_another_and_never_lowered,
            a_commit_that_races_a_claim_is_before_it_or_refused,
            a_crash_at_any_operation_of_the_store_loses_and_doubles_nothing,
            a_store_that_forgets_to_answer_costs_retries_and_no_rows,
            two_creators_make_one_table,
            a_table_that_is_not_there_is_empty_and_is_not_made_by_looking,
            rows_of_several_days_and_an_empty_append_are_one_commit_each,
            a_long_log_is_read_from_its_checkpoint_and_old_versions_stay,
            compaction_keeps_rows_order_positions_and_old_versions,
            compaction_beside_writers_and_another_compaction_loses_and_doubles_nothing,
        }
    };
}
pub(crate) use commit_cases;
