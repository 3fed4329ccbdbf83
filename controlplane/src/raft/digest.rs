//! A running checksum over what a node has applied, by which an operator can tell that two nodes have drifted apart.
//!
//! Each entry's checksum goes on from that of the entry before, so equal ones at an index vouch for everything up to it. What an
//! entry was answered with is part of it, but for how errors are worded, and what it made of the metadata: nodes that read the
//! same log differently differ here too. It travels with the snapshot of the state that it is about.

use control_api::codec;
use control_api::ids::Position;
use control_api::level::Level;
use control_api::message::{ControlError, Response};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::io;

/// Nodes are compared at an index that they have both applied, so the last few are kept.
const KEPT_MAX: usize = 64;

#[derive(Clone, Debug, Default)]
pub(crate) struct Digests {
    current: u32,
    recent: VecDeque<(u64, u32)>,
}

impl Digests {
    /// `level`: the one after the command, which decides what the answer looks like. `state`: a digest of the state after it.
    pub(crate) fn push(
        &mut self,
        at: Position,
        command: &[u8],
        (level, response): (Level, &Response),
        state: u64,
    ) {
        let numbers = [at.term, at.index, state].map(u64::to_le_bytes).concat();
        let answer = codec::encode_at(level, &*without_texts(response));
        let parts = [&numbers, command, &answer];
        let digest = parts.into_iter().fold(self.current, |digest, part| {
            crc32c::crc32c_append(digest, part)
        });
        self.keep(at.index, digest);
    }

    /// By index, the newest last.
    pub(crate) fn recent(&self) -> Vec<(u64, u32)> {
        self.recent.iter().copied().collect()
    }

    fn keep(&mut self, index: u64, digest: u32) {
        self.current = digest;
        if self.recent.len() == KEPT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((index, digest));
    }

    /// Behind a state's bytes, for a snapshot of it.
    pub(crate) fn seal(&self, mut state: Vec<u8>) -> Vec<u8> {
        state.extend_from_slice(&self.current.to_le_bytes());
        state
    }

    /// What [`Digests::seal`] gave for a state at `index`, apart again.
    pub(crate) fn unseal(sealed: &[u8], index: u64) -> io::Result<(&[u8], Digests)> {
        let (state, digest) = sealed.split_last_chunk::<4>().ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "a snapshot without a digest")
        })?;
        let mut digests = Digests::default();
        digests.keep(index, u32::from_le_bytes(*digest));
        Ok((state, digests))
    }
}

/// What is the same in every program that supports the level.
fn without_texts(response: &Response) -> Cow<'_, Response> {
    fn stripped<T: Clone>(answers: &[Result<T, ControlError>]) -> Vec<Result<T, ControlError>> {
        let strip = |error: ControlError| error.without_text();
        let answers = answers.iter();
        answers.map(|one| one.clone().map_err(strip)).collect()
    }
    Cow::Owned(match response {
        Response::Error(error) => Response::Error(error.without_text()),
        Response::Done(answers) if answers.iter().any(Result::is_err) => {
            Response::Done(stripped(answers))
        }
        Response::Topics(answers) if answers.iter().any(Result::is_err) => {
            Response::Topics(stripped(answers))
        }
        _ => return Cow::Borrowed(response),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64) -> Position {
        Position { term: 1, index }
    }

    fn applied(commands: &[&str]) -> Digests {
        let mut digests = Digests::default();
        for (index, command) in (1..).zip(commands) {
            digests.push(
                at(index),
                command.as_bytes(),
                (Level::FIRST, &Response::Done(Vec::new())),
                0,
            );
        }
        digests
    }

    #[test]
    fn a_digest_vouches_for_everything_before() {
        let (ours, theirs) = (applied(&["a", "b", "c"]), applied(&["x", "b", "c"]));
        assert_ne!(ours.recent()[2], theirs.recent()[2]);
        assert_eq!(ours.recent(), applied(&["a", "b", "c"]).recent());
    }

    #[test]
    fn one_log_read_in_two_ways_differs() {
        let mut other = applied(&["a"]);
        let mut ours = other.clone();
        let mut third = other.clone();
        ours.push(
            at(2),
            b"b",
            (Level::FIRST, &Response::Done(vec![Ok(())])),
            5,
        );
        other.push(at(2), b"b", (Level::FIRST, &Response::Done(Vec::new())), 5);
        third.push(at(2), b"b", (Level::FIRST, &Response::Done(Vec::new())), 6);
        assert_ne!(ours.recent(), other.recent());
        assert_ne!(third.recent(), other.recent());
    }

    #[test]
    fn how_an_error_is_worded_makes_no_difference_and_which_it_is_does() {
        let worded = |text: &str| ControlError::InvalidTopic(text.to_owned());
        let digest = |response: Response| {
            let mut digests = Digests::default();
            digests.push(at(1), b"a", (Level::FIRST, &response), 0);
            digests.recent()
        };
        let done = |error| digest(Response::Done(vec![Ok(()), Err(error)]));
        assert_eq!(done(worded("one")), done(worded("other")));
        assert_ne!(done(worded("one")), done(ControlError::TopicExists));
        let topics = |error| digest(Response::Topics(vec![Err(error)]));
        assert_eq!(topics(worded("one")), topics(worded("other")));
        let refused = |error| digest(Response::Error(error));
        assert_eq!(refused(worded("one")), refused(worded("other")));
        assert_ne!(refused(worded("one")), refused(ControlError::UnknownBroker));
    }

    #[test]
    fn a_snapshot_takes_it_along() {
        let ours = applied(&["a", "b"]);
        let sealed = ours.seal(b"state".to_vec());
        let (state, mut again) = Digests::unseal(&sealed, 2).unwrap();
        assert_eq!(state, b"state");
        again.push(at(3), b"c", (Level::FIRST, &Response::Done(Vec::new())), 0);
        assert_eq!(
            again.recent().last(),
            applied(&["a", "b", "c"]).recent().last()
        );
        assert!(Digests::unseal(b"abc", 1).is_err());
    }
}
