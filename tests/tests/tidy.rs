//! What no lint can say about the source: who may import whom, where `unsafe` may stand, how a file opens and how long it may be.
//!
//! Each rule is one test over all files; a failure lists the places. It reads the checkout that it was built from and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const FILE_LINES_MAX: usize = 700;

/// Folders that are not ours or not source.
const SKIPPED: [&str; 8] = [
    ".git",
    ".tools",
    ".venv",
    ".millrace",
    "target",
    "bench-results",
    "node_modules",
    "__pycache__",
];

/// A crate, and where its name may be used. Everywhere else within `among` it may not.
struct ImportRule {
    krate: &'static str,
    among: &'static [&'static str],
    allowed: &'static [&'static str],
}

const IMPORT_RULES: [ImportRule; 7] = [
    // The control plane is the gate and knows nothing of the channel.
    ImportRule {
        krate: "dataplane",
        among: &["controlplane", "dataplane/ring", "dataplane/wire"],
        allowed: &[],
    },
    ImportRule {
        krate: "wire",
        among: &["controlplane", "dataplane/ring"],
        allowed: &[],
    },
    // The two planes meet in control_api alone.
    ImportRule {
        krate: "controlplane",
        among: &["dataplane", "bench", "controlplane/api"],
        allowed: &[],
    },
    ImportRule {
        krate: "control_api",
        among: &["dataplane/ring", "dataplane/wire", "bench"],
        allowed: &[],
    },
    // Shards see the world through the Io trait; the ring is behind it, and at the process's start.
    ImportRule {
        krate: "ring",
        among: &["dataplane/src", "dataplane/wire", "controlplane", "bench"],
        allowed: &[
            "dataplane/src/io/",
            "dataplane/src/main.rs",
            "dataplane/src/check.rs",
            "dataplane/src/broker.rs",
            "bench/src/limits/",
            "bench/src/sink/",
        ],
    },
    ImportRule {
        krate: "io_uring",
        among: &["dataplane/src", "dataplane/wire", "controlplane", "tests"],
        allowed: &[],
    },
    // tokio runs the control link's thread and the metrics endpoint, never a shard.
    ImportRule {
        krate: "tokio",
        among: &["dataplane", "tests"],
        allowed: &[
            "dataplane/src/control/",
            "dataplane/src/http.rs",
            "dataplane/src/main.rs",
            "dataplane/src/broker.rs",
            // It speaks to the control link's handshake, over a stream of its own making.
            "tests/fuzz/fuzz_targets/control_handshake.rs",
        ],
    },
];

#[test]
fn every_import_points_the_right_way() {
    let mut faults = Vec::new();
    for file in rust_files() {
        for rule in &IMPORT_RULES {
            let judged = rule.among.iter().any(|folder| file.is_in(folder));
            let allowed = rule
                .allowed
                .iter()
                .any(|start| file.path.starts_with(start));
            if judged && !allowed {
                faults.extend(file.lines_where(|line| uses_crate(line, rule.krate)));
            }
        }
    }
    report("these imports point the wrong way", faults);
}

/// What a command does follows from the state, the command and the feature level: versions of the program differ in the rest.
#[test]
fn applying_commands_asks_no_limits_and_no_tables() {
    let mut faults = Vec::new();
    for file in rust_files() {
        let applies = ["controlplane/src/meta", "controlplane/src/offsets"];
        let judged = applies.iter().any(|folder| file.is_in(folder));
        if judged && !file.path.ends_with("tests.rs") {
            let forbidden = |line: &str| {
                has_word(line, "limits") || has_word(line, "topic_config") || line.contains("env!")
            };
            faults.extend(file.lines_where(forbidden));
        }
    }
    report("applying depends on more than the level", faults);
}

#[test]
fn unsafe_stands_in_the_ring_alone() {
    let mut faults = Vec::new();
    for file in rust_files() {
        if !file.is_in("dataplane/ring") {
            faults.extend(file.lines_where(|line| has_word(line, "unsafe")));
        }
    }
    report("unsafe outside of dataplane/ring", faults);
}

#[test]
fn every_file_says_first_what_it_is() {
    let undocumented = rust_files()
        .into_iter()
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| file.path)
        .collect();
    report("these files do not open with //!", undocumented);
}

#[test]
fn no_file_grows_out_of_hand() {
    let long = rust_files()
        .into_iter()
        .filter(|file| file.text.lines().count() > FILE_LINES_MAX)
        .map(|file| file.path)
        .collect();
    report("these files are too long for one idea", long);
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    // In pieces, because this file is read too.
    let homes = [
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/wo", "rk/"),
    ];
    let mut faults = Vec::new();
    for file in files_ending(&["rs", "py", "toml", "md", "sh", "yml", "ini", "txt", ""]) {
        faults.extend(file.any_lines_where(|line| homes.iter().any(|home| line.contains(home))));
    }
    report("paths of one machine", faults);
}

