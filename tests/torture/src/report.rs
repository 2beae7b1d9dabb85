use serde::Serialize;

pub use crate::check::Lost;
use crate::{book::Tally, check::Verdict, cut::Undone, oracle::Opinion};

/// What a run did, and what it found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    pub ok: bool,
    pub seed: u64,
    pub log: String,
    /// Where the tables lay, if not in the folder of the run.
    pub store: Option<String>,
    /// Weakest durability that an acknowledgement named.
    pub durability: String,
    pub seconds: f64,
    /// Log and store also failed and were slow.
    pub faults: bool,
    pub kills: u32,
    pub cuts: u32,
    /// From the start of the process until its doors were open.
    pub restart_p50_ms: u64,
    pub restart_max_ms: u64,
    pub games: u64,
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Sent, and without an answer at the end.
    pub unanswered: u64,
    #[serde(flatten)]
    pub tally: Tally,
    /// What the cuts took back.
    pub undone: Undone,
    /// What other readers of the table found, and why none was asked.
    pub opinion: Option<Opinion>,
    pub no_opinion: Option<String>,
    /// Why the run could not go on, if it could not.
    pub broken: Option<String>,
}

impl Report {
    /// Nothing lost, doubled or out of order, and the run came to its end.
    pub fn judge(&mut self) {
        let v = &self.verdict;
        self.ok = self.broken.is_none()
            && v.acknowledged > 0
            && v.lost == Lost::default()
            && self.opinion.as_ref().is_none_or(|opinion| opinion.differs(v).is_none())
            && v.doubled + v.out_of_order + v.changed + v.invented + v.dead_letters + self.unanswered == 0;
    }

    /// The whole report as lines for people.
    pub fn text(&self) -> String {
        let (v, t) = (&self.verdict, &self.tally);
        let mut lines = vec![
            format!(
                "{} kills, {} power cuts of {}{}{} in {:.0} s, seed {}; up again in {} ms (median), {} ms at most",
                self.kills,
                self.cuts,
                self.log,
                self.store.as_ref().map_or_else(String::new, |store| format!(" and {store}")),
                if self.faults { " with faults" } else { "" },
                self.seconds,
                self.seed,
                self.restart_p50_ms,
                self.restart_max_ms
            ),
            format!(
                "{} requests: {} sent again, {} dropped, {} refused, {} spooled; {} duplicates, {} swapped and {} shuffled batches \
                 on purpose",
                t.requests, t.retries, t.dropped, t.refused, t.spooled, t.duplicates, t.swapped, t.shuffled
            ),
        ];
        if self.cuts > 0 {
            let u = &self.undone;
            lines.push(format!("the cuts took back {} bytes of {} files, and {} names", u.bytes, u.files, u.names));
        }
        lines.push(format!(
            "{} events acknowledged ({}) in {} games, {} in the table, {} lost ({} of them promised durable), {} doubled, \
             {} out of order",
            v.acknowledged,
            self.durability,
            self.games,
            v.in_table,
            v.lost.durable + v.lost.memory,
            v.lost.durable,
            v.doubled,
            v.out_of_order
        ));
        if v.changed + v.invented + v.dead_letters + self.unanswered > 0 {
            lines.push(format!(
                "{} changed, {} invented, {} dead letters, {} never answered",
                v.changed, v.invented, v.dead_letters, self.unanswered
            ));
        }
        match (&self.opinion, &self.no_opinion) {
            (Some(opinion), _) => lines.push(match opinion.differs(v) {
                None => format!(
                    "{} agree: {} rows, {} distinct events, order by partition and offset",
                    opinion.reader, opinion.rows, opinion.distinct
                ),
                Some(how) => format!("the readers disagree: {how}"),
            }),
            (None, Some(why)) => lines.push(format!("no second reader was asked: {why}")),
            (None, None) => {}
        }
        lines.extend(v.findings.iter().map(|finding| format!("  {finding}")));
        lines.extend(self.broken.iter().map(|why| format!("the run broke off: {why}")));
        lines.join("\n")
    }
}
