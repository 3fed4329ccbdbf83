//! The broker's executable: settings, logging, and one clear line when it cannot go on.

use clap::Parser;
use dataplane::config::{Command, CommandLine};
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: ring::allocations::Counting = ring::allocations::Counting;

fn main() -> ExitCode {
    let command_line = match CommandLine::try_parse() {
        Ok(command_line) => command_line,
        // Help and version are no errors.
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => return fail(error.to_string().lines().next().unwrap_or("bad flags")),
    };
    let filter = EnvFilter::try_from_env("MILLRACE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // A line that cannot be written, on a full disk, is lost; it would be said on the same disk, by a panic.
        .log_internal_errors(false)
        .init();
    abort_on_panic();
    // Supports a feature level more, in a form that no other program reads: so an upgrade can be tried.
    if std::env::var_os("MILLRACE_TRY_LATER_LEVEL").is_some() {
        control_api::level::try_later_level(true);
    }
    let result = match command_line.command {
        Some(Command::Check) => command_line.merged().and_then(|settings| {
            let tail_mib = settings.tail_mib;
            let tail_bytes = tail_mib.unwrap_or(dataplane::config::TAIL_MIB_DEFAULT) << 20;
            dataplane::check::run(tail_bytes, settings.data.as_deref())
        }),
        Some(Command::Smoke { bootstrap }) => dataplane::smoke::run(&bootstrap),
        None => command_line.resolve().and_then(dataplane::broker::run),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}")),
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("millrace-broker: {why}");
    ExitCode::FAILURE
}

/// A panic is a bug of ours. One shard going on without another would serve a part of the partitions and look healthy, so the
/// process ends; what was acknowledged is on disk.
fn abort_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default(panic);
        std::process::abort();
    }));
}