#[test]
fn manifests_keep_the_planes_apart() {
    let forbidden = [
        ("controlplane/Cargo.toml", ["dataplane", "ring", "wire"]),
        ("controlplane/api/Cargo.toml", ["dataplane", "ring", "wire"]),
        (
            "dataplane/Cargo.toml",
            ["controlplane", "openraft", "raft-log"],
        ),
        (
            "dataplane/ring/Cargo.toml",
            ["wire", "control-api", "tokio"],
        ),
        (
            "dataplane/wire/Cargo.toml",
            ["ring", "control-api", "tokio"],
        ),
    ];
    let mut faults = Vec::new();
    for (path, names) in forbidden {
        let text = fs::read_to_string(root().join(path)).expect("a manifest of the workspace");
        for name in names {
            let depends = |line: &str| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with([' ', '.', '=']))
            };
            if text.lines().any(depends) {
                faults.push(format!("{path} depends on {name}"));
            }
        }
    }
    report("dependencies that point the wrong way", faults);
}

/// `scripts/planted` puts them back one by one; one that no longer applies is one that no test is known to find.
#[test]
fn planted_faults_still_apply() {
    let mut faults = Vec::new();
    let patches = fs::read_dir(root().join("tests/planted")).expect("the folder of planted faults");
    for patch in patches {
        let patch = patch.expect("a name in it").path();
        let applies = Command::new("git")
            .current_dir(root())
            .args(["apply", "--check"])
            .arg(&patch)
            .output()
            .expect("git runs");
        if !applies.status.success() {
            let said = String::from_utf8_lossy(&applies.stderr);
            faults.push(format!("{}: {}", patch.display(), said.trim()));
        }
    }
    report("faults that cannot be planted any more", faults);
}

#[test]
fn the_rules_recognise_what_they_forbid() {
    for line in [
        "use ring::memory;",
        "let pool = ring::Pool;",
        "pub use ::ring::memory::Buffer;",
    ] {
        assert!(uses_crate(line, "ring"), "{line}");
    }
    for line in [
        "use crate::io::ring::RingIo;",
        "string::from",
        "mod ring;",
        "spring::water()",
    ] {
        assert!(!uses_crate(line, "ring"), "{line}");
    }
    assert!(uses_crate("use tokio;", "tokio"));
    assert!(has_word("    unsafe { read() }", "unsafe"));
    assert!(!has_word("unsafe_code = 1", "unsafe"));
    assert!(code_of("call(); // unsafe").ends_with("call(); "));
    assert_eq!(code_of("/// unsafe"), "");
}

struct SourceFile {
    /// From the root of the checkout, with forward slashes.
    path: String,
    text: String,
}

impl SourceFile {
    fn is_in(&self, folder: &str) -> bool {
        self.path
            .strip_prefix(folder)
            .is_some_and(|rest| rest.starts_with('/'))
    }

    /// Places where the code of a line, without its comment, is as described.
    fn lines_where(&self, found: impl Fn(&str) -> bool) -> Vec<String> {
        self.any_lines_where(|line| found(code_of(line)))
    }

    fn any_lines_where(&self, found: impl Fn(&str) -> bool) -> Vec<String> {
        let lines = self.text.lines().enumerate();
        lines
            .filter(|(_, line)| found(line))
            .map(|(number, line)| format!("{}:{}: {}", self.path, number + 1, line.trim()))
            .collect()
    }
}

fn rust_files() -> Vec<SourceFile> {
    let mut files = files_ending(&["rs"]);
    assert!(files.len() > 50, "the walk finds the source");
    // This file quotes what it forbids.
    files.retain(|file| file.path != "tests/tests/tidy.rs");
    files
}

/// All files with one of these extensions; "" is a file without one, such as a script.
fn files_ending(extensions: &[&str]) -> Vec<SourceFile> {
    let mut paths = Vec::new();
    walk(&root(), &mut paths);
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        // What is not text is not ours to judge.
        if extensions.contains(&&*extension)
            && let Ok(text) = fs::read_to_string(&path)
        {
            let relative = path.strip_prefix(root()).unwrap_or(&path);
            let path = relative.to_string_lossy().replace('\\', "/");
            files.push(SourceFile { path, text });
        }
    }
    files
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the checkout") {
        let entry = entry.expect("an entry of a folder");
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().expect("an entry has a type");
        if kind.is_dir() && !SKIPPED.contains(&&*name) {
            walk(&entry.path(), found);
        } else if kind.is_file() && !SKIPPED.contains(&&*name) {
            // In a linked worktree `.git` is a file.
            found.push(entry.path());
        }
    }
}

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("tests/ stands in the checkout")
        .to_owned()
}

/// A line without its comment. A `//` in a string cuts a line short, which hides nothing that these rules look for.
fn code_of(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Whether a path in this line starts with the crate's name.
fn uses_crate(line: &str, krate: &str) -> bool {
    words(line, krate).any(|(before, after)| {
        let before = before.strip_suffix("::").map_or(before, |outer| {
            // `::name` is the crate, `outer::name` is a module that is called so too.
            if outer.ends_with(is_word) { "x" } else { outer }
        });
        let imported = before.trim_end().ends_with("use") && after.starts_with(';');
        !before.ends_with(is_word) && (after.starts_with("::") || imported)
    })
}

fn has_word(line: &str, word: &str) -> bool {
    words(line, word)
        .any(|(before, after)| !before.ends_with(is_word) && !after.starts_with(is_word))
}

/// What stands before and after each occurrence of `word`.
fn words<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    line.match_indices(word)
        .map(move |(start, _)| (&line[..start], &line[start + word.len()..]))
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn report(what: &str, faults: Vec<String>) {
    assert!(faults.is_empty(), "{what}:\n  {}", faults.join("\n  "));
}
