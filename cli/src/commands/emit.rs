mod batches;

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    time::{Duration, Instant},
};

use anyhow::Context;
use flywheel_ingest::Token;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde_json::{Value, json};

use self::batches::{Batch, Batches, Limits};
use crate::{
    Global,
    config::Config,
    data::DataDir,
    exit::{Code, Failure},
    output::thousands,
};

/// Bytes of one request, but for its last line; the server takes twice as many.
const BODY_BYTES: usize = 4 << 20;
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Pauses between tries grow from the first to the second.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// Where the key of this source is looked for.
const KEY_VARIABLE: &str = "FLYWHEEL_KEY";

/// Games whose last `seq` is shown at the end; with `--json` it is in each acknowledgement.
const GAMES_SHOWN: usize = 1000;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  flywheel emit < events.ndjson\n  my-game | flywheel emit --json")]
pub struct Args {
    /// Address of the server; taken from the data folder when left out
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// File that holds the key of this source; without it, FLYWHEEL_KEY is taken if it is set
    #[arg(long, value_name = "FILE")]
    key_file: Option<std::path::PathBuf>,
    /// Events of one request
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    batch: u32,
    /// Send what is there after so many milliseconds, however few it is
    #[arg(long, default_value_t = 50, value_name = "MS")]
    linger_ms: u64,
    /// Give up when the server has been away for so many seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    patience: u64,
}

/// Sends standard input to the door, in order, a batch at a time.
///
/// With `--json` each acknowledgement is a line of standard output; else, at the end, how many events were taken, how
/// durably, and the last `seq` of each game.
pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let server = Server::find(global, &args)?;
    let limits =
        Limits { lines: args.batch as usize, bytes: BODY_BYTES, linger: Duration::from_millis(args.linger_ms) };
    let mut input = Batches::of(std::io::stdin());
    let mut sent = Sent::new(global);
    let ended = loop {
        match input.next(limits).await {
            Ok(Some(batch)) => {
                if let Err(failure) = sent.through(&server, batch).await {
                    break Err(failure);
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => {
                let hint = "an event takes one line; the lines before it were sent";
                break Err(Failure::msg(Code::CheckFailed, format!("standard input: {error}")).hint(hint));
            }
        }
    };
    sent.sum_up();
    ended
}

/// What was acknowledged so far, and how it is shown.
struct Sent<'g> {
    global: &'g Global,
    bar: ProgressBar,
    accepted: u64,
    repeated: u64,
    durability: String,
    /// The last acknowledgement was one of the spool of the doors, because the log is away.
    spooled: bool,
    /// Last acknowledged `seq` of each game that is shown, and whether there are others.
    games: BTreeMap<String, u64>,
    more_games: bool,
}

