//! Whether a schema may become another one: what was written must stay readable, and who wrote it may go on.
//!
//! Allowed: new optional fields, a wider type or enumeration, other words. Not allowed: a field that is required and
//! was not, a field removed or renamed, a type that no longer takes what it took.

use std::{collections::BTreeSet, fmt};

use serde_json::Value;

/// One change that breaks somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Field, as a path from the event.
    pub at: String,
    pub what: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", if self.at.is_empty() { "/" } else { &self.at }, self.what)
    }
}

/// Keywords that narrow what fits, beside those that are looked into: they must stay, or go.
const NARROWING: &[&str] = &[
    "const",
    "pattern",
    "format",
    "contentEncoding",
    "minLength",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "maximum",
    "exclusiveMaximum",
    "minItems",
    "maxItems",
    "uniqueItems",
    "multipleOf",
    "minProperties",
    "maxProperties",
    "propertyNames",
    "patternProperties",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "$ref",
    "additionalProperties",
    "unevaluatedProperties",
    "dependentRequired",
    "prefixItems",
    "contains",
];

/// Every incompatible change from `old` to `new`; none means that the change is compatible.
pub fn changes(old: &Value, new: &Value) -> Vec<Change> {
    let mut found = Vec::new();
    compare(old, new, "", &mut found);
    found
}

fn compare(old: &Value, new: &Value, at: &str, found: &mut Vec<Change>) {
    let mut say = |at: &str, what: String| found.push(Change { at: at.to_owned(), what });
    if *new == Value::Bool(false) && *old != Value::Bool(false) {
        say(at, "nothing fits it any more".to_owned());
    }
    let (before, after) = (words(&old["type"]), words(&new["type"]));
    // Without `type` everything fits. Each integer is a number.
    let takes = |name: &String| after.contains(name) || (name == "integer" && after.contains("number"));
    if !after.is_empty() && (before.is_empty() || !before.iter().all(takes)) {
        say(at, format!("its type was {} and is {}", old["type"], new["type"]));
    }
    if !new["enum"].is_null() {
        let takes = |value: &Value| new["enum"].as_array().is_some_and(|values| values.contains(value));
        if !old["enum"].as_array().is_some_and(|values| values.iter().all(takes)) {
            say(at, "its values are fewer than they were".to_owned());
        }
    }
    for keyword in NARROWING {
        let (was, is) = (&old[*keyword], &new[*keyword]);
        let wider = match *keyword {
            "minLength" | "minimum" | "exclusiveMinimum" | "minItems" => is.as_f64() <= was.as_f64(),
            "maxLength" | "maximum" | "exclusiveMaximum" | "maxItems" => is.as_f64() >= was.as_f64(),
            _ => false,
        };
        if !is.is_null() && was != is && (was.is_null() || !wider) {
            say(at, format!("`{keyword}` was {was} and is {is}"));
        }
    }
    let was_required = words(&old["required"]);
    for name in words(&new["required"]).difference(&was_required) {
        say(&format!("{at}/{name}"), "it is required and was not".to_owned());
    }
    for (name, field) in old["properties"].as_object().into_iter().flatten() {
        let path = format!("{at}/{name}");
        match new["properties"].get(name) {
            Some(after) => compare(field, after, &path, found),
            None => found.push(Change { at: path, what: "it was removed or renamed".to_owned() }),
        }
    }
    if !old["items"].is_null() || !new["items"].is_null() {
        compare(&old["items"], &new["items"], &format!("{at}[]"), found);
    }
}

/// One word or several.
fn words(value: &Value) -> BTreeSet<String> {
    let many = value.as_array().map(Vec::as_slice).unwrap_or(std::slice::from_ref(value));
    many.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_compatible_changes_pass() {
        let old = json!({"type": "object", "required": ["a"], "properties": {
            "a": {"type": "integer", "minimum": 0}, "b": {"type": ["string", "null"]}, "c": {"enum": ["x", "y"]},
            "d": {"type": "array", "items": {"type": "object", "properties": {"e": {"type": "number"}}}}}});
        let with = |path: &str, value: Value| {
            let mut new = old.clone();
            *new.pointer_mut(path).unwrap() = value;
            changes(&old, &new).into_iter().map(|change| change.at).collect::<Vec<_>>()
        };
        let none: [&str; 0] = [];
        assert_eq!(with("/type", json!("object")), none);
        assert_eq!(with("/properties/a", json!({"type": "number", "description": "other words"})), none);
        assert_eq!(with("/properties/c/enum", json!(["x", "y", "z"])), none);
        assert_eq!(with("/required", json!([])), none);
        assert_eq!(with("/properties/a/minimum", json!(-1)), none);
        let mut wider = old.clone();
        wider["properties"]["f"] = json!({"type": "string"});
        assert!(changes(&old, &wider).is_empty());

        assert_eq!(with("/required", json!(["a", "b"])), ["/b"]);
        assert_eq!(with("/properties/a/type", json!("string")), ["/a"]);
        assert_eq!(with("/properties/a/minimum", json!(1)), ["/a"]);
        assert_eq!(with("/properties/b/type", json!("string")), ["/b"]);
        assert_eq!(with("/properties/c/enum", json!(["x"])), ["/c"]);
        assert_eq!(with("/properties/d/items/properties", json!({"e2": {"type": "number"}})), ["/d[]/e"]);
        assert_eq!(with("/properties/d/items/properties/e/type", json!("integer")), ["/d[]/e"]);
        assert_eq!(with("/properties/d/items", json!({"type": "string"})), ["/d[]", "/d[]/e"]);
        assert_eq!(with("/properties/b", json!(false)), ["/b"]);
        let mut closed = old.clone();
        closed["additionalProperties"] = json!(false);
        assert_eq!(changes(&old, &closed).len(), 1);
    }
}
