//! `millrace-bench`: the command line. Every command lives in a file of its own in the library; a failure is one line on stderr and exit
//! status 1.

use std::process::ExitCode;

use bench::{consume, produce, smoke};
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
    /// Sends one record to a new topic, reads it back and deletes the topic
    Smoke(smoke::Arguments),
    /// Sends batches as fast as the broker answers them
    Produce(produce::Arguments),
    /// Reads a topic from its start to its end
    Consume(consume::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Smoke(arguments) => smoke::run(arguments),
        Command::Produce(arguments) => produce::run(arguments),
        Command::Consume(arguments) => consume::run(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millrace-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
