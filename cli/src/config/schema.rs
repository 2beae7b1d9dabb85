//! The configuration told to editors (JSON Schema) and to people (a file with every setting). Both come from the
//! types: names, defaults and bounds from the fields, meanings from their doc comments.

use std::collections::BTreeMap;

use schemars::{Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::{Map, Value};

use super::Config;

/// Widest line of the template.
const WIDTH: usize = 110;

/// Where the template lies, and what it says about itself.
const HEAD: &str = "\
#:schema ../schemas/config.schema.json
# Every setting of flywheel with its default: `flywheel config template` prints this file.
#
# A configuration holds only what differs. It is read from /etc/flywheel/flywheel.toml, then ./flywheel.toml or the
# file of --config, then the environment (FLYWHEEL__UP__PORT=9090), then flags; `flywheel config show --origin`
# prints what came of it.
";

/// A length of time as people write it.
pub fn span(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": r"^\s*([0-9]+\s*(ns|nsec|us|usec|ms|msec|s|sec|seconds?|m|min|minutes?|h|hr|hours?|d|days?|weeks?)\s*)+$",
        "examples": ["250ms", "20s", "1h 30m"],
    })
}

/// The JSON Schema as text.
///
/// # Errors
/// Never for this type; the serializer's own are passed on.
pub fn document() -> Result<String, serde_json::Error> {
    Ok(serde_json::to_string_pretty(&schema())? + "\n")
}

/// The schema of a configuration file. Nothing is shared, so that every editor can follow it.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Config>().to_value();
    tidy(&mut schema);
    schema
}

/// Doc comments on one line; numbers of single precision as they were written.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if key == "description" => *text = text.replace('\n', " "),
                    _ => tidy(value),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        Value::Number(number) => {
            if let Some(wide) = number.as_f64().filter(|_| number.is_f64())
                && f64::from(wide as f32) == wide
                && let Ok(written) = (wide as f32).to_string().parse::<f64>()
            {
                *value = written.into();
            }
        }
        _ => {}
    }
}

/// A configuration file with every setting at its default, each under a comment that says what it means.
///
/// # Errors
/// Never for this type; the serializer's own are passed on.
pub fn template() -> anyhow::Result<String> {
    let meanings = meanings(&schema());
    let mut text = HEAD.to_owned();
    let mut section = String::new();
    for line in toml::to_string_pretty(&Config::default())?.lines() {
        let path = if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{name}.");
            name.to_owned()
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| is_key(key)) {
            // The first setting stands right below its section's name.
            if !text.lines().last().is_some_and(|above| above.starts_with('[')) {
                text.push('\n');
            }
            format!("{section}{key}")
        } else {
            // A further line of a list, or an empty one, which the comments bring along.
            if !line.is_empty() {
                text.push_str(line);
                text.push('\n');
            }
            continue;
        };
        if line.starts_with('[') {
            text.push('\n');
        }
        if let Some(meaning) = meanings.get(&path) {
            comment(meaning, &mut text);
        }
        text.push_str(line);
        text.push('\n');
    }
    Ok(text)
}

fn is_key(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn comment(meaning: &str, text: &mut String) {
    let mut line = String::from("#");
    for word in meaning.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}

/// What each setting means, by its path.
fn meanings(schema: &Value) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    walk(schema, "", &mut |path, property| {
        if let Some(text) = property["description"].as_str() {
            found.insert(path.to_owned(), text.to_owned());
        }
    });
    found
}

