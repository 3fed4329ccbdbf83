//! The process that is killed, and the command that brings it back.

use std::fs;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

pub(super) struct Victim(Pid);

impl Victim {
    /// A process that exists and may be killed.
    pub(super) fn find(pid: i32) -> Result<Self> {
        let found = Pid::from_raw(pid).context("0 is no process")?;
        test_kill_process(found).with_context(|| format!("cannot kill process {pid}"))?;
        Ok(Self(found))
    }

    pub(super) fn kill(&self) -> Result<()> {
        kill_process(self.0, Signal::KILL).context("cannot kill the process")
    }

    /// Whether it holds nothing any more, neither memory nor sockets: its parent may not have asked yet how it ended.
    pub(super) fn is_gone(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.as_raw_nonzero()));
        stat.map_or(true, |stat| has_ended(&stat))
    }
}

fn has_ended(stat: &str) -> bool {
    // The state follows the name, which is in parentheses and may itself hold some.
    let state = stat.rsplit_once(')').map(|(_, fields)| fields.trim_start());
    state.is_none_or(|state| state.starts_with(['Z', 'X']))
}

/// A restart command on its way.
pub(super) struct Restart(Child);

impl Restart {
    pub(super) fn start(command: &str) -> Result<Self> {
        let child = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        child.map(Self).context("cannot run the restart command")
    }

    /// Fails once the command has failed.
    pub(super) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.0.try_wait().context("the restart command is lost")? {
            ensure!(status.success(), "the restart command ended with {status}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_process_is_gone_before_its_parent_has_seen_it() {
        assert!(!has_ended("7 (a) Z) S 1 7"));
        assert!(has_ended("7 (a) S) Z 1 7"));
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let victim = Victim::find(child.id() as i32).unwrap();
        assert!(!victim.is_gone());
        victim.kill().unwrap();
        while !victim.is_gone() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(victim.is_gone());
        assert!(Victim::find(i32::MAX).is_err());
    }

    #[test]
    fn a_restart_command_that_fails_is_noticed() {
        let mut restart = Restart::start("exit 3").unwrap();
        let complaint = loop {
            if let Err(error) = restart.check() {
                break error.to_string();
            }
        };
        assert!(complaint.contains("exit status: 3"), "{complaint}");
    }
}
