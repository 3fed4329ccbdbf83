//! What an operator asks a running control plane, printed as tables or as JSON.

mod brokers;
mod dump;
mod features;
mod health;
mod quorum;
mod table;

pub use brokers::remove_broker;
pub use dump::dump;
pub use quorum::{change_quorum, quorum};

use anyhow::{Context, bail};
use control_api::client::ControlClient;
use control_api::image::MetadataImage;
use control_api::level::Level;
use control_api::message::{GroupSummary, NodeStatus, RaftGroupStatus, Request, Response};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use table::Table;
use tokio::time::sleep;

/// A node that has not answered by then is as good as down. All are asked side by side, so this is also what a hung one costs.
const TIME_MAX: Duration = Duration::from_secs(1);
/// How long a follower may take to store what its leader had when it was looked at.
const SETTLE_TRIES: u32 = 10;
const SETTLE_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug)]
pub enum Question {
    Status,
    Brokers,
    Topics,
    Groups,
    /// Which feature level the cluster is at, after it was raised to one, where that is asked for.
    Features {
        raise: Option<Level>,
    },
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Table,
    Json,
}

/// What to print, and whether all is well with what was asked for.
#[derive(Debug)]
pub struct Answer {
    pub text: String,
    pub healthy: bool,
}

/// Each controller's address, and what it says of itself or why it says nothing.
type Answers = Vec<(String, Result<NodeStatus, String>)>;

/// Asks the controllers through a client that knows all of them.
pub async fn ask(
    question: Question,
    client: &ControlClient,
    controllers: &[String],
    form: Form,
) -> anyhow::Result<Answer> {
    if matches!(question, Question::Groups) {
        let table = groups_table(&groups(client).await?);
        return Ok(print(&table, form));
    }
    if let Question::Features { raise: Some(level) } = question {
        features::raise(client, level).await?;
    }
    let answers = match question {
        Question::Status => settled(client, controllers).await,
        _ => all_statuses(client, controllers).await,
    };
    let Some(newest) = newest(&answers) else {
        let reasons = answers.iter().filter_map(|(address, answer)| {
            let error = answer.as_ref().err()?;
            Some(format!("{address}: {error}"))
        });
        bail!(
            "no controller answered: {}",
            reasons.collect::<Vec<_>>().join("; ")
        );
    };
    Ok(match question {
        Question::Status => status(&answers, newest, form),
        Question::Topics => print(&topics_table(&newest.image), form),
        Question::Features { .. } => features::describe(&answers, form),
        Question::Brokers | Question::Groups => {
            print(&brokers::table(&newest.image, &last_beats(&answers)), form)
        }
    })
}

async fn statuses(client: &ControlClient, controllers: &[String]) -> Answers {
    let asked = controllers.iter().map(|address| async {
        let answer = client.call_one(address, Request::Status, TIME_MAX).await;
        let status = match answer {
            Ok(Response::Status(status)) => Ok(*status),
            Ok(other) => Err(format!("answered {other:?}")),
            Err(error) => Err(error.to_string()),
        };
        (address.clone(), status)
    });
    futures::future::join_all(asked).await
}

/// All controllers, those too that only the others name.
async fn all_statuses(client: &ControlClient, controllers: &[String]) -> Answers {
    let mut answers = statuses(client, controllers).await;
    let nodes = answers
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().ok());
    let answered: BTreeSet<u64> = nodes.clone().map(|node| node.node).collect();
    let voters = nodes
        .flat_map(|node| &node.groups)
        .flat_map(|group| &group.voters);
    let others = voters.filter(|(id, address)| {
        // A node may have been asked by another name than the others know it by.
        !answered.contains(id) && !controllers.contains(address)
    });
    let others: BTreeSet<String> = others.map(|(_, address)| address.clone()).collect();
    let others: Vec<String> = others.into_iter().collect();
    answers.extend(statuses(client, &others).await);
    answers
}

