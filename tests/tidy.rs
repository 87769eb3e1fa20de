//! The house rules that a compiler does not know: who may import whom, where SQL and metrics stand, that every
//! invariant is cited by code and test, sizes, bounds. Each failure names a file, a line and what to do.

#![allow(clippy::unwrap_used, reason = "a way to fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const STAGES: [&str; 4] = ["source", "ledger", "route", "sink"];
const SIDE_DOORS: [&str; 5] = ["admin", "console", "embedded", "passthrough", "simulator"];
const WIRING: [&str; 2] = ["app", "cli"];
const MAX_LINES: usize = 600;

/// A Rust file, its production lines apart from its test lines. Line numbers are kept: what belongs to the other
/// part is an empty line.
struct Source {
    /// Relative to the package: `src/sink/kafka/mod.rs`.
    path: String,
    code: Vec<String>,
    tests: Vec<String>,
}

impl Source {
    /// `["sink", "kafka"]` for `src/sink/kafka/mod.rs`.
    fn module(&self) -> Vec<&str> {
        let inside = self.path.strip_prefix("src/").unwrap_or_default().trim_end_matches(".rs");
        let mut parts: Vec<&str> = inside.split('/').collect();
        if matches!(parts.last(), Some(&("mod" | "lib" | "main"))) {
            parts.pop();
        }
        parts
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(under: &str) -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(under), &mut found);
    found.sort();
    let relative = |path: &Path| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    found.iter().map(|path| (relative(path), std::fs::read_to_string(path).unwrap())).collect()
}

/// All of `src`. Test code is what follows `#[cfg(test)] mod … {`, and the files of a `#[cfg(test)] mod …;`.
fn sources() -> Vec<Source> {
    let files = rust_files("src");
    let mut test_files = BTreeSet::new();
    for (path, text) in &files {
        let dir = match path.rsplit_once('/').unwrap() {
            (dir, "mod.rs" | "lib.rs" | "main.rs") => dir.to_owned(),
            _ => path.trim_end_matches(".rs").to_owned(),
        };
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (at, line) in lines.iter().enumerate() {
            let name = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'));
            if let Some(name) = name
                && lines[at.saturating_sub(3)..at].iter().any(|before| before.starts_with("#[cfg(test)]"))
            {
                let moved = lines[at - 1].strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]"));
                let beside = path.rsplit_once('/').unwrap().0;
                test_files.insert(moved.map_or(format!("{dir}/{name}.rs"), |file| format!("{beside}/{file}")));
                test_files.insert(format!("{dir}/{name}/"));
            }
        }
    }
    let is_test =
        |path: &str| test_files.iter().any(|test| path == test || test.ends_with('/') && path.starts_with(test));
    files
        .into_iter()
        .map(|(path, text)| {
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            let split = if is_test(&path) { 0 } else { inline_tests_begin(&lines) };
            let blank = |range: std::ops::Range<usize>| range.map(|_| String::new());
            let code = lines[..split].to_vec();
            let tests = blank(0..split).chain(lines[split..].iter().cloned()).collect();
            Source { path, code, tests }
        })
        .collect()
}

fn inline_tests_begin(lines: &[String]) -> usize {
    let begins = |at: &usize| {
        lines[*at].trim() == "#[cfg(test)]"
            && lines[at + 1..].iter().take(3).any(|line| line.starts_with("mod ") && line.ends_with('{'))
    };
    (0..lines.len()).find(begins).unwrap_or(lines.len())
}

/// The line without a comment at its end (or nothing but one), so that words in comments break no rule.
fn without_comment(line: &str) -> &str {
    line.find("//").filter(|at| !line[..*at].ends_with(':')).map_or(line, |at| &line[..at])
}

