use std::path::{Path, PathBuf};

use flywheel_ingest::evolution::changes;
use serde_json::{Value, json};

use crate::{
    Global,
    exit::{Code, Failure},
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Refuse a change that would break readers of old events or old producers
    Check(CheckArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  flywheel schema check schemas/golden/json-v1 schemas/json\n  \
                        flywheel schema check old.json new.json --json")]
pub struct CheckArgs {
    /// JSON Schema, or a folder of them, as it was
    old: PathBuf,
    /// The same as it is to be
    new: PathBuf,
}

/// A line for each change that breaks somebody; exit code 7 if there is one.
pub fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let Command::Check(CheckArgs { old, new }) = command;
    let mut found = Vec::new();
    let pairs = pairs(&old, &new)?;
    for (name, old, new) in &pairs {
        let old = read(old)?;
        match new {
            Some(new) => found.extend(changes(&old, &read(new)?).into_iter().map(|change| (name, change.to_string()))),
            None => found.push((name, "the schema was removed".to_owned())),
        }
    }
    if global.json {
        let listed: Vec<_> = found.iter().map(|(file, what)| json!({"file": file, "change": what})).collect();
        crate::output::out!("{}", json!({"compatible": found.is_empty(), "schemas": pairs.len(), "breaking": listed}));
    } else if found.is_empty() {
        crate::output::out!("compatible: {} schemas, no breaking change", pairs.len());
    } else {
        for (file, what) in &found {
            crate::output::out!("{file}: {what}");
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(Failure::msg(Code::CheckFailed, format!("{} changes are not compatible", found.len()))
        .hint("add optional fields only; what must change otherwise is an event of a new kind"))
}

/// Name, old file and new file of each schema that there was; new ones are free to be as they like.
fn pairs(old: &Path, new: &Path) -> Result<Vec<(String, PathBuf, Option<PathBuf>)>, Failure> {
    let absent = |path: &Path, error| {
        Failure::msg(Code::NotFound, format!("reading `{}`: {error}", path.display()))
            .hint("name two files or two folders: as it was, as it is to be")
    };
    for path in [old, new] {
        path.metadata().map_err(|error| absent(path, error))?;
    }
    match (old.is_dir(), new.is_dir()) {
        (false, false) => return Ok(vec![(new.display().to_string(), old.to_owned(), Some(new.to_owned()))]),
        (true, true) => {}
        _ => {
            return Err(Failure::msg(Code::Usage, "one is a folder and the other is not")
                .hint("name two files or two folders: as it was, as it is to be"));
        }
    }
    let entries = std::fs::read_dir(old).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut files: Vec<_> =
        entries.map_err(|error| absent(old, error))?.into_iter().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "json"));
    files.sort();
    if files.is_empty() {
        return Err(Failure::msg(Code::NotFound, format!("`{}` holds no schema", old.display()))
            .hint("schemas are files that end in `.json`"));
    }
    Ok(files
        .into_iter()
        .map(|file| {
            let name = file.file_name().expect("entries of a folder have names").to_string_lossy().into_owned();
            let now = new.join(&name);
            (name, file, now.exists().then_some(now))
        })
        .collect())
}

fn read(path: &Path) -> Result<Value, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::msg(Code::NotFound, format!("reading `{}`: {error}", path.display())))?;
    let schema: Value = serde_json::from_str(&text).map_err(|error| {
        Failure::msg(Code::Config, format!("`{}` is not JSON: {error}", path.display()))
            .hint("a schema is a JSON object in a file of its own")
    })?;
    if schema.is_object() {
        return Ok(schema);
    }
    Err(Failure::msg(Code::Config, format!("`{}` is no schema of an event: not a JSON object", path.display()))
        .hint("a schema is a JSON object in a file of its own"))
}