/// As [`statuses`], and a follower lags only by what its leader had at the start and it has not stored a while later.
async fn settled(client: &ControlClient, controllers: &[String]) -> Answers {
    let mut answers = all_statuses(client, controllers).await;
    let goals = leaders(&answers).map(|leader| (leader.name.clone(), leader.last_log_index));
    let goals: BTreeMap<String, u64> = goals.collect();
    for _ in 0..SETTLE_TRIES {
        if !health::lagging(&answers) {
            break;
        }
        sleep(SETTLE_PAUSE).await;
        // One that did not answer has cost its second.
        let answered = answers.iter().filter(|(_, answer)| answer.is_ok());
        let answered: Vec<String> = answered.map(|(address, _)| address.clone()).collect();
        answers.retain(|(_, answer)| answer.is_err());
        answers.extend(statuses(client, &answered).await);
        let nodes = answers
            .iter_mut()
            .filter_map(|(_, answer)| answer.as_mut().ok());
        for group in nodes.flat_map(|node| &mut node.groups) {
            let (last, goal) = (group.last_log_index, goals.get(&group.name));
            for (_, lag) in &mut group.follower_lag {
                let stored = last.saturating_sub(*lag);
                if goal.is_some_and(|goal| stored >= *goal) {
                    *lag = 0;
                }
            }
        }
    }
    answers
}

fn leaders(answers: &Answers) -> impl Iterator<Item = &RaftGroupStatus> {
    let nodes = answers
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().ok());
    nodes
        .flat_map(|node| &node.groups)
        .filter(|group| group.has_majority)
}

/// The answer that knows most.
fn newest(answers: &Answers) -> Option<&NodeStatus> {
    let known = answers
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().ok());
    known.max_by_key(|node| {
        let applied = node.groups.iter().map(|group| group.applied_index);
        applied.collect::<Vec<_>>()
    })
}

fn print(table: &Table, form: Form) -> Answer {
    Answer {
        text: match form {
            Form::Table => table.text(),
            Form::Json => format!("{:#}\n", table.json()),
        },
        healthy: true,
    }
}

fn status(answers: &Answers, newest: &NodeStatus, form: Form) -> Answer {
    let problems = health::problems(answers);
    let table = status_table(answers);
    let verdict = match problems.is_empty() {
        true => "well",
        false => "not well",
    };
    let image = &newest.image;
    let live = image.live_brokers().count();
    let partitions = image.topics.values().map(|topic| topic.partitions.len());
    let partitions: usize = partitions.sum();
    let text = match form {
        Form::Json => {
            let answer = json!({
                "verdict": verdict,
                "healthy": problems.is_empty(),
                "problems": problems,
                "cluster_id": image.cluster_id,
                "feature_level": newest.feature_level.0,
                "brokers": image.brokers.len(),
                "live_brokers": live,
                "topics": image.topics.len(),
                "partitions": partitions,
                "groups": newest.offset_groups,
                "committed_offsets": newest.committed_offsets,
                "controllers": table.json(),
            });
            format!("{answer:#}\n")
        }
        Form::Table => {
            let mut text = table.text();
            text.push_str(&format!(
                "\ncluster {} at feature level {}: {live} of {} brokers live, {} topics, {partitions} partitions, {} groups with {} offsets\n",
                match image.cluster_id.as_str() {
                    "" => "(not formed)",
                    id => id,
                },
                newest.feature_level,
                image.brokers.len(),
                image.topics.len(),
                newest.offset_groups,
                newest.committed_offsets,
            ));
            text.push_str(&format!("verdict: {verdict}\n"));
            let lines = problems.iter().map(|problem| format!("  {problem}\n"));
            text.extend(lines);
            text
        }
    };
    Answer {
        text,
        healthy: problems.is_empty(),
    }
}

