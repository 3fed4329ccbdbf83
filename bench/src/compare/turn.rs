//! One turn: this program as a child, against one target, with its results read from a file.

use std::env;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use super::Target;
use crate::connection::Connection;
use crate::topic;

/// Commands that write: every run gets a topic of its own, which is deleted behind it, so that no run meets the data of another.
const WRITING: [&str; 3] = ["produce", "e2e", "ramp"];

/// Flags that belong to the comparison.
const OURS: [&str; 3] = ["--bootstrap", "--pid", "--json"];

pub(super) struct Turn {
    program: PathBuf,
    workload: Vec<String>,
    topic_is_ours: bool,
}

impl Turn {
    pub(super) fn new(workload: &[String]) -> Result<Self> {
        let command = workload.first().context("a workload is needed")?;
        for flag in OURS {
            let given = workload.iter().any(|argument| names(argument, flag));
            ensure!(!given, "compare sets {flag} itself");
        }
        let has_topic = workload.iter().any(|argument| names(argument, "--topic"));
        Ok(Self {
            program: env::current_exe().context("cannot find this program")?,
            topic_is_ours: WRITING.contains(&command.as_str()) && !has_topic,
            workload: workload.to_vec(),
        })
    }

    /// Returns what the run reached, and how it ended.
    pub(super) fn play(&self, target: &Target) -> Result<(Option<Value>, Result<()>)> {
        let token = RandomState::new().build_hasher().finish();
        let topic = format!("millrace-compare-{token:016x}");
        let file = env::temp_dir().join(format!("{topic}.json"));
        let mut command = Command::new(&self.program);
        command
            .args(&self.workload)
            .args(["--bootstrap", &target.address])
            .arg("--json")
            .arg(&file)
            .stdin(Stdio::null());
        if let Some(pid) = target.pid {
            command.args(["--pid", &pid.to_string()]);
        }
        if self.topic_is_ours {
            command.args(["--topic", &topic]);
        }
        let output = command.output().context("cannot start a run")?;
        let result = take(&file)?;
        if self.topic_is_ours {
            // A target that cannot be reached any more has said so already, and one without DeleteTopics can still be measured.
            let _ = crate::block_on(async {
                topic::delete(&mut Connection::open(&target.address).await?, &topic).await
            });
        }
        Ok((result, outcome(&output)))
    }
}

/// Whether an argument is this flag, with or without its value.
fn names(argument: &str, flag: &str) -> bool {
    argument
        .strip_prefix(flag)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

/// Reads a run's results and removes the file; `None` if the run did not get as far as to write them.
fn take(file: &Path) -> Result<Option<Value>> {
    let Ok(text) = fs::read(file) else {
        return Ok(None);
    };
    fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
    let result = serde_json::from_slice(&text).context("a run wrote what is no JSON")?;
    Ok(Some(result))
}

fn outcome(output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    match text.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => {
            let line = line.trim().trim_start_matches("millrace-bench: ");
            Err(anyhow!(line.to_owned()))
        }
        None => bail!("the run ended with {}", output.status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(workload: &[&str]) -> Result<Turn> {
        let workload: Vec<_> = workload
            .iter()
            .map(|argument| (*argument).to_owned())
            .collect();
        Turn::new(&workload)
    }

    #[test]
    fn a_writing_command_gets_topics_of_its_own_unless_it_names_one() {
        assert!(
            turn(&["produce", "--batch-bytes", "64k"])
                .unwrap()
                .topic_is_ours
        );
        assert!(!turn(&["produce", "--topic=mine"]).unwrap().topic_is_ours);
        assert!(!turn(&["consume", "--topic", "t"]).unwrap().topic_is_ours);
        assert!(turn(&["e2e", "--topics", "3"]).unwrap().topic_is_ours);
    }

    #[test]
    fn flags_that_name_the_target_are_refused() {
        for flag in ["--bootstrap", "--json=x", "--pid"] {
            assert!(turn(&["produce", flag, "x"]).is_err(), "{flag}");
        }
    }
}
