//! The rules that the compiler does not hold: which module may use which, where `unsafe`, candle and anyhow
//! may appear, how long a file or a function may be, and what must not stand in any tracked file.
//!
//! The table of modules in `src/lib.rs` is read here, so that it is the one source of truth. Every rule is a
//! function from the tree's texts to complaints; a second test plants a violation of each and sees it found.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "architecture/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use regex::Regex;
use source::Source;

/// Tracked files by path from the root.
type Tree = BTreeMap<String, String>;

/// From the tree to what is wrong with it.
type Rule = fn(&Tree) -> Vec<String>;

/// The rules by name.
const RULES: &[(&str, Rule)] = &[
    ("arrows", arrows),
    ("table", table_is_layered),
    ("unsafe", unsafe_stays_in_place),
    ("candle", candle_stays_in_place),
    ("anyhow", anyhow_stays_in_place),
    ("kernels", kernels_have_wrappers),
    ("lengths", lengths),
    ("leftovers", leftovers),
    ("places", no_places_of_one_machine),
];

/// Where memory may be handled by hand. Paths end with `/` for folders.
const UNSAFE: &[&str] = &["src/ops/", "src/device.rs", "src/device/", "src/model/weights/mmap.rs"];

/// Where tensors may appear: the operations, the models, the device, and of the engine only the thread that
/// owns the device and what builds models on it.
const CANDLE: &[&str] =
    &["src/ops/", "src/model/", "src/device.rs", "src/device/", "src/engine/worker.rs", "src/engine/open.rs"];

const ANYHOW: &[&str] = &["src/main.rs", "src/cli/"];

const MAIN_LINES: usize = 60;
const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 60;

/// Functions that may be longer than [`FUNCTION_LINES`], each with its reason.
const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[
    ("src/ops/attention.rs", "query_block", "inlined per instruction set; maxima and sums stay in registers"),
    ("src/ops/attention.rs", "run", "the bounds check stands beside the pointers that it makes valid"),
];

#[test]
fn the_tree_keeps_the_rules() {
    let tree = read_tree();
    let mut complaints = Vec::new();
    for (name, rule) in RULES {
        complaints.extend(rule(&tree).into_iter().map(|c| format!("{name}: {c}")));
    }
    assert!(complaints.is_empty(), "{} broken rules:\n{}", complaints.len(), complaints.join("\n"));
}

/// Each plant: the rule that must complain, the file, and the text that is put at its end.
#[test]
fn every_rule_bites() {
    let long = format!("fn long() {{\n{}}}\n", "    let _ = 1;\n".repeat(FUNCTION_LINES));
    let main = "// line\n".repeat(MAIN_LINES);
    let many = "// line\n".repeat(FILE_LINES + 1);
    let home = format!("see /{}/someone/notes\n", "home");
    let host = format!("https://static.{}.io/x\n", "crates");
    let plants: &[(&str, &str, &str)] = &[
        ("arrows", "src/types/planted.rs", "use crate::engine::Engine;\n"),
        ("arrows", "src/http/planted.rs", "use crate::{types::llm, engine::{self, job}};\n"),
        ("arrows", "src/http/planted.rs", "pub fn f() { crate::fetch::library() }\n"),
        ("arrows", "src/http/planted.rs", "use super::super::engine::Engine;\n"),
        ("arrows", "src/service/planted.rs", "pub(in crate::http) fn f() {}\n"),
        ("arrows", "src/main.rs", "use stentor::engine::Engine;\n"),
        ("table", "src/lib.rs", "//! | [`obs`] | twice | app |\n"),
        ("table", "src/lib.rs", "pub mod planted;\n"),
        ("unsafe", "src/service/planted.rs", "fn f() { unsafe { g() } }\n"),
        ("unsafe", "src/audio/planted.rs", "#![allow(unsafe_code)]\n"),
        ("candle", "src/service/planted.rs", "fn f(x: &candle_core::Tensor) {}\n"),
        ("candle", "src/engine/sched/planted.rs", "use candle_core as tensors;\n"),
        ("anyhow", "src/service/planted.rs", "fn f() -> anyhow::Result<()> {}\n"),
        ("kernels", "kernels/planted.cu", "__global__ void planted() {}\n"),
        ("lengths", "src/main.rs", &main),
        ("lengths", "src/audio/planted.rs", &many),
        ("lengths", "src/audio/planted.rs", &long),
        ("leftovers", "src/audio/planted.rs", "fn f() { todo!() }\n"),
        ("leftovers", "tests/planted.rs", "fn f() { dbg!(1); }\n"),
        ("places", "README.md", &home),
        ("places", "deny.toml", &host),
    ];
    let clean = read_tree();
    for (rule, path, text) in plants {
        let mut tree = clean.clone();
        tree.entry((*path).to_owned()).or_default().push_str(text);
        let check = RULES.iter().find(|(name, _)| name == rule).unwrap().1;
        let new = check(&tree).len().saturating_sub(check(&clean).len());
        assert!(new > 0, "the rule `{rule}` does not see this in {path}:\n{text}");
    }
    let planted: BTreeSet<&str> = plants.iter().map(|(rule, ..)| *rule).collect();
    assert_eq!(planted.len(), RULES.len(), "every rule is broken at least once");
}

