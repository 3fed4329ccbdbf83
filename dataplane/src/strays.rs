//! Partitions on disk that the metadata does not have: set aside, and taken back when their topic comes back.
//!
//! ```text
//!   topics/<name>-<topic id>/<partition>  <──>  stray/<name>-<topic id>/<partition>
//! ```
//! Nothing is deleted here: a control plane that lost its state would otherwise take the data with it. Each partition is looked after
//! by the shard that holds it, or would. What does not look like a topic's directory, such as `lost+found`, is none of ours.

use crate::io::Io;
use crate::partition_request::PartitionKey;
use control_api::ids::TopicId;
use std::io;
use std::path::{Path, PathBuf};

/// Where topics are, below the data directory.
const TOPICS: &str = "topics";
const STRAY: &str = "stray";

/// The directory of a topic. Its id keeps it apart from an earlier topic of the same name, and a long name is cut to what a file
/// system takes.
pub fn topic_directory(data: &Path, name: &str, id: TopicId) -> PathBuf {
    data.join(TOPICS).join(directory_name(name, id))
}

fn directory_name(name: &str, id: TopicId) -> String {
    const NAME_BYTES_MAX: usize = 200;
    // Topic names are ASCII, so a cut never splits a character; anything else is the control plane's mistake.
    let shown = name
        .get(..NAME_BYTES_MAX.min(name.len()))
        .unwrap_or("topic");
    format!("{shown}-{id}")
}

/// The topic that a directory of this name belongs to, if it is one of ours.
fn topic_of(directory: &str) -> Option<TopicId> {
    let (name, digits) = directory.rsplit_once('-')?;
    let lower_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if name.is_empty() || digits.len() != 32 || !digits.bytes().all(lower_hex) {
        return None;
    }
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(0..) {
        *byte = u8::from_str_radix(&digits[2 * pair..2 * pair + 2], 16).ok()?;
    }
    Some(TopicId(id))
}

/// The partition that a directory of this name belongs to.
fn partition_of(directory: &str) -> Option<i32> {
    let number: i32 = directory.parse().ok()?;
    (number >= 0 && number.to_string() == directory).then_some(number)
}

/// Every partition that has a directory and that `is_stray` says the metadata does not have.
pub(crate) async fn find<I: Io>(
    io: &I,
    data: &Path,
    is_stray: impl Fn(PartitionKey) -> bool,
) -> Vec<(PartitionKey, PathBuf)> {
    let topics = data.join(TOPICS);
    let mut found = Vec::new();
    for directory in list(io, &topics).await {
        let Some(topic) = topic_of(&directory) else {
            continue;
        };
        for name in list(io, &topics.join(&directory)).await {
            let Some(partition) = partition_of(&name) else {
                continue;
            };
            let key = PartitionKey { topic, partition };
            if is_stray(key) {
                found.push((key, topics.join(&directory).join(name)));
            }
        }
    }
    found
}

/// Moves a partition's directory out of the way. Nobody may have its log open.
pub(crate) async fn set_aside<I: Io>(io: &I, data: &Path, partition: &Path) -> io::Result<()> {
    let Some((topic, shown, name)) = parts_of(partition) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let stray = data.join(STRAY).join(shown);
    io.create_directories(&stray).await?;
    // A partition that was set aside before and not taken back keeps its place.
    let taken = io.list(&stray).await?;
    let names =
        std::iter::once(name.to_owned()).chain((1..).map(|number| format!("{name}.{number}")));
    let mut free = names.filter(|name| !taken.contains(name));
    let place = free.next().map(|name| stray.join(name));
    let place = place.ok_or(io::ErrorKind::AlreadyExists)?;
    io.rename(partition, &place).await?;
    tracing::warn!(from = %partition.display(), to = %place.display(), "set aside a partition that the metadata does not have");
    make_last(io, data, &stray).await?;
    io.sync_directory(topic).await?;
    // Fails while other partitions of the topic are still there.
    let _ = io.remove_directory(topic).await;
    Ok(())
}

/// Brings a partition back whose topic is there again, so that it goes on where it ended.
pub(crate) async fn take_back<I: Io>(io: &I, data: &Path, partition: &Path) -> io::Result<()> {
    let Some((topic, shown, name)) = parts_of(partition) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let stray = data.join(STRAY).join(shown);
    match io.list(&stray).await {
        Ok(names) if names.iter().any(|known| known == name) => {}
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    io.create_directories(topic).await?;
    if io.list(topic).await?.iter().any(|known| known == name) {
        tracing::warn!(directory = %partition.display(), "a partition was set aside and is there all the same: what is there counts");
        return Ok(());
    }
    io.rename(&stray.join(name), partition).await?;
    tracing::warn!(directory = %partition.display(), "took back a partition that was set aside");
    make_last(io, data, topic).await?;
    io.sync_directory(&stray).await?;
    // Fails while other partitions of the topic are still there.
    let _ = io.remove_directory(&stray).await;
    Ok(())
}

/// Makes a new name in `directory` last, and those of the directories down to it.
async fn make_last<I: Io>(io: &I, data: &Path, directory: &Path) -> io::Result<()> {
    for directory in directory.ancestors().take_while(|at| at.starts_with(data)) {
        io.sync_directory(directory).await?;
    }
    Ok(())
}

/// The topic's directory, its name, and the partition's.
fn parts_of(partition: &Path) -> Option<(&Path, &str, &str)> {
    let topic = partition.parent()?;
    Some((
        topic,
        topic.file_name()?.to_str()?,
        partition.file_name()?.to_str()?,
    ))
}

/// What a directory holds; nothing where there is none, or none that we may look into.
async fn list<I: Io>(io: &I, directory: &Path) -> Vec<String> {
    match io.list(directory).await {
        Ok(names) => names,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(directory = %directory.display(), %error, "cannot look for partitions of topics that are gone");
            }
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_that_we_give_is_a_topics_directory() {
        let id = TopicId([0xab; 16]);
        for name in ["t", "a-b-c", &"long".repeat(60)] {
            assert_eq!(topic_of(&directory_name(name, id)), Some(id));
        }
        let digits = id.to_string();
        let others = [
            "lost+found".to_owned(),
            "README".to_owned(),
            digits.clone(),
            format!("-{digits}"),
            format!("t-{}", digits.to_uppercase()),
            format!("t-{}", &digits[1..]),
            format!("t-{}é", &digits[2..]),
            ".Trash-1000".to_owned(),
        ];
        for other in others {
            assert_eq!(topic_of(&other), None, "{other}");
        }
    }
}
