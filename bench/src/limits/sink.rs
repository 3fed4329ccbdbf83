//! The sink, a process of its own as a broker would be: this program's `sink`, loaded by its `sink-load`.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::figure::Figures;
use super::timing::Timing;

/// Enough small frames in flight that the client does not wait for each answer.
const SIZES: [Size; 3] = [
    size("200 B", "200", "256", "4m"),
    size("64 KiB", "64k", "8", "64m"),
    size("1 MiB", "1m", "8", "64m"),
];
const SECONDS: &str = "1";

struct Size {
    name: &'static str,
    frame_bytes: &'static str,
    in_flight: &'static str,
    quick_bytes: &'static str,
}

const fn size(
    name: &'static str,
    frame_bytes: &'static str,
    in_flight: &'static str,
    quick_bytes: &'static str,
) -> Size {
    Size {
        name,
        frame_bytes,
        in_flight,
        quick_bytes,
    }
}

/// What `sink-load` writes, as far as it is wanted here.
#[derive(Deserialize)]
struct Load {
    megabytes_per_second: f64,
    requests_per_second: f64,
    server_cpu_seconds_per_gigabyte: Option<f64>,
    client_cpu_seconds_per_gigabyte: Option<f64>,
}

pub(super) fn measure(timing: &Timing, file: &Path, figures: &mut Figures) -> Result<()> {
    let modes = [
        ("plain", 4),
        ("dsync", 4),
        ("dsync", 1),
        ("memory", 4),
        ("send", 4),
    ];
    for (mode, logs) in modes {
        one(timing, file, figures, mode, logs)?;
    }
    Ok(())
}

fn one(timing: &Timing, file: &Path, figures: &mut Figures, mode: &str, logs: u32) -> Result<()> {
    let name = match logs {
        1 => format!("sink, {mode}, one log"),
        _ => format!("sink, {mode}"),
    };
    figures.begin(&name);
    let sink = Sink::start(timing, file, mode, logs).context(name.clone())?;
    for size in SIZES {
        let load = sink
            .load(timing, &size, mode == "send")
            .with_context(|| format!("{name}, {}", size.name))?;
        let note = format!(
            "{:.0} requests/s, {} in flight on each of 4 connections",
            load.requests_per_second, size.in_flight
        );
        let name = format!("{name}, {}", size.name);
        figures.add(&name, load.megabytes_per_second, "MB/s", &note);
        for (end, cpu_seconds) in [
            ("server", load.server_cpu_seconds_per_gigabyte),
            ("client", load.client_cpu_seconds_per_gigabyte),
        ] {
            // A short run may take less than the kernel counts.
            if let Some(cpu_seconds) = cpu_seconds.filter(|seconds| *seconds > 0.0) {
                figures.add(&format!("{name}, {end}"), cpu_seconds, "CPU s/GB", "");
            }
        }
    }
    Ok(())
}

/// Ends with this value.
struct Sink {
    process: Child,
    port: String,
}

impl Sink {
    fn start(timing: &Timing, file: &Path, mode: &str, logs: u32) -> Result<Self> {
        let process = own_program()?
            .args(["sink", "--port", "0", "--mode", mode])
            .args(["--logs", &logs.to_string()])
            .args(["--file-bytes", &timing.file_bytes.to_string()])
            .arg("--data")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start it")?;
        // From here on it is killed if anything goes wrong.
        let mut sink = Self {
            process,
            port: String::new(),
        };
        sink.port = sink.learn_port()?;
        Ok(sink)
    }

    fn learn_port(&mut self) -> Result<String> {
        let mut line = String::new();
        if let Some(stdout) = &mut self.process.stdout {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let port = line
            .strip_prefix("listening on 127.0.0.1:")
            .and_then(|rest| rest.split_once(','));
        if let Some((port, _)) = port {
            return Ok(port.to_owned());
        }
        let mut why = String::new();
        if let Some(stderr) = &mut self.process.stderr {
            stderr.read_to_string(&mut why)?;
        }
        bail!("it did not start: {}", why.trim());
    }

    fn load(&self, timing: &Timing, size: &Size, receive: bool) -> Result<Load> {
        let mut command = own_program()?;
        command
            .args(["sink-load", "--port", &self.port, "--connections", "4"])
            .args(["--frame-bytes", size.frame_bytes])
            .args(["--in-flight", size.in_flight, "--seconds", SECONDS])
            .args(["--pid", &self.process.id().to_string()])
            .args(["--json", "/dev/stdout"]);
        if receive {
            command.arg("--receive");
        }
        if timing.quick {
            command.args(["--bytes", size.quick_bytes]);
        }
        let output = command.output().context("cannot start the load")?;
        let why = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}", why.trim());
        // The same results for people come first.
        let text = String::from_utf8(output.stdout)?;
        let (_, json) = text.split_once('{').context("the load has no results")?;
        Ok(serde_json::from_str(&format!("{{{json}"))?)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn own_program() -> Result<Command> {
    Ok(Command::new(
        std::env::current_exe().context("cannot find this program")?,
    ))
}
