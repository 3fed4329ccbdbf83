//! `millrace-bench`: the command line. Every command lives in a file of its own in the library; a failure is one line on stderr and exit
//! status 1.

use std::process::ExitCode;

use bench::{consume, e2e, limits, offsets, page, produce, ramp, sink, suite};
use clap::{Parser, Subcommand};

/// Load generator for Millrace and other Kafka brokers, and the host's own ceilings.
#[derive(Parser)]
#[command(name = "millrace-bench", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Sends batches as fast as the broker answers them, or records at a fixed rate
    Produce(produce::Arguments),
    /// Reads a topic from its start to its end, once or for a while
    Consume(consume::Arguments),
    /// Measures what this host can do at most: loopback, disk, memory, wakes and the sink
    Limits(limits::Arguments),
    /// Sends records at a fixed rate and measures how long each takes to reach consumers
    E2e(e2e::Arguments),
    /// Raises the rate of records until the broker is too slow, and prints the last one that it held
    Ramp(ramp::Arguments),
    /// Commits consumer offsets of many groups as fast as they are taken
    Offsets(offsets::Arguments),
    /// Makes one HTML page from the results of runs
    Report(page::Arguments),
    /// Takes frames from sockets to a file and does nothing else: what this machine can do at most
    Sink(sink::server::Arguments),
    /// Sends frames to a sink as fast as it answers them
    SinkLoad(sink::load::Arguments),
    /// Measures Millrace against this host's ceilings, line by line of its target table
    Suite(suite::Arguments),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => return fail(&one_line(&error)),
        Err(help) => help.exit(),
    };
    let result = match arguments.command {
        Command::Produce(arguments) => produce::run(arguments),
        Command::Consume(arguments) => consume::run(arguments),
        Command::Limits(arguments) => limits::run(arguments),
        Command::E2e(arguments) => e2e::run(arguments),
        Command::Ramp(arguments) => ramp::run(arguments),
        Command::Offsets(arguments) => offsets::run(arguments),
        Command::Report(arguments) => page::run(arguments),
        Command::Sink(arguments) => sink::server::run(arguments),
        Command::SinkLoad(arguments) => sink::load::run(arguments),
        Command::Suite(arguments) => suite::run(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}")),
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("millrace-bench: {why}");
    ExitCode::FAILURE
}

/// What was wrong with the command line, without the usage that follows it.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text
        .split("\n\n")
        .next()
        .unwrap_or_default()
        .lines()
        .map(str::trim);
    let line = lines.collect::<Vec<_>>().join(" ");
    format!("{} (see --help)", line.trim_start_matches("error: "))
}