impl<'g> Sent<'g> {
    fn new(global: &'g Global) -> Self {
        let shown = std::io::stderr().is_terminal() && !global.quiet;
        let bar = if shown { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{spinner} {human_pos} events acknowledged in {elapsed}{msg}");
        bar.set_style(style.expect("a valid template"));
        let (durability, games) = (String::new(), BTreeMap::new());
        Self { global, bar, accepted: 0, repeated: 0, durability, spooled: false, games, more_games: false }
    }

    /// Sends a batch until it is acknowledged; of one with a bad line, what comes before it.
    async fn through(&mut self, server: &Server, batch: Batch) -> Result<(), Failure> {
        let problem = match server.send(&batch.body, &self.bar).await? {
            Ok(ack) => return self.acknowledged(&ack),
            Err(problem) => problem,
        };
        let bad = problem["index"].as_u64().and_then(|index| usize::try_from(index).ok());
        let bad = bad.filter(|index| *index < batch.lines.len());
        if let Some(n) = bad.filter(|n| *n > 0) {
            match server.send(&batch.front(n).body, &self.bar).await? {
                Ok(ack) => self.acknowledged(&ack)?,
                Err(problem) => return Err(refused(&problem, &batch, None)),
            }
        }
        Err(refused(&problem, &batch, bad))
    }

    fn acknowledged(&mut self, ack: &Value) -> Result<(), Failure> {
        let count = |name: &str| ack[name].as_u64().with_context(|| format!("the acknowledgement says no `{name}`"));
        self.accepted += count("accepted")?;
        self.repeated += count("repeated")?;
        self.durability = ack["durability"].as_str().unwrap_or("unknown").to_owned();
        self.spooled = ack["spooled"] == true;
        if self.global.json {
            self.bar.suspend(|| crate::output::out!("{ack}"));
        } else {
            for (game, state) in ack["games"].as_object().into_iter().flatten() {
                self.came_to(game, state["last_seq"].as_u64());
                for gap in state["gaps"].as_array().into_iter().flatten() {
                    let (from, to) = (&gap["from"], &gap["to"]);
                    self.bar.suspend(|| crate::output::note!("{game}: seq {from} to {to} are missing"));
                }
            }
        }
        self.bar.set_position(self.accepted + self.repeated);
        Ok(())
    }

    fn came_to(&mut self, game: &str, last_seq: Option<u64>) {
        let Some(last_seq) = last_seq else { return };
        if let Some(last) = self.games.get_mut(game) {
            *last = last_seq;
        } else if self.games.len() < GAMES_SHOWN {
            self.games.insert(game.to_owned(), last_seq);
        } else {
            self.more_games = true;
        }
    }

    fn sum_up(&self) {
        self.bar.finish_and_clear();
        if self.global.json {
            return;
        }
        let (accepted, repeated) = (thousands(self.accepted), thousands(self.repeated));
        if self.accepted + self.repeated == 0 {
            crate::output::out!("nothing was sent");
        } else {
            crate::output::out!("{accepted} events accepted ({}), {repeated} were there already", self.durability);
            if self.spooled {
                crate::output::note!("the log is away: the last of them wait in the spool of the doors");
            }
            for (game, last_seq) in &self.games {
                crate::output::out!("{game}: last seq {last_seq}");
            }
            if self.more_games {
                crate::output::out!("these are {GAMES_SHOWN} of the games; --json names all");
            }
        }
    }
}

/// Where events go.
struct Server {
    client: reqwest::Client,
    /// As the user has named it.
    named: Option<String>,
    /// What says who sends; marked as a secret, so that nothing prints it.
    key: Option<HeaderValue>,
    data: Option<DataDir>,
    patience: Duration,
}

impl Server {
    fn find(global: &Global, args: &Args) -> Result<Self, Failure> {
        let client = reqwest::Client::builder().timeout(ANSWER).build().context("making an HTTP client")?;
        let data = match &args.url {
            Some(_) => None,
            None => Some(DataDir::open(&Config::load(global)?.data)?),
        };
        let key = key(args.key_file.as_deref())?;
        let server = Self { client, named: args.url.clone(), key, data, patience: Duration::from_secs(args.patience) };
        server.url().map(|_| server)
    }

    /// Asked for before each try: a loop that starts again may be on another port.
    fn url(&self) -> Result<reqwest::Url, Failure> {
        let base = match (&self.named, &self.data) {
            (Some(named), _) => named.clone(),
            (None, data) => {
                let data = data.as_ref().expect("without an address there is a data folder");
                data.running().map(|running| running.url).ok_or_else(|| {
                    Failure::msg(Code::NotFound, format!("no loop has run on `{}`", data.root().display()))
                        .hint("start it with `flywheel up`, or name its address with --url")
                })?
            }
        };
        let unfit = |why: String| {
            Failure::msg(Code::Usage, format!("`{base}` is no address: {why}"))
                .hint("for example --url http://127.0.0.1:8080")
        };
        let url = reqwest::Url::parse(&format!("{}/v1/events", base.trim_end_matches('/')))
            .map_err(|error| unfit(error.to_string()))?;
        if matches!(url.scheme(), "http" | "https") {
            Ok(url)
        } else {
            Err(unfit(format!("`{}` is not http", url.scheme())))
        }
    }