fn status_table(answers: &Answers) -> Table {
    let mut table = Table::new(&[
        "controller",
        "node",
        "version",
        "group",
        "role",
        "leader",
        "majority",
        "term",
        "log",
        "applied",
        "digest",
        "snapshot",
        "snapshot_age_s",
        "follower_lag",
    ]);
    for (address, answer) in answers {
        let Ok(node) = answer else {
            let none = Value::Null;
            let mut cells: [Value; 14] = std::array::from_fn(|_| none.clone());
            cells[0] = json!(address);
            cells[4] = json!("unreachable");
            table.row(cells);
            continue;
        };
        for group in &node.groups {
            let lag = group.follower_lag.iter();
            let lag = lag.map(|(id, entries)| (id.to_string(), json!(entries)));
            // Nodes that have applied as much have equal ones.
            let digest = group.digests.last();
            let digest = digest.map(|(index, digest)| format!("{digest:08x}@{index}"));
            table.row([
                json!(address),
                json!(node.node),
                json!(node.version),
                json!(group.name),
                json!(group.role),
                json!(group.leader),
                json!(group.has_majority),
                json!(group.term),
                json!(group.last_log_index),
                json!(group.applied_index),
                json!(digest),
                json!(group.snapshot_index),
                json!(group.snapshot_age_ms.map(|age_ms| age_ms / 1000)),
                Value::Object(lag.collect()),
            ]);
        }
    }
    table
}

/// By broker: how long ago the leader of `meta` heard from it.
fn last_beats(answers: &Answers) -> BTreeMap<i32, u64> {
    let nodes = answers
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().ok());
    let beats = nodes.flat_map(|node| &node.last_beats_ms);
    beats.map(|(id, age_ms)| (id.0, *age_ms)).collect()
}

/// A row for each partition.
fn topics_table(image: &MetadataImage) -> Table {
    let mut table = Table::new(&[
        "topic",
        "id",
        "partition",
        "leader",
        "leader_epoch",
        "replicas",
        "in_sync",
        "configs",
    ]);
    let topics = image.topic_ids.values();
    for topic in topics.filter_map(|id| image.topics.get(id)) {
        for (number, partition) in topic.partitions.iter().enumerate() {
            let ids = |brokers: &[control_api::ids::BrokerId]| -> Vec<i32> {
                brokers.iter().map(|id| id.0).collect()
            };
            table.row([
                json!(topic.name),
                json!(topic.id.to_string()),
                json!(number),
                json!(partition.leader.map(|leader| leader.0)),
                json!(partition.leader_epoch.0),
                json!(ids(&partition.replicas)),
                json!(ids(&partition.in_sync)),
                json!(topic.configs),
            ]);
        }
    }
    table
}

/// All groups, asked for some at a time.
async fn groups(client: &ControlClient) -> anyhow::Result<Vec<GroupSummary>> {
    let mut groups: Vec<GroupSummary> = Vec::new();
    loop {
        let after = groups.last().map(|group| group.name.clone());
        let answer = client
            .call(Request::ListGroups { after }, 3 * TIME_MAX)
            .await;
        match answer.context("the groups are not known")? {
            Response::Groups(more) if more.is_empty() => return Ok(groups),
            Response::Groups(more) => groups.extend(more),
            other => bail!("a controller answered {other:?}"),
        }
    }
}

fn groups_table(groups: &[GroupSummary]) -> Table {
    let mut table = Table::new(&["group", "committed_offsets"]);
    for group in groups {
        table.row([json!(group.name), json!(group.offsets)]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::handshake::{Party, Role, accept};
    use control_api::secret::Secret;
    use tokio::net::TcpListener;

    fn party() -> Party {
        Party::client(Secret::none(), String::new())
    }

    /// A controller that is stopped before it says who it is, or behind that.
    async fn hung(greets: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                if greets {
                    accept(&mut stream, &party()).await.unwrap();
                }
                kept.push(stream);
            }
        });
        address
    }

    /// Two timers of one thread: whatever else the machine does meanwhile, the shorter one ends first.
    #[tokio::test]
    async fn controllers_that_hang_cost_a_second_all_together() {
        let mut addresses = Vec::new();
        for greets in [false, true, true] {
            addresses.push(hung(greets).await);
        }
        let client = ControlClient::new(addresses.clone(), party(), Role::Operator);
        let longer = sleep(Duration::from_millis(1_500));
        tokio::select! {
            biased;
            answer = ask(Question::Status, &client, &addresses, Form::Table) => {
                let error = answer.unwrap_err().to_string();
                assert!(error.contains("no controller answered"), "{error}");
            }
            () = longer => panic!("the answer takes longer than a second"),
        }
    }
}
