use flywheel_events::{BaseKey, ModelRef, ModelVersion};
use flywheel_registry::{AliasState, Registry, RegistryError};
use serde::Serialize;

use crate::{
    Global,
    config::Config,
    exit::{Code, Failure},
    output,
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List versions with their aliases
    Ls {
        /// Only this base key
        base_key: Option<String>,
    },
    /// Print the card of a version, or of the version that an alias names
    Show {
        /// `base_key@version`, or `base_key@champion`
        model: String,
    },
    /// Make a version champion
    Promote {
        /// `base_key@version`
        model: String,
        /// Refuse if the alias has moved past this revision
        #[arg(long, value_name = "REVISION")]
        expected: Option<u64>,
        /// Kept with the move
        #[arg(long, default_value = "promoted by hand")]
        reason: String,
    },
    /// Give the place of the champion back to its predecessor, or to a named version
    Rollback {
        /// Base key; may be left out when there is only one
        base_key: Option<String>,
        /// Version to go back to
        #[arg(long, value_name = "VERSION")]
        to: Option<u64>,
    },
}

#[derive(Debug, Serialize)]
struct Row {
    model: String,
    aliases: Vec<String>,
    parent: Option<u64>,
    size_bytes: u64,
    published_at_ms: i64,
    train_job_id: String,
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let config = Config::load(global)?;
    let backends = crate::systems::open_existing(&config).await?;
    let registry = &*backends.registry;
    match command {
        Command::Ls { base_key } => ls(global, registry, base_key).await,
        Command::Show { model } => {
            let model = parse(registry, &model).await?;
            let card = registry.card(&model).await.map_err(failure)?;
            crate::output::out!("{}", serde_json::to_string_pretty(&card)?);
            Ok(())
        }
        Command::Promote { model, expected, reason } => {
            let model = parse(registry, &model).await?;
            // Fetching checks hash, shapes and numbers: a version that no server could load is refused here.
            registry.fetch(&model).await.map_err(failure)?;
            let moved = registry
                .promote(&model.base_key, "champion", model.version, expected, &reason)
                .await
                .map_err(failure)?;
            said(global, &model.base_key, &moved)
        }
        Command::Rollback { base_key, to } => {
            let base_key = match base_key {
                Some(key) => base(&key)?,
                None => only_base(registry).await?,
            };
            let moved = registry.rollback(&base_key, to.map(ModelVersion)).await.map_err(failure)?;
            said(global, &base_key, &moved)
        }
    }
}

fn said(global: &Global, base_key: &BaseKey, alias: &AliasState) -> Result<(), Failure> {
    if global.json {
        crate::output::out!("{}", serde_json::to_string(alias)?);
    } else {
        let before = alias.previous.map_or_else(String::new, |version| format!(", before {version}"));
        crate::output::out!(
            "champion of {base_key} is version {}{before} (revision {})",
            alias.version,
            alias.revision
        );
    }
    Ok(())
}

async fn ls(global: &Global, registry: &Registry, base_key: Option<String>) -> Result<(), Failure> {
    let known = registry.base_keys().await.map_err(failure)?;
    let keys = match base_key {
        Some(key) => {
            let key = base(&key)?;
            if !known.contains(&key) {
                let known: Vec<_> = known.iter().map(BaseKey::as_str).collect();
                return Err(Failure::msg(Code::NotFound, format!("there is no model `{key}`"))
                    .hint(format!("known: {}", known.join(", "))));
            }
            vec![key]
        }
        None => known,
    };
    let mut rows = Vec::new();
    for key in keys {
        let mut aliases = Vec::new();
        for alias in ["champion", "candidate", "previous"] {
            if let Some(state) = registry.resolve(&key, alias).await.map_err(failure)? {
                aliases.push((state.version, alias));
            }
        }
        for card in registry.list(&key).await.map_err(failure)? {
            rows.push(Row {
                model: format!("{key}@{}", card.version),
                aliases: aliases.iter().filter(|(v, _)| *v == card.version).map(|(_, a)| (*a).to_owned()).collect(),
                parent: card.parent_version.map(|v| v.0),
                size_bytes: card.size_bytes,
                published_at_ms: card.published_at_ms,
                train_job_id: card.train_job_id,
            });
        }
    }
    let lines: Vec<_> = rows
        .iter()
        .map(|r| {
            vec![
                r.model.clone(),
                r.aliases.join(", "),
                r.parent.map_or_else(|| "-".to_owned(), |v| v.to_string()),
                output::thousands(r.size_bytes),
                output::time(r.published_at_ms),
                r.train_job_id.clone(),
            ]
        })
        .collect();
    output::print(global, &rows, &["model", "aliases", "parent", "bytes", "published", "run"], lines);
    Ok(())
}

fn base(key: &str) -> Result<BaseKey, Failure> {
    BaseKey::new(key)
        .map_err(|error| Failure::new(Code::Usage, error).hint("`flywheel model ls` lists the models there are"))
}

async fn only_base(registry: &Registry) -> Result<BaseKey, Failure> {
    let mut keys = registry.base_keys().await.map_err(failure)?;
    match (keys.pop(), keys.is_empty()) {
        (Some(key), true) => Ok(key),
        (None, _) => {
            Err(Failure::msg(Code::NotFound, "there are no models yet").hint("start the loop with `flywheel up`"))
        }
        (Some(last), false) => Err(Failure::msg(Code::Usage, "there are several base keys; name one")
            .hint(format!("known: {}, {last}", keys.iter().map(BaseKey::as_str).collect::<Vec<_>>().join(", ")))),
    }
}

/// `key@12`, `key@champion`, or `12` where there is only one base key.
async fn parse(registry: &Registry, text: &str) -> Result<ModelRef, Failure> {
    let (key, version) = match text.rsplit_once('@') {
        Some((key, version)) => (base(key)?, version),
        None => (only_base(registry).await?, text),
    };
    if let Ok(version) = version.parse() {
        return Ok(ModelRef::new(key, ModelVersion(version)));
    }
    match registry.resolve(&key, version).await.map_err(failure)? {
        Some(alias) => Ok(ModelRef::new(key, alias.version)),
        None => Err(Failure::msg(Code::NotFound, format!("`{key}` has neither a version nor an alias `{version}`"))
            .hint("`flywheel model ls` lists both")),
    }
}

/// A registry's error with the exit code that scripts act on.
pub fn failure(error: RegistryError) -> Failure {
    let (code, hint) = match &error {
        e if e.is_not_found() => (Code::NotFound, "`flywheel model ls` lists versions and aliases"),
        e if e.is_conflict() => (Code::Conflict, "`flywheel model ls` says where the aliases are now"),
        e if e.is_corrupt() => {
            (Code::CheckFailed, "restore the file from a backup, or leave the version be; no alias has moved")
        }
        _ => (Code::Failure, "is the data folder readable and writable? `flywheel doctor` looks"),
    };
    Failure::new(code, error).hint(hint)
}
