//! As much of PromQL as it takes to see which series an expression asks for; `promtool` knows the rest.

/// Words that take a list of labels.
const LABEL_LISTS: &[&str] = &["by", "without", "on", "ignoring", "group_left", "group_right"];
const WORDS: &[&str] = &["and", "or", "unless", "bool", "offset", "inf", "nan", "atan2"];

/// One selector of series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub metric: String,
    /// The function whose first argument it is.
    pub inside: Option<String>,
    /// Whether it is a range, such as `[5m]`.
    pub ranged: bool,
}

/// Every selector of `expression`, in order.
pub fn asked(expression: &str) -> Result<Vec<Asked>, String> {
    let chars: Vec<char> = expression.chars().collect();
    let (mut at, mut depth) = (0, 0_i32);
    let mut found: Vec<Asked> = Vec::new();
    // What was read just before: a function and its bracket, or nothing of the kind.
    let mut function: Option<String> = None;
    while at < chars.len() {
        let c = chars[at];
        if c.is_whitespace() {
            at += 1;
            continue;
        }
        let before = function.take();
        match c {
            '"' | '\'' => at = closing(&chars, at, c)?,
            '{' | '[' => {
                if c == '['
                    && let Some(last) = found.last_mut()
                {
                    last.ranged = true;
                }
                at = closing(&chars, at, if c == '{' { '}' } else { ']' })?;
            }
            '(' => {
                depth += 1;
                at += 1;
            }
            ')' => {
                depth -= 1;
                at += 1;
                if depth < 0 {
                    return Err("a bracket closes that was not opened".to_owned());
                }
            }
            '0'..='9' | '.' => {
                while at < chars.len() && (chars[at].is_ascii_alphanumeric() || chars[at] == '.') {
                    at += 1;
                }
            }
            c if is_word(c) => {
                let start = at;
                while at < chars.len() && is_word(chars[at]) {
                    at += 1;
                }
                let word: String = chars[start..at].iter().collect();
                let next = chars[at..].iter().position(|c| !c.is_whitespace()).map(|skip| at + skip);
                let opens = next.is_some_and(|next| chars[next] == '(');
                if LABEL_LISTS.contains(&word.as_str()) {
                    if let Some(next) = next.filter(|_| opens) {
                        at = closing(&chars, next, ')')?;
                    }
                } else if next.is_some_and(|next| is_grouping(&chars[next..])) {
                    // `sum by (stage) (…)`: what it adds up stands behind its labels.
                } else if opens {
                    function = Some(word);
                    at = next.map_or(at, |next| next + 1);
                    depth += 1;
                } else if !WORDS.contains(&word.to_ascii_lowercase().as_str()) {
                    found.push(Asked { metric: word, inside: before, ranged: false });
                }
            }
            _ => at += 1,
        }
    }
    if depth != 0 {
        return Err("a bracket is open at its end".to_owned());
    }
    Ok(found)
}

/// Whether the labels of an aggregation come next.
fn is_grouping(rest: &[char]) -> bool {
    let word: String = rest.iter().take_while(|c| is_word(**c)).collect();
    word == "by" || word == "without"
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// Behind the `close` that belongs to what opens at `at`; strings may hold anything.
fn closing(chars: &[char], at: usize, close: char) -> Result<usize, String> {
    let mut index = at + 1;
    while index < chars.len() {
        match chars[index] {
            '\\' if close == '"' || close == '\'' => index += 1,
            c if c == close => return Ok(index + 1),
            quote @ ('"' | '\'') => index = closing(chars, index, quote)? - 1,
            _ => {}
        }
        index += 1;
    }
    Err(format!("`{}` is open at its end", chars[at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(expression: &str) -> Vec<String> {
        let show = |asked: Asked| {
            format!(
                "{}{}{}",
                asked.inside.map_or(String::new(), |f| f + " "),
                asked.metric,
                if asked.ranged { "[]" } else { "" }
            )
        };
        asked(expression).unwrap().into_iter().map(show).collect()
    }

    #[test]
    fn metrics_are_told_from_functions_labels_words_and_strings() {
        assert_eq!(
            names(
                r#"histogram_quantile(0.99, sum by (le, table) (rate(flywheel_x_seconds_bucket{table="a}b",q=~"x|y"}[5m]))) > 1e3"#
            ),
            ["rate flywheel_x_seconds_bucket[]"]
        );
        assert_eq!(
            names(
                "max(flywheel_a) by (stage) - on(job) group_left() flywheel_b offset 5m and up == 0 or absent(flywheel_c)"
            ),
            ["max flywheel_a", "flywheel_b", "up", "absent flywheel_c"]
        );
        assert_eq!(names("increase(flywheel_n_total[$__rate_interval]) > bool 0"), ["increase flywheel_n_total[]"]);
        assert_eq!(names("2 * (flywheel_a)"), ["flywheel_a"]);
    }

    #[test]
    fn what_does_not_close_is_an_error() {
        for wrong in ["sum(a", "a)", "a{b=\"c\"", "rate(a[5m)", "a{b=\"c}"] {
            assert!(asked(wrong).is_err(), "{wrong}");
        }
    }
}
