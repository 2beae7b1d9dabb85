//! Answers that many ask for and that may be a moment old.

use std::{
    collections::HashMap,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::OnceCell;

/// By key: since when, and the answer or the one fetch that is under way.
type Answers<K, V> = HashMap<K, (Instant, Arc<OnceCell<V>>)>;

/// Keeps each answer for as long as it is fresh. Who asks for one that is being fetched waits for that one; an error is
/// told to who got it, and the next one asks again.
///
/// At most `limit` keys: beyond it the oldest answer is forgotten.
pub(super) struct Recent<K, V> {
    fresh: Duration,
    limit: usize,
    answers: Mutex<Answers<K, V>>,
}

impl<K: Clone + Eq + Hash, V: Clone> Recent<K, V> {
    pub fn new(fresh: Duration, limit: usize) -> Self {
        Self { fresh, limit, answers: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Answers<K, V>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer of at most `fresh` before `now`, or a new one.
    pub async fn get<E, F: Future<Output = Result<V, E>>>(
        &self,
        key: K,
        now: Instant,
        fetch: impl FnOnce() -> F,
    ) -> Result<V, E> {
        let answer = self.place(&key, now);
        let answered = answer.get_or_try_init(fetch).await.cloned();
        if answered.is_err() {
            // Names that nobody has take no place.
            let mut answers = self.lock();
            if answers.get(&key).is_some_and(|(_, kept)| Arc::ptr_eq(kept, &answer) && !kept.initialized()) {
                answers.remove(&key);
            }
        }
        answered
    }

    /// Whatever is asked for from now on is fetched anew.
    pub fn forget(&self) {
        self.lock().clear();
    }

    fn place(&self, key: &K, now: Instant) -> Arc<OnceCell<V>> {
        let mut answers = self.lock();
        if let Some((since, answer)) = answers.get(key)
            && now.saturating_duration_since(*since) < self.fresh
        {
            return Arc::clone(answer);
        }
        if !answers.contains_key(key) && answers.len() >= self.limit {
            let oldest = answers.iter().min_by_key(|(_, (since, _))| *since).map(|(key, _)| key.clone());
            oldest.and_then(|key| answers.remove(&key));
        }
        let answer = Arc::default();
        answers.insert(key.clone(), (now, Arc::clone(&answer)));
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn ask(recent: &Recent<&'static str, u64>, key: &'static str, now: Instant, asked: &AtomicU64) -> u64 {
        let fetch = || async {
            tokio::task::yield_now().await;
            Ok::<_, ()>(asked.fetch_add(1, Ordering::Relaxed))
        };
        recent.get(key, now, fetch).await.unwrap()
    }

    #[tokio::test]
    async fn many_who_ask_within_a_second_cost_one_fetch_for_each_key() {
        let (recent, asked, now) = (Recent::new(SECOND, 8), AtomicU64::new(0), Instant::now());
        let all: Vec<_> = (0..100).map(|n| ask(&recent, ["a", "b"][n % 2], now, &asked)).collect();
        let answers = futures::future::join_all(all).await;
        assert_eq!(asked.load(Ordering::Relaxed), 2, "one for each key");
        assert!(answers.chunks(2).all(|pair| *pair == answers[..2]) && answers[0] != answers[1], "{answers:?}");
        assert_eq!(ask(&recent, "a", now + SECOND / 2, &asked).await, answers[0]);
        assert_eq!(ask(&recent, "a", now + SECOND, &asked).await, 2, "a second is over");
        assert_eq!(ask(&recent, "a", now + SECOND, &asked).await, 2);
        recent.forget();
        assert_eq!(ask(&recent, "a", now + SECOND, &asked).await, 3, "a move was made here");
    }

    #[tokio::test]
    async fn an_error_is_not_kept_and_takes_no_place() {
        let (recent, asked, now) = (Recent::new(SECOND, 1), AtomicU64::new(0), Instant::now());
        assert_eq!(ask(&recent, "a", now, &asked).await, 0);
        recent.forget();
        let failed = recent.get("a", now, || async { Err::<u64, _>("away") }).await;
        assert_eq!((failed, recent.lock().len()), (Err("away"), 0));
        assert_eq!(ask(&recent, "a", now, &asked).await, 1);
    }

    #[tokio::test]
    async fn no_more_keys_are_remembered_than_allowed() {
        let (recent, asked, now) = (Recent::new(SECOND, 2), AtomicU64::new(0), Instant::now());
        for (n, key) in ["a", "b", "c", "a"].into_iter().enumerate() {
            assert_eq!(ask(&recent, key, now + SECOND * n as u32 / 10, &asked).await, n as u64, "{key} is asked for");
            assert!(recent.lock().len() <= 2);
        }
        assert_eq!(ask(&recent, "c", now + SECOND / 2, &asked).await, 2, "the newer one was kept");
    }
}
