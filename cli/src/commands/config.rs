use crate::{
    Global,
    config::{Config, figment, schema},
    exit::Failure,
    output,
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print the resolved configuration as TOML
    Show {
        /// Say for each value where it came from
        #[arg(long)]
        origin: bool,
    },
    /// Print the JSON Schema of the configuration, for editors
    Schema,
    /// Print a configuration file with every setting, its default and what it means
    Template,
}

pub fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let origin = match command {
        Command::Show { origin } => origin,
        Command::Schema => {
            output::raw(schema::document()?.as_bytes());
            return Ok(());
        }
        Command::Template => {
            output::raw(schema::template()?.as_bytes());
            return Ok(());
        }
    };
    let config = Config::load(global)?;
    if !origin {
        if global.json {
            crate::output::out!("{}", serde_json::to_string_pretty(&config)?);
        } else {
            output::raw(toml::to_string_pretty(&config)?.as_bytes());
        }
        return Ok(());
    }
    let figment = figment(global)?;
    let mut rows = Vec::new();
    flatten(String::new(), &serde_json::to_value(&config)?, &mut rows);
    let rows: Vec<Row> = rows
        .into_iter()
        .map(|(key, value)| {
            let origin = figment.find_metadata(&key).map_or_else(
                || "default".to_owned(),
                |metadata| match &metadata.source {
                    Some(source) => source.to_string(),
                    None if metadata.name.contains("Config") => "default".to_owned(),
                    None => metadata.name.to_string(),
                },
            );
            Row { key, value, origin: if origin.contains(".rs:") { "default".to_owned() } else { origin } }
        })
        .collect();
    let lines: Vec<Vec<String>> =
        rows.iter().map(|row| vec![row.key.clone(), row.value.to_string(), row.origin.clone()]).collect();
    output::print(global, &rows, &["key", "value", "from"], lines);
    Ok(())
}

#[derive(Debug, serde::Serialize)]
struct Row {
    key: String,
    value: serde_json::Value,
    origin: String,
}

pub(crate) fn flatten(prefix: String, value: &serde_json::Value, out: &mut Vec<(String, serde_json::Value)>) {
    match value {
        serde_json::Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(name, value, out);
            }
        }
        leaf => out.push((prefix, leaf.clone())),
    }
}
