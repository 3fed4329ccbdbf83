//! Runs commands as a person does and looks at what they say.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

pub(crate) fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_millrace-bench"))
        .args(arguments)
        .output()
        .unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// The one line on stderr of a command that failed.
pub(crate) fn complaint(output: &Output) -> String {
    let stderr = text(&output.stderr);
    assert!(
        !output.status.success(),
        "it did not fail: {}",
        text(&output.stdout)
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr
}

/// What a command wrote with `--json`; `command` is given the arguments for it.
pub(crate) fn report(command: impl FnOnce(&[&str]) -> Output) -> (Output, Value) {
    static FILES: AtomicU32 = AtomicU32::new(0);
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let name = format!("millrace-bench-{}-{number}.json", std::process::id());
    let file = std::env::temp_dir().join(name);
    let output = command(&["--json", file.to_str().unwrap()]);
    let report = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    std::fs::remove_file(&file).unwrap();
    (output, report)
}