/// What the rules must not take for a violation.
#[test]
fn words_in_comments_and_tests_are_free() {
    let innocent = concat!(
        "//! unsafe, candle_core, todo!, crate::engine.\n",
        "/* anyhow::Error /* nested */ unsafe */\n",
        "const A: &str = \"unsafe { crate::engine } \\\" candle_core\";\n",
        "const B: &str = r#\"anyhow \"unsafe\" \"#;\n",
        "const C: (char, u8, char) = ('\"', b'\\'', '{');\n",
        "fn f<'a>(x: &'a str) -> &'a str { x }\n",
        "#[cfg(test)]\nmod tests {\n    use crate::engine::Engine;\n    fn g() { candle_core::f('}'); }\n}\n",
    );
    let mut tree = read_tree();
    let before: Vec<String> = RULES.iter().flat_map(|(_, rule)| rule(&tree)).collect();
    tree.insert("src/types/planted.rs".into(), innocent.into());
    tree.insert("src/types/planted_tests.rs".into(), "use crate::engine::Engine;\n".into());
    let after: Vec<String> = RULES.iter().flat_map(|(_, rule)| rule(&tree)).collect();
    assert_eq!(before, after);
}

fn read_tree() -> Tree {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tree = Tree::new();
    for path in tracked(root) {
        // Files that are not text hold no rule's words; a file that is tracked and deleted is none.
        if let Ok(text) = std::fs::read_to_string(root.join(&path)) {
            tree.insert(path, text);
        }
    }
    assert!(tree.contains_key("src/lib.rs") && tree.contains_key("Cargo.toml"), "this is not the tree");
    tree
}

/// What git tracks or would; outside a checkout, every file but build output.
fn tracked(root: &Path) -> Vec<String> {
    let git = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output();
    match git {
        Ok(out) if out.status.success() => {
            let list = String::from_utf8(out.stdout).unwrap();
            list.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect()
        }
        _ => walk(root, root),
    }
}

fn walk(root: &Path, folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        match path.is_dir() {
            true if name == "target" || name == ".git" => {}
            true => found.extend(walk(root, &path)),
            false => found.push(name),
        }
    }
    found
}

/// The Rust files below `src` that are not tests, with comments, texts and tests blanked.
fn code(tree: &Tree) -> impl Iterator<Item = (&str, Source)> {
    tree.iter()
        .filter(|(path, _)| path.starts_with("src/") && path.ends_with(".rs") && !source::is_test_file(path))
        .map(|(path, text)| (path.as_str(), Source::without_tests(text)))
}

/// One row of the table: a module, what it may use.
struct Row {
    module: String,
    uses: Vec<String>,
}

/// The table in `src/lib.rs`, top to bottom.
fn table(tree: &Tree) -> Vec<Row> {
    let line = Regex::new(r"(?m)^//! \| \[`([a-z_:]+)`\] \|.*\| ([^|]+) \|$").unwrap();
    let mut rows: Vec<Row> = Vec::new();
    for row in line.captures_iter(&tree["src/lib.rs"]) {
        let uses = match &row[2] {
            "nothing" => Vec::new(),
            "everything above" => rows.iter().map(|r| r.module.clone()).collect(),
            list => list.split(',').map(|name| name.trim().to_owned()).collect(),
        };
        rows.push(Row { module: row[1].to_owned(), uses });
    }
    rows
}

/// Rows use only rows above them, so there is no cycle; every module has one row.
fn table_is_layered(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut above: BTreeSet<&str> = BTreeSet::new();
    let rows = table(tree);
    for row in &rows {
        for used in row.uses.iter().filter(|used| !above.contains(used.as_str())) {
            complaints.push(format!("`{}` may use `{used}`, which is no row above it", row.module));
        }
        if !above.insert(&row.module) {
            complaints.push(format!("`{}` has two rows", row.module));
        }
    }
    let declared = Regex::new(r"(?m)^(?:pub )?mod (\w+);").unwrap();
    let lib = Source::without_tests(&tree["src/lib.rs"]);
    for module in declared.captures_iter(&lib.code).map(|c| c[1].to_owned()) {
        if !above.contains(module.as_str()) {
            complaints.push(format!("src/lib.rs: `{module}` has no row in the table"));
        }
    }
    complaints
}

