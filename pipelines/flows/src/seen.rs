//! Which events of which games were seen: exact, small, forgotten when old.

use std::collections::HashMap;

use ahash::RandomState;

/// At most so many separate stretches of one game; beyond it, numbers that would open another are refused.
const MAX_RANGES: usize = 4096;

/// A set of sequence numbers as stretches `first..=last`, ascending, never touching.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeqSet {
    ranges: Vec<(u64, u64)>,
}

/// What came of adding a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    New,
    Repeat,
    /// It would open one gap too many to remember.
    Refused,
}

impl SeqSet {
    pub fn insert(&mut self, seq: u64) -> Added {
        if self.goes_on(seq) { Added::New } else { self.insert_anywhere(seq) }
    }

    /// Almost always it is the next number of the last stretch. No gap comes or goes then.
    #[inline(always)]
    fn goes_on(&mut self, seq: u64) -> bool {
        match self.ranges.last_mut() {
            Some(last) if last.1.checked_add(1) == Some(seq) => {
                last.1 = seq;
                true
            }
            _ => false,
        }
    }

    fn insert_anywhere(&mut self, seq: u64) -> Added {
        let at = self.ranges.partition_point(|(_, last)| *last < seq);
        if self.ranges.get(at).is_some_and(|(first, _)| *first <= seq) {
            return Added::Repeat;
        }
        let joins_left = at > 0 && self.ranges[at - 1].1 + 1 == seq;
        let joins_right = self.ranges.get(at).is_some_and(|(first, _)| seq + 1 == *first);
        match (joins_left, joins_right) {
            (true, true) => {
                self.ranges[at - 1].1 = self.ranges[at].1;
                self.ranges.remove(at);
            }
            (true, false) => self.ranges[at - 1].1 = seq,
            (false, true) => self.ranges[at].0 = seq,
            (false, false) if self.ranges.len() >= MAX_RANGES => return Added::Refused,
            (false, false) => self.ranges.insert(at, (seq, seq)),
        }
        Added::New
    }

    pub fn contains(&self, seq: u64) -> bool {
        let at = self.ranges.partition_point(|(_, last)| *last < seq);
        self.ranges.get(at).is_some_and(|(first, _)| *first <= seq)
    }

    /// Everything below `seq`, and `seq` itself, counts as seen.
    fn fill_up_to(&mut self, seq: u64) {
        let joined = self.ranges.partition_point(|(first, _)| *first <= seq.saturating_add(1));
        let last = self.ranges[..joined].last().map_or(seq, |(_, last)| seq.max(*last));
        self.ranges.splice(..joined, [(0, last)]);
    }

    fn first(&self) -> Option<u64> {
        self.ranges.first().map(|(first, _)| *first)
    }

    /// Stretches of numbers that are missing below the highest one.
    pub fn gaps(&self) -> usize {
        match self.ranges.first() {
            None => 0,
            Some((first, _)) => self.ranges.len() - 1 + usize::from(*first > 0),
        }
    }

    /// How many numbers were seen.
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub fn highest(&self) -> Option<u64> {
        self.ranges.last().map(|(_, last)| *last)
    }
}

#[derive(Debug, Default)]
struct Game {
    seqs: SeqSet,
    last_ms: i64,
    /// Which event of the partition was its last: times may be the same for very many.
    last_event: u64,
    /// Below this, numbers count as seen without having been looked for.
    assumed_below: u64,
}

/// The recent games of one partition.
#[derive(Debug)]
pub struct Seen {
    /// Producers choose the ids, so the hash has keys of its own in every process.
    games: HashMap<Box<str>, Game, RandomState>,
    window_ms: i64,
    max_games: usize,
    now_ms: i64,
    swept_ms: i64,
    gaps: usize,
    events: u64,
}

/// What is known of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    pub added: Added,
    pub opened_gap: bool,
    /// A repeat only by assumption: it lies before what a rebuild has read, so the table has to be asked.
    pub assumed: bool,
}

impl Seen {
    pub fn new(window_ms: i64, max_games: usize) -> Self {
        Self {
            games: HashMap::default(),
            window_ms,
            max_games: max_games.max(1),
            now_ms: i64::MIN,
            swept_ms: i64::MIN,
            gaps: 0,
            events: 0,
        }
    }

    pub fn see(&mut self, game_id: &str, seq: u64, ingest_ms: i64) -> Sight {
        self.now_ms = self.now_ms.max(ingest_ms);
        self.forget();
        let game = match self.games.get_mut(game_id) {
            Some(game) => game,
            None => self.games.entry(game_id.into()).or_default(),
        };
        game.last_ms = game.last_ms.max(ingest_ms);
        self.events += 1;
        game.last_event = self.events;
        if game.seqs.goes_on(seq) {
            return Sight { added: Added::New, opened_gap: false, assumed: false };
        }
        let before = game.seqs.gaps();
        let added = game.seqs.insert_anywhere(seq);
        let after = game.seqs.gaps();
        self.gaps = self.gaps + after - before;
        let assumed = added == Added::Repeat && seq < game.assumed_below;
        Sight { added, opened_gap: after > before, assumed }
    }

