//! Prints what a controller has on disk, one line for each thing, without a running process: snapshots first, then logs.
//!
//! Only the log's lock is taken, so that no process writes meanwhile; nothing is changed, a torn tail is not cut.

use super::Form;
use crate::command::{MetaCommand, OffsetsCommand};
use crate::member::node_of;
use crate::meta::MetaState;
use crate::offsets::OffsetsState;
use crate::raft::{Record, read_records, read_snapshot, read_state};
use anyhow::{Context, bail};
use control_api::codec::{self, Format};
use control_api::message::OffsetSelection;
use serde_json::json;
use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Meta,
    Offsets,
}

impl Kind {
    const ALL: [Kind; 2] = [Kind::Meta, Kind::Offsets];

    fn name(self) -> &'static str {
        match self {
            Kind::Meta => "meta",
            Kind::Offsets => "offsets",
        }
    }

    fn named(path: &Path) -> Option<Kind> {
        let name = path.file_name()?;
        Kind::ALL.into_iter().find(|kind| name == kind.name())
    }
}

/// `path`: a controller's data directory, or the directory of one Raft group in it.
pub fn dump(path: &Path, form: Form, out: &mut impl Write) -> anyhow::Result<()> {
    let shown = path.display();
    let inside = Kind::ALL.map(|kind| (kind, path.join(kind.name())));
    let groups: Vec<_> = match Kind::named(path) {
        Some(kind) => vec![(kind, path.to_owned())],
        None => inside
            .into_iter()
            .filter(|(_, path)| path.is_dir())
            .collect(),
    };
    if groups.is_empty() {
        bail!("{shown} is no data directory of a controller: it has neither meta nor offsets");
    }
    for (kind, directory) in groups {
        let mut lines = Lines { kind, form, out };
        let snapshot = directory.join("snapshot");
        if snapshot.exists() {
            lines
                .snapshot(&snapshot)
                .with_context(|| format!("cannot read {}", snapshot.display()))?;
        }
        let log = directory.join("log");
        if log.is_dir() {
            read_records(&log, |record| lines.record(record))
                .with_context(|| format!("cannot read {}", log.display()))?;
        }
    }
    Ok(())
}

struct Lines<'a, W> {
    kind: Kind,
    form: Form,
    out: &'a mut W,
}

impl<W: Write> Lines<'_, W> {
    fn line(&mut self, what: &str, place: Option<(u64, u64)>, text: &str) -> io::Result<()> {
        let group = self.kind.name();
        let (term, index) = place.unzip();
        if self.form == Form::Json {
            let line =
                json!({"group": group, "what": what, "term": term, "index": index, "text": text});
            return writeln!(self.out, "{line}");
        }
        let place = place.map(|(term, index)| format!("term {term} index {index} "));
        writeln!(
            self.out,
            "{group} {what} {}{text}",
            place.unwrap_or_default()
        )
    }

    fn record(&mut self, record: Record) -> io::Result<()> {
        match record {
            Record::Vote {
                term,
                node,
                committed,
            } => {
                let committed = if committed {
                    ", granted by a majority"
                } else {
                    ""
                };
                let node = node_of(node);
                let text = format!("for node {node} in term {term}{committed}");
                self.line("vote", None, &text)
            }
            Record::Command { term, index, bytes } => {
                let text = match self.kind {
                    Kind::Meta => command::<MetaCommand>(&bytes),
                    Kind::Offsets => command::<OffsetsCommand>(&bytes),
                };
                self.line("command", Some((term, index)), &text)
            }
            Record::Other { what, place, text } => self.line(what, place, &text),
        }
    }

    fn snapshot(&mut self, file: &Path) -> anyhow::Result<()> {
        let (meta, bytes) = read_snapshot(File::open(file)?)?;
        let place = meta.last_log_id.as_ref();
        let place = place.map(|id| (id.committed_leader_id().term, id.index));
        let members = format!("of members {}", meta.last_membership.membership());
        self.line("snapshot", place, &members)?;
        match self.kind {
            Kind::Meta => self.meta(&read_state(&bytes)?)?,
            Kind::Offsets => self.offsets(&read_state(&bytes)?)?,
        }
        Ok(())
    }

    fn meta(&mut self, state: &MetaState) -> io::Result<()> {
        let image = state.image();
        let level = state.feature_level();
        self.line(
            "cluster",
            None,
            &format!("{} at feature level {level}", image.cluster_id),
        )?;
        for broker in image.brokers.values() {
            self.line("broker", None, &format!("{broker:?}"))?;
        }
        for topic in image.topics.values() {
            let configs = &topic.configs;
            self.line(
                "topic",
                None,
                &format!("{} {} {configs:?}", topic.name, topic.id),
            )?;
            for (number, partition) in topic.partitions.iter().enumerate() {
                self.line(
                    "partition",
                    None,
                    &format!("{}-{number} {partition:?}", topic.name),
                )?;
            }
        }
        for (broker, configs) in &image.broker_configs {
            let whose = broker.map_or("all brokers".to_owned(), |id| format!("broker {id}"));
            self.line("configs", None, &format!("of {whose} {configs:?}"))?;
        }
        for (shard, record) in image.coordinators.iter().enumerate() {
            self.line("coordinator", None, &format!("{shard} {record:?}"))?;
        }
        self.line(
            "next producer id",
            None,
            &image.next_producer_id.to_string(),
        )
    }

    fn offsets(&mut self, state: &OffsetsState) -> io::Result<()> {
        for group in state.groups_after(None) {
            self.line(
                "group",
                None,
                &format!("{} with {} offsets", group.name, group.offsets),
            )?;
            for committed in state.fetch(&group.name, &OffsetSelection::All) {
                let text = format!(
                    "{} {}-{} offset {} at {} ms, leader epoch {}, metadata {:?}",
                    group.name,
                    committed.topic,
                    committed.partition,
                    committed.offset,
                    committed.timestamp_ms,
                    committed.leader_epoch,
                    committed.metadata
                );
                self.line("offset", None, &text)?;
            }
        }
        Ok(())
    }
}

/// A command that this version cannot read is said to be so, and what follows it is still printed.
fn command<T: Format + Debug>(bytes: &[u8]) -> String {
    match codec::decode::<T>(bytes) {
        Ok(command) => format!("{command:?}"),
        Err(error) => format!("{} bytes that cannot be read: {error}", bytes.len()),
    }
}