/// Top-level modules of ours that a file mentions, with line numbers.
fn imports(module: &[&str], lines: &[String]) -> Vec<(usize, String)> {
    // One text with line starts, because `use crate::{…}` may span lines.
    let mut text = String::new();
    let mut starts = Vec::new();
    for line in lines {
        starts.push(text.len());
        text.push_str(without_comment(line));
        text.push('\n');
    }
    let line_of = |at: usize| starts.partition_point(|start| *start <= at);
    let ident =
        |from: usize| -> String { text[from..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let to_root = "super::".repeat(module.len());
    let mut found = Vec::new();
    for prefix in ["crate::", to_root.as_str()] {
        if prefix.is_empty() {
            continue;
        }
        for (at, _) in text.match_indices(prefix) {
            let from = at + prefix.len();
            if !text[from..].starts_with('{') {
                found.push((line_of(at), ident(from)));
                continue;
            }
            let mut depth = 0;
            for (offset, c) in text[from..].char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                let previous = text[..from + offset].trim_end().chars().last();
                if depth == 1 && c.is_alphabetic() && matches!(previous, Some('{' | ',')) {
                    found.push((line_of(from + offset), ident(from + offset)));
                }
                if depth == 0 {
                    break;
                }
            }
        }
    }
    found
}

/// Fails with all complaints at once.
fn judge(complaints: &[String], rule: &str) {
    let mut text = String::new();
    for complaint in complaints {
        writeln!(text, "  {complaint}").unwrap();
    }
    assert!(complaints.is_empty(), "{rule}\n{text}");
}

#[test]
fn stages_meet_in_event_and_only_app_connects_them() {
    let ours: BTreeSet<String> = sources().iter().filter_map(|s| s.module().first().map(ToString::to_string)).collect();
    let forbidden = |module: &str| -> Vec<&str> {
        let mut not: Vec<&str> = Vec::new();
        if module == "event" {
            return ours.iter().map(String::as_str).filter(|other| *other != "event").collect();
        }
        if WIRING.contains(&module) {
            return not;
        }
        let side_door = SIDE_DOORS.contains(&module);
        // The console and the admin API read the ledger; nothing else knows a stage.
        not.extend(
            STAGES
                .iter()
                .filter(|stage| **stage != module && !(**stage == "ledger" && ["admin", "console"].contains(&module))),
        );
        not.extend(SIDE_DOORS.iter().filter(|door| **door != module && !side_door));
        not.push("cli");
        if !side_door {
            not.push("app");
        }
        not
    };
    let mut complaints = Vec::new();
    for source in sources() {
        let module = source.module();
        let Some(first) = module.first() else { continue };
        let not = forbidden(first);
        let both = imports(&module, &source.code).into_iter().map(|found| (found, false));
        for ((line, name), test) in both.chain(imports(&module, &source.tests).into_iter().map(|found| (found, true))) {
            let excused = test && ["simulator", "embedded"].contains(&name.as_str());
            if not.contains(&name.as_str()) && !excused {
                complaints.push(format!(
                    "{}:{line}: `{first}` imports `{name}`: put what both need into `event`, or wire them in `app`",
                    source.path
                ));
            }
        }
    }
    judge(&complaints, "the direction of imports (ARCHITECTURE.md)");
}

#[test]
fn the_two_sinks_know_nothing_of_each_other() {
    let mut complaints = Vec::new();
    for source in sources() {
        for (mine, other) in [("kafka", "webhook"), ("webhook", "kafka")] {
            if !source.path.starts_with(&format!("src/sink/{mine}")) {
                continue;
            }
            for (at, line) in source.code.iter().chain(&source.tests).enumerate() {
                if [format!("sink::{other}"), format!("super::{other}::")].iter().any(|path| line.contains(path)) {
                    complaints.push(format!("{}:{}: {mine} uses {other}: share it in src/sink", source.path, at + 1));
                }
            }
        }
    }
    judge(&complaints, "sinks are apart");
}

#[test]
fn sql_stands_in_the_ledger_alone() {
    const WORDS: [&str; 9] = [
        "sqlx::query",
        "sqlx::raw_sql",
        "query!(",
        "query_as!(",
        "query_scalar!(",
        "\"SELECT ",
        "\"INSERT INTO ",
        "\"DELETE FROM ",
        "\"UPDATE ",
    ];
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|source| !source.path.starts_with("src/ledger/")) {
        for (at, line) in source.code.iter().enumerate() {
            if let Some(word) = WORDS.iter().find(|word| without_comment(line).contains(**word)) {
                complaints.push(format!("{}:{}: `{word}`: move the statement to src/ledger", source.path, at + 1));
            }
        }
    }
    judge(&complaints, "SQL stands in src/ledger and migrations alone");
}