    /// After a rebuild from rows of the last `window` only: what a game had before its first known number lies
    /// further back, so it counts as seen, by assumption.
    pub fn assume_older_seen(&mut self) {
        for game in self.games.values_mut() {
            if let Some(first) = game.seqs.first().filter(|first| *first > 0) {
                game.seqs.fill_up_to(first - 1);
                game.assumed_below = first;
                self.gaps -= 1;
            }
        }
    }

    pub fn games(&self) -> usize {
        self.games.len()
    }

    /// Stretches of numbers that are missing in the remembered games.
    pub fn gaps(&self) -> usize {
        self.gaps
    }

    fn forget(&mut self) {
        let due = self.now_ms.saturating_sub(self.swept_ms) >= self.window_ms / 8;
        if due {
            let oldest = self.now_ms.saturating_sub(self.window_ms);
            self.retain(|game| game.last_ms >= oldest);
            self.swept_ms = self.now_ms;
        }
        if self.games.len() >= self.max_games {
            let mut last: Vec<_> = self.games.values().map(|game| game.last_event).collect();
            let tenth = last.len() / 10;
            let (_, cut, _) = last.select_nth_unstable(tenth);
            let cut = *cut;
            self.retain(|game| game.last_event > cut);
        }
    }

    fn retain(&mut self, keep: impl Fn(&Game) -> bool) {
        let gaps = &mut self.gaps;
        self.games.retain(|_, game| {
            let kept = keep(game);
            if !kept {
                *gaps -= game.seqs.gaps();
            }
            kept
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_seq_set_is_a_set(seqs in prop::collection::vec(0u64..40, 0..120)) {
            let (mut set, mut model) = (SeqSet::default(), BTreeSet::new());
            for seq in seqs {
                let expected = if model.insert(seq) { Added::New } else { Added::Repeat };
                prop_assert_eq!(set.insert(seq), expected);
                let highest = *model.last().unwrap();
                let missing: Vec<_> = (0..highest).filter(|s| !model.contains(s)).collect();
                let gaps = missing.iter().filter(|s| **s == 0 || model.contains(&(*s - 1))).count();
                prop_assert_eq!(set.gaps(), gaps);
                prop_assert_eq!(set.count(), model.len() as u64);
                prop_assert_eq!(set.highest(), Some(highest));
                for s in 0..42 {
                    prop_assert_eq!(set.contains(s), model.contains(&s));
                }
            }
        }

        #[test]
        fn filling_up_is_adding_every_number(seqs in prop::collection::vec(0u64..30, 0..20), to in 0u64..32) {
            let (mut filled, mut added) = (SeqSet::default(), SeqSet::default());
            for seq in seqs {
                filled.insert(seq);
                added.insert(seq);
            }
            filled.fill_up_to(to);
            (0..=to).for_each(|seq| { added.insert(seq); });
            prop_assert_eq!(filled, added);
        }
    }

    #[test]
    fn too_many_gaps_are_refused_and_the_largest_number_is_no_trap() {
        let mut set = SeqSet::default();
        for n in 0..MAX_RANGES as u64 {
            assert_eq!(set.insert(n * 2), Added::New);
        }
        assert_eq!(set.insert(1_000_000), Added::Refused);
        assert_eq!(set.insert(1), Added::New);
        let mut set = SeqSet::default();
        assert_eq!(set.insert(u64::MAX), Added::New);
        assert_eq!(set.insert(u64::MAX), Added::Repeat);
        assert_eq!(set.insert(u64::MAX - 1), Added::New);
    }

    #[test]
    fn games_are_forgotten_by_the_clock_of_the_log_and_by_number() {
        let mut seen = Seen::new(1000, 10);
        seen.see("old", 0, 0);
        seen.see("new", 0, 900);
        assert_eq!(seen.see("old", 0, 950).added, Added::Repeat);
        seen.see("new", 1, 2100);
        assert_eq!(seen.games(), 1);
        for n in 0..100 {
            seen.see(&format!("g{n}"), 0, 2100 + n);
            assert!(seen.games() <= 10);
        }
        assert_eq!(seen.see("g99", 0, 2300).added, Added::Repeat);
    }

    /// As of a log whose clock stands, or was ahead once.
    #[test]
    fn only_the_longest_quiet_games_are_forgotten_also_where_all_have_the_same_time() {
        let mut seen = Seen::new(1000, 100);
        for n in 0..1000_u32 {
            seen.see(&format!("g{n}"), 0, 5);
            assert!(seen.games() <= 100);
            for before in n.saturating_sub(80)..n {
                assert!(seen.games.contains_key(format!("g{before}").as_str()), "{before} of {n}");
            }
        }
        assert_eq!(seen.see("g950", 0, 5).added, Added::Repeat);
    }
}
