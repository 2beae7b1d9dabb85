//! What the dashboards and the alerts ask for is what a running loop exports: names and labels.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
};

use flywheel_it::{Loop, Scratch, get, program, wait_for};
use serde_json::Value;

/// Labels that Prometheus itself puts on a series, and those of buckets.
const OF_PROMETHEUS: &[&str] = &["instance", "job", "le"];

fn dashboards() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dashboards")
}

/// Every `expr` of a JSON document, by the place it stands in.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_str() {
                    Some(text) if key == "expr" => found.push(text.to_owned()),
                    _ => expressions(value, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

/// The queries of all panels and alerts. An alert's `expr:` stands on its line, or below it after `|-`.
fn queries() -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dashboards().join("grafana/dashboards")).expect("the dashboards").flatten() {
        let text = fs::read_to_string(entry.path()).expect("a dashboard");
        expressions(&serde_json::from_str(&text).expect("JSON"), &mut found);
    }
    let panels = found.len();
    let rules = fs::read_to_string(dashboards().join("alerts/flywheel.yaml")).expect("the rules");
    let mut lines = rules.lines();
    while let Some(line) = lines.next() {
        match line.trim().strip_prefix("expr: ") {
            Some("|-") => found.push(lines.next().expect("an expression below").trim().to_owned()),
            Some(expression) => found.push(expression.to_owned()),
            None => {}
        }
    }
    assert!(panels > 20 && found.len() > panels + 10, "{panels} panels, {} queries", found.len());
    found
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

fn metrics(query: &str) -> BTreeSet<&str> {
    words(query).filter(|word| word.starts_with("flywheel_")).collect()
}

/// Labels of selectors and of groups.
fn labels(query: &str) -> BTreeSet<&str> {
    let matched = query.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    let matched =
        matched.flat_map(|list| list.split(',')).filter_map(|pair| pair.split(['=', '!']).next()).map(str::trim);
    let grouped = query.split("by (").skip(1).filter_map(|rest| rest.split(')').next()).flat_map(words);
    matched.chain(grouped).filter(|label| !label.is_empty() && !OF_PROMETHEUS.contains(label)).collect()
}

/// Labels of each exported series' name.
fn exported(text: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, rest)) = line.split_once(['{', ' ']) else { continue };
        let labels = found.entry(name).or_default();
        labels.extend(
            rest.split('"').step_by(2).filter_map(|piece| piece.trim_start_matches([',', ' ']).strip_suffix('=')),
        );
    }
    found
}

/// What the queries want and the loop does not have.
fn missing(queries: &[String], text: &str) -> BTreeSet<String> {
    let exported = exported(text);
    let mut missing = BTreeSet::new();
    for query in queries {
        let metrics = metrics(query);
        missing.extend(metrics.iter().filter(|name| !exported.contains_key(*name)).map(|name| (*name).to_owned()));
        let known: Vec<&BTreeSet<&str>> = metrics.iter().filter_map(|name| exported.get(name)).collect();
        // A query of Prometheus' own series has none of ours.
        for label in labels(query).into_iter().filter(|_| !metrics.is_empty()) {
            if !known.iter().any(|labels| labels.contains(label)) {
                missing.insert(format!("label `{label}` in `{query}`"));
            }
        }
    }
    missing
}

/// A request that the door refuses: some counters only exist once there was a reason to count.
fn send_nonsense(url: &str) {
    let host = url.strip_prefix("http://").expect("an address");
    let mut stream = TcpStream::connect(host).expect("the door is open");
    write!(stream, "POST /v1/events HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n{{")
        .expect("the door reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the door answers");
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[test]
fn a_running_loop_exports_every_metric_and_label_that_a_panel_or_an_alert_asks_for() {
    let Some(program) = program() else { return };
    let queries = queries();
    let scratch = Scratch::new("watched");
    let mut running = Loop::start(&program, &scratch, "up", &["--sessions", "2"]);
    let url = running.ready();
    send_nonsense(&url);
    let mut last = BTreeSet::new();
    wait_for("every metric of the dashboards and alerts", || {
        let (status, text) = get(&format!("{url}/metrics")).ok()?;
        let now = missing(&queries, &text);
        if now != last {
            eprintln!("missing: {now:?}");
            last = now;
        }
        (status == 200 && last.is_empty()).then_some(())
    });
    // The same look finds what no loop has.
    let (_, text) = get(&format!("{url}/metrics")).expect("the loop answers");
    let wrong = ["rate(flywheel_lost_and_found_total[5m])", "sum by (colour) (flywheel_play_sessions)"];
    let found = missing(&wrong.map(str::to_owned), &text);
    assert!(found.contains("flywheel_lost_and_found_total") && found.len() == 2, "{found:?}");
    assert!(running.terminate().success());
}

#[test]
fn a_loop_on_every_address_answers_to_its_names_and_takes_changes_from_this_machine_alone() {
    let Some(program) = program() else { return };
    let scratch = Scratch::new("listens");
    fs::write(scratch.path().join("flywheel.toml"), "[up]\nlisten = \"0.0.0.0\"\nhosts = [\"flywheel\"]\n")
        .expect("a file");
    let mut running = Loop::start(&program, &scratch, "up", &["--sessions", "0", "--farm", "0"]);
    let url = running.ready();
    assert!(url.starts_with("http://127.0.0.1:"), "other commands find it on loopback: {url}");
    let address = url.trim_start_matches("http://");
    let status = |host: &str| -> String {
        let mut stream = TcpStream::connect(address).expect("the page is open");
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(status("flywheel:8080"), "200");
    assert_eq!(status("evil.example"), "403");
    assert!(running.said().contains("other machines"), "it says that it is open: {}", running.said());
    assert!(running.terminate().success());
}