/// The invariants that a text cites, as `INV-7` or in a test's name as `inv_7`.
fn cited(text: &str) -> Vec<u32> {
    ["INV-", "_inv_"]
        .iter()
        .flat_map(|word| text.match_indices(word).map(|(at, _)| at + word.len()))
        .filter_map(|at| text[at..].chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok())
        .collect()
}

#[test]
fn every_invariant_is_cited_in_code_and_in_a_test_and_none_is_cited_that_is_not_listed() {
    let architecture = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let listed: BTreeSet<u32> =
        architecture.lines().filter(|line| line.starts_with("| INV-")).flat_map(|line| cited(&line[..9])).collect();
    assert!(!listed.is_empty(), "ARCHITECTURE.md lists no invariants as `| INV-n | … |`");
    let mut in_code: BTreeMap<u32, String> = BTreeMap::new();
    let mut in_tests = in_code.clone();
    let mut complaints = Vec::new();
    let mut note = |path: &str, lines: &[String], kind: &mut BTreeMap<u32, String>| {
        for (at, line) in lines.iter().enumerate() {
            for number in cited(line) {
                let place = format!("{path}:{}", at + 1);
                if !listed.contains(&number) {
                    complaints.push(format!("{place}: INV-{number} is not in ARCHITECTURE.md: correct it, or list it"));
                }
                kind.insert(number, place);
            }
        }
    };
    for source in sources() {
        note(&source.path, &source.code, &mut in_code);
        note(&source.path, &source.tests, &mut in_tests);
    }
    for (path, text) in rust_files("tests").into_iter().filter(|(path, _)| path != "tests/tidy.rs") {
        note(&path, &text.lines().map(str::to_owned).collect::<Vec<_>>(), &mut in_tests);
    }
    for number in &listed {
        if !in_code.contains_key(number) {
            complaints.push(format!("ARCHITECTURE.md: INV-{number}: cite it in src, in the code that upholds it"));
        }
        if !in_tests.contains_key(number) {
            complaints.push(format!("ARCHITECTURE.md: INV-{number}: cite it in a test that proves it"));
        }
    }
    judge(&complaints, "invariants, code and tests belong together");
}

/// The tests that a text's comments put under a lesson (`/// Field 5: …`), each with its place: path, number, function.
fn lessons_learnt(path: &str, lines: &[String]) -> Vec<(String, u32, String)> {
    let number = |line: &str| -> Option<u32> {
        let rest = line.trim().strip_prefix("/// Field ")?;
        rest.split_once(':')?.0.parse().ok()
    };
    let named = |line: &String| -> Option<String> {
        let rest = line.trim().trim_start_matches("async ").strip_prefix("fn ")?;
        rest.split_once('(').map(|(name, _)| name.to_owned())
    };
    let cited = lines.iter().enumerate().filter_map(|(at, line)| Some((at, number(line)?)));
    cited
        .map(|(at, number)| {
            let function = lines[at..].iter().take(8).find_map(named).unwrap_or_default();
            (format!("{path}:{}", at + 1), number, function)
        })
        .collect()
}

