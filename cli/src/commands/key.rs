use std::time::Duration;

use anyhow::Context;
use flywheel_catalog::{CatalogError, NewSourceKey, SourceKey};
use flywheel_events::GameId;
use flywheel_ingest::Token;
use serde_json::json;

use crate::{
    Global,
    config::Config,
    exit::{Code, Failure},
    output,
    systems::not_opened,
};

/// Longest name, in characters.
const NAME_MAX: usize = 200;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a key for programs that hand in events; it is shown once
    Create {
        /// Game ids that it may write begin so, such as `arena-`; nobody else may write them then
        #[arg(long, value_name = "PREFIX")]
        source: String,
        /// What it is for, for people
        #[arg(long, value_name = "TEXT")]
        name: Option<String>,
        /// Time after which it is refused (`90d`); without it, it is good until it is revoked
        #[arg(long, value_name = "TIME", value_parser = humantime_serde::re::humantime::parse_duration)]
        expires: Option<Duration>,
    },
    /// List keys, newest first, with the last use of each
    Ls,
    /// End a key; the doors refuse it within a minute
    Revoke {
        /// Its id: the third part of the key
        id: String,
    },
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let config = Config::load(global)?;
    if !config.data.exists() {
        // Keys may be made before the first start.
        crate::data::DataDir::create(&config.data)?;
    }
    crate::data::DataDir::open(&config.data)?;
    crate::writable::check_catalog(&config)?;
    let keys = crate::systems::urls(&config).open_catalog().await.map_err(not_opened)?.source_keys();
    match command {
        Command::Create { source, name, expires } => {
            GameId::new(&source).map_err(|error| {
                Failure::msg(Code::Usage, format!("`--source {source}` cannot begin a game id: {error}"))
            })?;
            if name.as_ref().is_some_and(|name| name.chars().count() > NAME_MAX) {
                return Err(Failure::msg(Code::Usage, format!("`--name` is longer than {NAME_MAX} characters")));
            }
            let token = Token::generate().context("making a key")?;
            let now = jiff::Timestamp::now().as_millisecond();
            let expires_at_ms =
                expires.map(|time| now.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX)));
            let new = NewSourceKey {
                id: token.id().to_owned(),
                name,
                prefix: source,
                secret_sha256: token.secret_sha256(),
                expires_at_ms,
            };
            let key = keys.create(&new).await.map_err(failure)?;
            if global.json {
                let mut shown = serde_json::to_value(&key)?;
                shown["key"] = json!(token.reveal());
                crate::output::out!("{}", serde_json::to_string_pretty(&shown)?);
                return Ok(());
            }
            crate::output::out!("{}", token.reveal());
            crate::output::note!(
                "for game ids that begin with `{}`{}. It is shown this once; hand it over as FLYWHEEL_KEY, or as \
                 `Authorization: Bearer …`. `flywheel key revoke {}` ends it",
                key.prefix,
                key.expires_at_ms.map_or_else(String::new, |at| format!(", until {}", output::time(at))),
                key.id
            );
        }
        Command::Ls => {
            let all = keys.list().await.map_err(failure)?;
            let now = jiff::Timestamp::now().as_millisecond();
            let lines: Vec<_> = all
                .iter()
                .map(|key| {
                    let time = |at: Option<i64>| at.map_or_else(|| "-".to_owned(), output::time);
                    vec![
                        key.id.clone(),
                        key.prefix.clone(),
                        state(key, now).to_owned(),
                        time(key.expires_at_ms),
                        time(key.last_used_ms),
                        key.name.clone().unwrap_or_default(),
                    ]
                })
                .collect();
            output::print(global, &all, &["key", "source", "state", "expires", "last used", "name"], lines);
        }
        Command::Revoke { id } => {
            let key = keys.revoke(&id).await.map_err(failure)?;
            if global.json {
                crate::output::out!("{}", serde_json::to_string_pretty(&key)?);
            } else {
                crate::output::note!("{} is revoked; the doors of a running loop refuse it within a minute", key.id);
            }
        }
    }
    Ok(())
}

fn state(key: &SourceKey, now_ms: i64) -> &'static str {
    if key.revoked_at_ms.is_some() {
        "revoked"
    } else if key.expires_at_ms.is_some_and(|at| at <= now_ms) {
        "expired"
    } else {
        "good"
    }
}

fn failure(error: CatalogError) -> Failure {
    let code = if error.is_not_found() { Code::NotFound } else { Code::Failure };
    Failure::new(code, error).hint("`flywheel key ls` lists keys and their ids")
}