    /// Tries until it is answered: the acknowledgement, or what the server refused.
    async fn send(&self, body: &[u8], bar: &ProgressBar) -> Result<Result<Value, Value>, Failure> {
        let began = Instant::now();
        let mut pause = PAUSES[0];
        loop {
            let url = self.url()?;
            let request = self.client.post(url.clone()).header("content-type", "application/x-ndjson");
            let request = match &self.key {
                Some(key) => request.header(AUTHORIZATION, key.clone()),
                None => request,
            };
            let (why, after) = match request.body(body.to_vec()).send().await {
                Ok(response) => {
                    let status = response.status();
                    let after = response.headers().get("retry-after").and_then(|text| text.to_str().ok()?.parse().ok());
                    // Busy, or too slow: a proxy says so without a word of JSON.
                    let later = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
                    match response.json::<Value>().await {
                        Ok(ack) if status.is_success() => {
                            self.back(pause, bar);
                            return Ok(Ok(ack));
                        }
                        Ok(problem) if later => {
                            let why = problem["detail"].as_str().map_or_else(|| status.to_string(), str::to_owned);
                            (why, after)
                        }
                        Ok(problem) if status.is_client_error() => return Ok(Err(problem)),
                        Err(error) if later || status.is_success() => {
                            (format!("{status}: {}", error.without_url()), after)
                        }
                        _ => {
                            let problem = format!("{url} answers {status}: that is no door for events");
                            return Ok(Err(json!({ "detail": problem })));
                        }
                    }
                }
                Err(error) => (format!("{:#}", anyhow::Error::from(error.without_url())), None),
            };
            let left = self.patience.saturating_sub(began.elapsed());
            if left.is_zero() {
                let failure = Failure::msg(Code::Unreachable, format!("sending to {url}: {why}"));
                return Err(failure.hint("send the same input again later: what is there already is recognised"));
            }
            if pause == PAUSES[0] {
                tracing::warn!(why, patience_seconds = self.patience.as_secs(), "the server takes nothing; waiting");
            }
            bar.set_message(format!("; waits: {why}"));
            bar.tick();
            let asked = after.map_or(Duration::ZERO, Duration::from_secs);
            tokio::time::sleep(pause.max(asked).min(PAUSES[1]).min(left)).await;
            pause = (pause * 2).min(PAUSES[1]);
        }
    }

    fn back(&self, pause: Duration, bar: &ProgressBar) {
        bar.set_message("");
        if pause > PAUSES[0] {
            tracing::warn!("the server is back");
        }
    }
}

/// The key of this source. It is not an argument, which every user of the machine could see.
fn key(file: Option<&std::path::Path>) -> Result<Option<HeaderValue>, Failure> {
    let text = match file {
        Some(file) => std::fs::read_to_string(file)
            .with_context(|| format!("reading the key file `{}`", file.display()))
            .map_err(|error| Failure::new(Code::NotFound, error))?,
        None => std::env::var(KEY_VARIABLE).unwrap_or_default(),
    };
    if text.trim().is_empty() {
        return Ok(None);
    }
    let from = file.map_or_else(|| KEY_VARIABLE.to_owned(), |file| format!("`{}`", file.display()));
    let token: Token =
        text.trim().parse().map_err(|error| Failure::msg(Code::Usage, format!("{from} holds no key: {error}")))?;
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.reveal())).context("the key as a header")?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// `bad` is the place in the batch of the line that is to blame, if it is known.
fn refused(problem: &Value, batch: &Batch, bad: Option<usize>) -> Failure {
    let detail = problem["detail"].as_str().unwrap_or("the server gives no reason");
    let (first, last) = (batch.lines.first().map_or(0, |line| line.0), batch.lines.last().map_or(0, |line| line.0));
    let (place, hint) = match bad {
        // The server counts from 0 within the request, which nobody sees here.
        Some(bad) => (
            format!("line {}", batch.lines[bad].0),
            "the lines before it were sent, neither it nor those behind it; mend it and send the same input again: \
             what is there already is recognised",
        ),
        None => (format!("lines {first} to {last}"), "the lines before them were sent"),
    };
    let detail = detail.strip_prefix("event ").and_then(|rest| rest.split_once(": ")).map_or(detail, |(_, rest)| rest);
    let detail = detail.strip_suffix("; nothing of this request was appended").unwrap_or(detail);
    let hint = problem["hint"].as_str().map_or_else(|| hint.to_owned(), |more| format!("{more}; {hint}"));
    Failure::msg(Code::CheckFailed, format!("{place}: {detail}")).hint(hint)
}