#[test]
fn every_lesson_of_the_field_has_a_test_that_says_so() {
    const LESSONS: u32 = 13;
    let architecture = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut listed: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    for row in architecture.lines().filter_map(|line| line.strip_prefix("| field ")) {
        let (number, rest) = row.split_once(" | ").unwrap();
        let tests = rest.rsplit_once(" | ").unwrap().1.split('`').skip(1).step_by(2).map(str::to_owned);
        listed.entry(number.parse().unwrap()).or_default().extend(tests);
    }
    let mut complaints = Vec::new();
    let mut learnt: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    let in_src = sources().into_iter().map(|source| (source.path, source.tests));
    let in_tests = rust_files("tests").into_iter();
    let in_tests = in_tests.map(|(path, text)| (path, text.lines().map(str::to_owned).collect()));
    for (place, number, function) in in_src.chain(in_tests).flat_map(|(path, lines)| lessons_learnt(&path, &lines)) {
        if !listed.get(&number).is_some_and(|tests| tests.contains(&function)) {
            complaints.push(format!("{place}: ARCHITECTURE.md does not name `{function}` under field {number}"));
        }
        learnt.entry(number).or_default().insert(function);
    }
    for number in 1..=LESSONS {
        let (listed, learnt) = (listed.remove(&number).unwrap_or_default(), learnt.remove(&number).unwrap_or_default());
        if listed.is_empty() {
            complaints.push(format!("ARCHITECTURE.md: field {number} has no row, or no test in it"));
        }
        for test in listed.difference(&learnt) {
            complaints.push(format!("ARCHITECTURE.md: field {number}: no test `{test}` says `/// Field {number}: …`"));
        }
    }
    for number in listed.keys() {
        complaints.push(format!("ARCHITECTURE.md: field {number}: there are {LESSONS} lessons"));
    }
    judge(&complaints, "lessons and tests belong together");
}

/// Field 6: a transactional call that may wait for ever holds its thread for ever.
#[test]
fn no_call_of_the_kafka_client_waits_without_an_end() {
    const CALLS: [&str; 4] = [".init_transactions(", ".commit_transaction(", ".abort_transaction(", ".flush("];
    let mut complaints = Vec::new();
    let mut calls = 0;
    for source in sources().iter().filter(|source| source.path.starts_with("src/sink/kafka/")) {
        for (at, line) in source.code.iter().enumerate().map(|(at, line)| (at, without_comment(line))) {
            let constant = |limit: &str| limit.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
            let bounded = |call: &str| {
                let limit = line.split_once(call).and_then(|(_, rest)| rest.split_once(')'));
                limit.is_some_and(|(limit, _)| constant(limit))
            };
            calls += CALLS.iter().filter(|call| line.contains(**call)).count();
            if line.contains("Timeout::Never") || CALLS.iter().any(|call| line.contains(call) && !bounded(call)) {
                complaints.push(format!("{}:{}: give the call a constant for its limit", source.path, at + 1));
            }
        }
    }
    assert!(calls >= 2, "the calls are spelled in another way: mend this test");
    judge(&complaints, "every transactional call has a deadline");
}

#[test]
fn metrics_are_declared_in_one_module() {
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|source| source.path != "src/telemetry/metrics.rs") {
        for (at, line) in source.code.iter().enumerate() {
            let line = without_comment(line);
            let named = ["counter!(\"", "gauge!(\"", "histogram!(\""].iter().any(|call| line.contains(call));
            if named || line.contains("\"standpipe_") {
                complaints.push(format!("{}:{}: use a constant of telemetry::metrics", source.path, at + 1));
            }
        }
    }
    judge(&complaints, "metrics are declared in src/telemetry/metrics.rs alone");
}

/// A failpoint that nobody arms guards nothing.
#[test]
fn every_failpoint_is_listed_stands_once_and_is_armed_by_a_test() {
    let quoted = |text: &str, before: &str| -> Vec<String> {
        let names = text.split(before).skip(1).filter_map(|rest| rest.strip_prefix('"')?.split('"').next());
        names.filter(|name| name.contains("::")).map(str::to_owned).collect()
    };
    let mut listed = BTreeSet::new();
    let mut standing: Vec<String> = Vec::new();
    for source in sources() {
        let code = source.code.join("\n");
        if source.path == "src/failpoints.rs" {
            let list = code.split("ALL: &[&str] = &[").nth(1).unwrap().split("];").next().unwrap();
            listed.extend(quoted(list, "\n    "));
        } else {
            standing.extend(quoted(&code, "fail_point!("));
            standing.extend(quoted(&code, "failpoint("));
        }
    }
    let mut complaints = Vec::new();
    let tests: String = rust_files("tests").into_iter().map(|(_, text)| text).collect();
    for name in &listed {
        if !tests.contains(&format!("\"{name}\"")) {
            complaints.push(format!("{name} is armed by no test"));
        }
        if standing.iter().filter(|other| *other == name).count() != 1 {
            complaints.push(format!("{name} is listed in src/failpoints.rs and does not stand in exactly one place"));
        }
    }
    let unlisted = standing.iter().filter(|name| !listed.contains(*name));
    complaints.extend(unlisted.map(|name| format!("{name} is not listed in src/failpoints.rs")));
    if listed.len() < 25 {
        complaints.push(format!("there are only {} failpoints", listed.len()));
    }
    judge(&complaints, "failpoints");
}