/// Every property, sections before what they hold.
fn walk(schema: &Value, prefix: &str, visit: &mut impl FnMut(&str, &Value)) {
    let none = Map::new();
    for (key, property) in schema["properties"].as_object().unwrap_or(&none) {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        visit(&path, property);
        walk(property, &path, visit);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::commands::config::flatten;

    const SCHEMA: &str = include_str!("../../../schemas/config.schema.json");
    const TEMPLATE: &str = include_str!("../../../docs/flywheel.toml");
    const COMPOSE: &str = include_str!("../../../compose/flywheel.toml");

    /// A configuration as a file would hold it.
    fn problems(schema: &Value, toml: &str) -> Vec<String> {
        let table: toml::Table = toml.parse().expect("TOML");
        let value = serde_json::to_value(table).expect("TOML fits into JSON");
        let validator = jsonschema::draft7::new(schema).expect("a schema");
        validator.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect()
    }

    #[test]
    fn the_published_schema_and_template_are_those_of_the_program() {
        assert!(SCHEMA == document().unwrap(), "run `flywheel config schema > schemas/config.schema.json`");
        assert!(TEMPLATE == template().unwrap(), "run `flywheel config template > docs/flywheel.toml`");
    }

    #[test]
    fn every_setting_that_is_shown_is_in_the_schema_and_the_other_way_round() {
        let mut shown = Vec::new();
        flatten(String::new(), &serde_json::to_value(Config::default()).unwrap(), &mut shown);
        let shown: BTreeSet<String> = shown.into_iter().map(|(key, _)| key).collect();
        let mut known = BTreeSet::new();
        walk(&schema(), "", &mut |path, property| {
            if property.get("properties").is_none() {
                known.insert(path.to_owned());
            }
        });
        assert_eq!(known, shown);
    }

    #[test]
    fn every_setting_says_what_it_means() {
        let mut silent = Vec::new();
        walk(&schema(), "", &mut |path, property| {
            if property["description"].as_str().is_none_or(|text| text.len() < 8) {
                silent.push(path.to_owned());
            }
        });
        assert_eq!(silent, Vec::<String>::new());
    }

    #[test]
    fn the_template_is_the_default_configuration_and_fits_the_schema() {
        let read: Config = toml::from_str(TEMPLATE).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), serde_json::to_value(Config::default()).unwrap());
        assert_eq!(problems(&schema(), TEMPLATE), Vec::<String>::new());
        assert!(TEMPLATE.lines().all(|line| line.len() <= 120), "lines stay readable");
    }

    #[test]
    fn the_configuration_of_the_containers_is_one_that_the_program_takes() {
        let read: Config = toml::from_str(COMPOSE).unwrap();
        read.check().unwrap();
        assert_eq!(problems(&schema(), COMPOSE), Vec::<String>::new());
        assert!(read.up.listen.is_unspecified() && !read.up.hosts.is_empty(), "others of its network reach it");
        assert!(read.play.listen.ip().is_loopback() && read.play.store_listen.ip().is_loopback());
    }

    #[test]
    fn the_schema_refuses_what_the_program_refuses() {
        let schema = schema();
        for wrong in [
            "colour = \"red\"",
            "[up]\nports = 1",
            "[up]\nport = 70000",
            "[up]\nsessions = 65",
            "[up]\ndrain = \"soon\"",
            "[up]\ndrain = 20",
            "[stream]\npartitions = 0",
            "[stream]\nreserve_share = 0.95",
            "[stream]\nreserve_share = -0.1",
            "[agent]\nepsilon = 1.5",
            "[agent]\nswap = \"never\"",
            "[train]\ndevice = \"tpu\"",
            "[play]\nopponents = [\"nobody\"]",
            "[play]\nopponents = []",
            "[play]\ntick_ms = 0",
            "[play.tank]\nplayer_label = \"bicycle\"",
        ] {
            assert_ne!(problems(&schema, wrong), Vec::<String>::new(), "{wrong}");
            let read: Result<Config, _> = toml::from_str(wrong);
            assert!(!read.is_ok_and(|config| config.check().is_ok()), "the program takes {wrong}");
        }
        for right in
            ["[up]\ndrain = \"1h 30m\"\nlisten = \"::\"\nhosts = [\"loop.lan\"]", "[train.options]\nhidden = \"64\""]
        {
            assert_eq!(problems(&schema, right), Vec::<String>::new(), "{right}");
            toml::from_str::<Config>(right).unwrap().check().unwrap();
        }
    }

    #[test]
    fn a_host_with_port_wildcard_or_space_is_refused_by_name() {
        for wrong in ["flywheel:8080", "*.lan", "", "a b", "http://x", "."] {
            let mut config = Config::default();
            config.up.hosts = vec!["fine".to_owned(), wrong.to_owned()];
            let said = config.check().unwrap_err().to_string();
            assert!(said.contains(&format!("`{wrong}`")) && !said.contains("`fine`"), "{said}");
        }
    }
}
