//! The files that a page is made from. One that cannot be used is named and left out; the others still make a page.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::model::{Document, Limits, Outcome, Ramp, Run};

#[derive(Debug, Default)]
pub(super) struct Input {
    pub(super) runs: Vec<(String, Run)>,
    pub(super) ramps: Vec<(String, Ramp)>,
    pub(super) limits: Vec<(String, Limits)>,
    pub(super) results: Vec<Outcome>,
    pub(super) sources: Vec<Source>,
    /// Which build was measured.
    pub(super) measured: Option<String>,
    /// A line for each file that could not be used.
    pub(super) left_out: Vec<String>,
}

/// A file as it was read, to be given to the reader of the page.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) text: Vec<u8>,
}

impl Input {
    /// Directories give their JSON files, in order of name. A path that is not there is an error: it is a slip of the command line.
    pub(super) fn read(paths: &[PathBuf], results: Option<&Path>) -> Result<Self> {
        let mut input = Self::default();
        for file in files(paths)? {
            if let Err(error) = input.add(&file) {
                input
                    .left_out
                    .push(format!("{}: {error:#}", file.display()));
            }
        }
        if let Some(file) = results {
            match read_results(file) {
                Ok((results, text)) => {
                    input.results = results;
                    input.keep(file, text);
                }
                Err(error) => input
                    .left_out
                    .push(format!("{}: {error:#}", file.display())),
            }
        }
        Ok(input)
    }

    /// Whether there is nothing that a page could show.
    pub(super) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Under its name or, where another directory had that too, its whole path.
    fn keep(&mut self, file: &Path, text: Vec<u8>) {
        let mut name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if self.sources.iter().any(|source| source.name == name) {
            name = file.to_string_lossy().replace('/', "_");
        }
        self.sources.push(Source { name, text });
    }

    fn add(&mut self, file: &Path) -> Result<()> {
        let text = fs::read(file)?;
        let name = name_of(file);
        match Document::parse(&text).context("no results of a run")? {
            Document::Run(run) => self.runs.push((name, run)),
            Document::Ramp(ramp) => self.ramps.push((name, ramp)),
            Document::Limits(limits) => self.limits.push((name, limits)),
        }
        self.keep(file, text);
        Ok(())
    }
}

fn read_results(file: &Path) -> Result<(Vec<Outcome>, Vec<u8>)> {
    let text = fs::read(file)?;
    let results = serde_json::from_slice(&text).context("no results with targets")?;
    Ok((results, text))
}

fn name_of(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        let cannot_read = || format!("cannot read {}", path.display());
        if !fs::metadata(path).with_context(cannot_read)?.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut inside = Vec::new();
        for entry in fs::read_dir(path).with_context(cannot_read)? {
            let file = entry.with_context(cannot_read)?.path();
            if file.extension() == Some(OsStr::new("json")) {
                inside.push(file);
            }
        }
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}