#[test]
fn a_file_fits_in_a_head() {
    let mut complaints = Vec::new();
    for (path, text) in rust_files("src").into_iter().chain(rust_files("tests")) {
        let lines = text.lines().count();
        if lines > MAX_LINES {
            complaints.push(format!("{path}:{lines}: over {MAX_LINES} lines: split it by what it is about"));
        }
    }
    judge(&complaints, "files are short");
}

#[test]
fn every_channel_has_a_bound_and_every_task_an_owner() {
    const WORDS: [(&str, &str); 5] = [
        ("unbounded_channel", "use tokio::sync::mpsc::channel with a bound (INV-11)"),
        ("mpsc::unbounded", "use a channel with a bound (INV-11)"),
        ("UnboundedSender", "use a channel with a bound (INV-11)"),
        ("std::sync::mpsc::channel", "use sync_channel with a bound (INV-11)"),
        ("tokio::spawn(", "use app::tasks::Tasks or a JoinSet, so that it has an owner (INV-17)"),
    ];
    let mut complaints = Vec::new();
    for source in sources() {
        for (at, line) in source.code.iter().enumerate() {
            for (word, instead) in WORDS {
                // A handle that is kept can be awaited and aborted.
                let kept = word == "tokio::spawn(" && line.contains("let ");
                if without_comment(line).contains(word) && !kept {
                    complaints.push(format!("{}:{}: `{word}`: {instead}", source.path, at + 1));
                }
            }
        }
    }
    judge(&complaints, "bounds and owners");
}

#[test]
fn tests_wait_on_a_state_and_are_never_left_out() {
    let mut complaints = Vec::new();
    let ours = ["tests/support/wait.rs", "tests/tidy.rs"];
    for (path, text) in rust_files("tests").into_iter().filter(|(path, _)| !ours.contains(&path.as_str())) {
        for (at, line) in text.lines().enumerate() {
            if ["::sleep(", "sleep(Duration"].iter().any(|call| without_comment(line).contains(call)) {
                complaints.push(format!("{path}:{}: a sleep: use support::wait::wait_until", at + 1));
            }
        }
    }
    let in_src = sources().into_iter().map(|source| (source.path, source.tests.join("\n")));
    for (path, text) in in_src.chain(rust_files("tests")).filter(|(path, _)| path != "tests/tidy.rs") {
        for (at, line) in text.lines().enumerate() {
            if line.trim().starts_with("#[ignore") {
                complaints.push(format!("{path}:{}: an ignored test proves nothing: mend or remove it", at + 1));
            }
        }
    }
    judge(&complaints, "tests wait on a state with a deadline, and run");
}

#[test]
fn paths_that_the_documents_name_exist() {
    const DIRECTORIES: [&str; 7] = ["src/", "tests/", "config/", "deploy/", "migrations/", "benches/", ".ci/"];
    let mut complaints = Vec::new();
    for document in ["ARCHITECTURE.md", "README.md"] {
        let Ok(text) = std::fs::read_to_string(root().join(document)) else { continue };
        for (at, line) in text.lines().enumerate() {
            let quoted = line.split('`').skip(1).step_by(2).flat_map(str::split_whitespace);
            let linked = line.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
            for path in quoted.chain(linked.filter(|link| !link.contains("://") && !link.is_empty())) {
                let path = path.trim_start_matches("./").trim_end_matches([',', '.', ':']);
                let is_link = line.contains(&format!("]({path}"));
                let is_path = DIRECTORIES.iter().any(|dir| path.starts_with(dir));
                let is_pattern = path.contains(['*', '{', '<', '…']);
                if (is_link || is_path) && !is_pattern && !root().join(path).exists() {
                    complaints.push(format!("{document}:{}: `{path}` does not exist", at + 1));
                }
            }
        }
    }
    judge(&complaints, "documents name what is there");
}
