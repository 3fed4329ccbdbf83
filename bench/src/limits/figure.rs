//! The figures of a run: the progress while they are measured, the table, the JSON.

use std::fs;
use std::io::{self, IsTerminal, Write, stderr, stdout};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::host::Host;

#[derive(Serialize)]
struct Figure {
    /// Different for each.
    name: String,
    value: f64,
    unit: &'static str,
    note: String,
}

#[derive(Default)]
pub(super) struct Figures(Vec<Figure>);

#[derive(Serialize)]
struct Report<'a> {
    command: &'static str,
    host: &'a Host,
    figures: &'a [Figure],
}

impl Figures {
    /// Says what is about to be measured. For people only: results go to stdout.
    pub(super) fn begin(&self, what: &str) {
        if stderr().is_terminal() {
            eprint!("\r\x1b[K{} figures  {what}", self.0.len());
            // A progress line that cannot be shown is no reason to stop measuring.
            let _ = stderr().flush();
        }
    }

    pub(super) fn add(&mut self, name: &str, value: f64, unit: &'static str, note: &str) {
        self.0.push(Figure {
            name: name.to_owned(),
            value,
            unit,
            note: note.to_owned(),
        });
    }

    pub(super) fn finish(&self, host: &Host, json: Option<&Path>) -> Result<()> {
        if stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
        let printed = self.print(host).context("cannot print the figures");
        let written = json.map_or(Ok(()), |path| self.write(host, path));
        printed.and(written)
    }

    fn print(&self, host: &Host) -> io::Result<()> {
        let widest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0);
        let name_columns = widest(&mut self.0.iter().map(|figure| figure.name.len()));
        let unit_columns = widest(&mut self.0.iter().map(|figure| figure.unit.len()));
        // Not println!, which panics when nobody reads any more.
        let mut out = stdout().lock();
        writeln!(out, "{host}")?;
        for Figure {
            name,
            value,
            unit,
            note,
        } in &self.0
        {
            let digits = digits(*value);
            let line =
                format!("{name:name_columns$}  {value:>12.digits$}  {unit:unit_columns$}  {note}");
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    fn write(&self, host: &Host, path: &Path) -> Result<()> {
        let report = Report {
            command: "limits",
            host,
            figures: &self.0,
        };
        let mut text = serde_json::to_string_pretty(&report)?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Three that count, and none behind the point of a large number.
fn digits(value: f64) -> usize {
    match value {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    }
}