fn arrows(tree: &Tree) -> Vec<String> {
    let rows = table(tree);
    let mut complaints = Vec::new();
    for (path, source) in code(tree) {
        if path == "src/lib.rs" {
            continue;
        }
        let module = path["src/".len()..].trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
        let top = module.split("::").next().unwrap_or_default();
        // The longest row that covers the module: `cli::bench` before `cli`.
        let covers = |row: &&Row| module == row.module || module.starts_with(&format!("{}::", row.module));
        let row = rows.iter().filter(covers).max_by_key(|row| row.module.len());
        let main = Row { module: "main".into(), uses: vec!["cli".into()] };
        let row = if top == "main" { Some(&main) } else { row };
        for (line, used) in source.modules_used(&module) {
            let allowed = used == top || row.is_some_and(|row| row.uses.contains(&used));
            if !allowed {
                complaints
                    .push(format!("{path}:{line}: `{top}` must not use `{used}` (table in src/lib.rs)"));
            }
        }
    }
    complaints
}

fn within(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| path == *place || (place.ends_with('/') && path.starts_with(place)))
}

fn stays_within(tree: &Tree, word: &str, places: &[&str]) -> Vec<String> {
    let word = Regex::new(word).unwrap();
    let outside = code(tree).filter(|(path, _)| !within(path, places));
    outside
        .flat_map(|(path, source)| {
            let lines = source.lines_with(&word);
            lines.map(|line| format!("{path}:{line}: only in {}", places.join(", "))).collect::<Vec<_>>()
        })
        .collect()
}

fn unsafe_stays_in_place(tree: &Tree) -> Vec<String> {
    stays_within(tree, r"\bunsafe(_code)?\b", UNSAFE)
}

fn candle_stays_in_place(tree: &Tree) -> Vec<String> {
    stays_within(tree, r"\bcandle_\w+", CANDLE)
}

fn anyhow_stays_in_place(tree: &Tree) -> Vec<String> {
    stays_within(tree, r"\banyhow\b", ANYHOW)
}

/// `kernels/x.cu` is reached through `src/ops/x.rs` or `src/ops/x/mod.rs`, which has its CPU side and checks.
fn kernels_have_wrappers(tree: &Tree) -> Vec<String> {
    let stems = tree.keys().filter_map(|path| path.strip_prefix("kernels/")?.strip_suffix(".cu"));
    let bare = |stem: &&str| {
        let wrapper = [format!("src/ops/{stem}.rs"), format!("src/ops/{stem}/mod.rs")];
        !wrapper.iter().any(|path| tree.contains_key(path))
    };
    stems.filter(bare).map(|stem| format!("kernels/{stem}.cu has no src/ops/{stem}.rs")).collect()
}

fn lengths(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    let main = tree["src/main.rs"].lines().count();
    if main > MAIN_LINES {
        complaints.push(format!("src/main.rs has {main} lines, more than {MAIN_LINES}"));
    }
    for (path, text) in tree.iter().filter(|(path, _)| path.ends_with(".rs")) {
        let lines = text.lines().count();
        let reason = text.lines().take_while(|line| line.starts_with("//!")).any(|l| l.contains("500 lines"));
        if lines > FILE_LINES && !reason {
            complaints
                .push(format!("{path} has {lines} lines; its header must say why it has over 500 lines"));
        }
        for (line, name, length) in Source::new(text).functions() {
            let excused = LONG_FUNCTIONS.iter().any(|(file, function, _)| *file == path && *function == name);
            if length > FUNCTION_LINES && !excused {
                complaints.push(format!("{path}:{line}: `{name}` has {length} lines, over {FUNCTION_LINES}"));
            }
        }
    }
    complaints
}

fn leftovers(tree: &Tree) -> Vec<String> {
    let word = Regex::new(r"\b(todo|dbg)!").unwrap();
    let rust = tree.iter().filter(|(path, _)| path.ends_with(".rs"));
    rust.flat_map(|(path, text)| {
        let source = Source::new(text);
        source.lines_with(&word).map(|line| format!("{path}:{line}: unfinished")).collect::<Vec<_>>()
    })
    .collect()
}

/// No tracked file names a package registry's host or a place of one machine. The lock file is cargo's own.
fn no_places_of_one_machine(tree: &Tree) -> Vec<String> {
    // In pieces, so that this file does not hold what it looks for.
    let hosts =
        [["crates", "io"], ["pypi", "org"], ["pythonhosted", "org"], ["npmjs", "org"], ["debian", "org"]];
    let mut words: Vec<String> = hosts.iter().map(|parts| format!(r"\b{}\b", parts.join(r"\."))).collect();
    words.push(format!(r#"(^|[\s"'`=:(])/({}|{}|{})/\w"#, "root", "home", "Users"));
    let word = Regex::new(&words.join("|")).unwrap();
    let mut complaints = Vec::new();
    for (path, text) in tree.iter().filter(|(path, _)| *path != "Cargo.lock") {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| word.is_match(line)) {
            let shown: String = line.chars().take(120).collect();
            complaints.push(format!("{path}:{}: a host or path of one machine: {shown}", number + 1));
        }
    }
    complaints
}
