//! The processes that the suite starts, each pinned to a core. None outlives the suite: dropping one kills it, an interrupt kills all, and
//! the kernel kills what is left when the suite itself is killed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::clock::now;

const POLL_PAUSE: Duration = Duration::from_millis(10);
const REMOVALS_MAX: usize = 40;
const REMOVAL_PAUSE: Duration = Duration::from_millis(50);

/// As a shell reports a program that an interrupt ended.
const INTERRUPTED_STATUS: i32 = 130;

/// The servers' core, and the one of whatever loads them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Core {
    Server,
    Client,
    Both,
}

impl Core {
    fn number(self) -> &'static str {
        match self {
            Core::Server => "0",
            Core::Client => "1",
            Core::Both => "0,1",
        }
    }
}

/// Process ids of all children that run.
#[derive(Clone, Default)]
pub(super) struct Children(Arc<Mutex<Running>>);

#[derive(Default)]
struct Running {
    pids: Vec<u32>,
    interrupted: bool,
}

impl Children {
    /// On Ctrl-C, SIGTERM or SIGHUP: kills all children, removes `scratch` and ends this process.
    pub(super) fn end_on_interrupt(&self, scratch: PathBuf) -> Result<()> {
        let children = self.clone();
        ctrlc::set_handler(move || {
            children.kill_all();
            remove(&scratch);
            eprintln!("millrace-bench: interrupted");
            std::process::exit(INTERRUPTED_STATUS);
        })
        .context("cannot handle interrupts")
    }

    fn kill_all(&self) {
        let mut running = self.lock();
        running.interrupted = true;
        running.pids.iter().copied().for_each(kill);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a directory of files that processes just killed may still be closing.
pub(super) fn remove(directory: &Path) {
    for _ in 0..REMOVALS_MAX {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => sleep(REMOVAL_PAUSE),
            _ => return,
        }
    }
}

fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself in the meantime, and waits to be reaped.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// A command line.
#[derive(Debug)]
pub(super) struct Program {
    words: Vec<OsString>,
    variables: Vec<(&'static str, OsString)>,
}

impl Program {
    pub(super) fn new(path: impl Into<OsString>) -> Self {
        Self {
            words: vec![path.into()],
            variables: Vec::new(),
        }
    }

    pub(super) fn arg(mut self, word: impl Into<OsString>) -> Self {
        self.words.push(word.into());
        self
    }

    /// Words that are separated by spaces and hold none themselves.
    pub(super) fn args(mut self, words: &str) -> Self {
        self.words
            .extend(words.split_whitespace().map(OsString::from));
        self
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.variables.push((name, value.into()));
        self
    }
}

pub(super) struct Process {
    child: Child,
    children: Children,
    log: PathBuf,
}

impl Process {
    /// Starts a program on a core; its stderr goes into `log`.
    pub(super) fn start(
        children: &Children,
        core: Core,
        program: &Program,
        log: PathBuf,
    ) -> Result<Self> {
        Self::start_with(children, core, program, log, Stdio::null())
    }

    /// As `start`, with its stdout in a pipe.
    pub(super) fn start_piped(
        children: &Children,
        core: Core,
        program: &Program,
        log: PathBuf,
    ) -> Result<Self> {
        Self::start_with(children, core, program, log, Stdio::piped())
    }

    fn start_with(
        children: &Children,
        core: Core,
        program: &Program,
        log: PathBuf,
        output: Stdio,
    ) -> Result<Self> {
        let errors =
            File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        // Both become the program that they start, so it has the process id that is known here.
        let mut command = Command::new("taskset");
        command
            .args(["-c", core.number(), "setpriv", "--pdeathsig", "KILL"])
            .args(&program.words)
            .envs(program.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            // An interrupt at the terminal reaches the suite alone, which then ends its children.
            .process_group(0);
        let mut running = children.lock();
        if running.interrupted {
            bail!("interrupted");
        }
        let child = command.spawn().context("cannot run taskset")?;
        running.pids.push(child.id());
        drop(running);
        Ok(Self {
            child,
            children: children.clone(),
            log,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    pub(super) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for a good end; a bad one, or none in time, is an error that says what the program said last.
    pub(super) fn wait(&mut self, limit: Duration) -> Result<()> {
        let deadline = now() + limit;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("{}", self.last_words().unwrap_or(status.to_string())),
                None if now() >= deadline => bail!("no end within {} s", limit.as_secs()),
                None => sleep(POLL_PAUSE),
            }
        }
    }

    /// The last line of its stderr.
    pub(super) fn last_words(&self) -> Option<String> {
        let text = fs::read(&self.log).ok()?;
        let text = String::from_utf8_lossy(&text);
        let last = text
            .split(['\n', '\r'])
            .rfind(|line| !line.trim().is_empty())?;
        Some(last.trim_start_matches("millrace-bench: ").to_owned())
    }
}

impl Process {
    /// Ends it and waits until it is gone.
    pub(super) fn kill(&mut self) {
        let mut running = self.children.lock();
        // Both fail only if it has ended and was waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Under the lock, so that nobody kills by a process id that is another's by then.
        let pid = self.child.id();
        running.pids.retain(|known| *known != pid);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
