//! One live line for each stage on a terminal; plain lines, now and then, in a pipe.

use std::{io::IsTerminal, time::Duration};

use flywheel_control::{Degraded, LoopStatus, StageState};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Time between two blocks of plain lines.
pub const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Where the state is shown.
#[derive(Debug)]
pub enum StatusLine {
    Quiet,
    Plain,
    Live { _all: MultiProgress, head: ProgressBar, stages: Vec<ProgressBar> },
}

impl StatusLine {
    pub fn new(quiet: bool) -> Self {
        if quiet {
            return Self::Quiet;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Plain;
        }
        let all = MultiProgress::new();
        let style = ProgressStyle::with_template("{msg}").expect("a template without variables that could be wrong");
        let bar = || all.add(ProgressBar::new_spinner().with_style(style.clone()));
        let (head, stages) = (bar(), (0..6).map(|_| bar()).collect());
        Self::Live { _all: all, head, stages }
    }

    /// Time between two calls of [`StatusLine::show`].
    pub fn interval(&self) -> Duration {
        match self {
            Self::Live { .. } => Duration::from_millis(500),
            _ => PLAIN_EVERY,
        }
    }

    pub fn show(&self, status: &LoopStatus) {
        match self {
            Self::Quiet => {}
            Self::Plain => {
                crate::output::note!("{}", head_line(status));
                degraded_lines(status).iter().for_each(|line| crate::output::note!("{line}"));
                stage_lines(status).iter().for_each(|line| crate::output::note!("{line}"));
            }
            Self::Live { head, stages, .. } => {
                let lines: Vec<_> = std::iter::once(head_line(status)).chain(degraded_lines(status)).collect();
                head.set_message(lines.join("\n"));
                stages.iter().zip(stage_lines(status)).for_each(|(bar, line)| bar.set_message(line));
            }
        }
    }

    pub fn finish(&self) {
        if let Self::Live { head, stages, .. } = self {
            head.finish();
            stages.iter().for_each(ProgressBar::finish);
        }
    }
}

fn head_line(status: &LoopStatus) -> String {
    let champion = status.champion.as_ref().map_or_else(
        || "no champion yet".to_owned(),
        |champion| {
            let scores: Vec<_> =
                champion.scores.iter().map(|s| format!("{} {:.0} %", s.opponent, s.score * 100.0)).collect();
            format!("champion {} ({})", champion.version, scores.join(", "))
        },
    );
    format!("{:>6.0} s  {champion}", status.seconds)
}

/// One line for each thing that the loop does without.
fn degraded_lines(status: &LoopStatus) -> Vec<String> {
    let line = |degraded: &Degraded| {
        let seconds = (status.now_ms - degraded.since_ms).max(0) / 1000;
        let (what, why) = (degraded.what.as_str(), &degraded.why);
        format!("  ! {what:<7} for {seconds} s: {why} · {}", degraded.meanwhile)
    };
    status.degraded.iter().map(line).collect()
}

fn stage_lines(status: &LoopStatus) -> Vec<String> {
    status
        .stages
        .iter()
        .map(|stage| {
            let mark = match stage.state {
                StageState::Running => "●",
                StageState::Waiting => "○",
                StageState::Stopped => "■",
                StageState::Failed => "✗",
            };
            let rate = stage.rate.map_or_else(String::new, |rate| format!("{rate:.0} {}", stage.rate_unit));
            let lag = stage.lag.map_or_else(String::new, |lag| format!("lag {lag:.0} {}", stage.lag_unit));
            let why = stage.why_waiting.as_ref().map_or_else(String::new, |why| format!("waits: {why}"));
            let parts: Vec<_> =
                [rate, lag, stage.line.clone(), why].into_iter().filter(|part| !part.is_empty()).collect();
            format!("  {mark} {:<7} {}", stage.name.as_str(), parts.join(" · "))
        })
        .collect()
}
