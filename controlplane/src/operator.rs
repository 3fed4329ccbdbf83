//! What an operator asks a running control plane, printed as tables.

use anyhow::{Context, bail};
use control_api::client::ControlClient;
use control_api::image::MetadataImage;
use control_api::message::{GroupSummary, NodeStatus, Request, Response};
use std::fmt::Write;
use std::time::Duration;

const TIME_MAX: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug)]
pub enum Question {
    Status,
    Brokers,
    Topics,
    Groups,
}

/// Asks the controllers at these addresses and answers with the text to print.
pub async fn ask(question: Question, controllers: &[String]) -> anyhow::Result<String> {
    let client = ControlClient::new(controllers.to_vec());
    let mut answers = Vec::new();
    for address in controllers {
        let answer = client.call_one(address, Request::Status, TIME_MAX).await;
        let status = match answer {
            Ok(Response::Status(status)) => Ok(status),
            Ok(other) => bail!("{address} answered {other:?}"),
            Err(error) => Err(error.to_string()),
        };
        answers.push((address.as_str(), status));
    }
    let known = answers
        .iter()
        .filter_map(|(_, status)| status.as_ref().ok());
    let newest = known.max_by_key(|status| applied(status));
    let newest = newest.context("no controller answered")?;
    Ok(match question {
        Question::Status => status_table(&answers),
        Question::Brokers => brokers_table(&newest.image),
        Question::Topics => topics_table(&newest.image),
        Question::Groups => groups_table(&groups(&client).await?),
    })
}

fn applied(status: &NodeStatus) -> Vec<u64> {
    status
        .groups
        .iter()
        .map(|group| group.applied_index)
        .collect()
}

fn status_table(answers: &[(&str, Result<NodeStatus, String>)]) -> String {
    let mut table = Table::new(&[
        "CONTROLLER",
        "NODE",
        "GROUP",
        "ROLE",
        "LEADER",
        "TERM",
        "LOG",
        "APPLIED",
        "FOLLOWER LAG",
    ]);
    for (address, status) in answers {
        let Ok(status) = status else {
            table.row(&[address, "-", "-", "unreachable"]);
            continue;
        };
        for group in &status.groups {
            let lag = group
                .follower_lag
                .iter()
                .map(|(id, entries)| format!("{id}:{entries}"));
            table.row(&[
                address,
                &status.node.to_string(),
                &group.name,
                &group.role,
                &group
                    .leader
                    .map_or("-".to_owned(), |leader| leader.to_string()),
                &group.term.to_string(),
                &group.last_log_index.to_string(),
                &group.applied_index.to_string(),
                &lag.collect::<Vec<_>>().join(" "),
            ]);
        }
    }
    table.text()
}

fn brokers_table(image: &MetadataImage) -> String {
    let mut table = Table::new(&["BROKER", "ADDRESS", "EPOCH", "STATE", "LEADS"]);
    for broker in image.brokers.values() {
        let state = match (broker.fenced, broker.shutting_down) {
            (true, _) => "fenced",
            (false, true) => "shutting down",
            (false, false) => "live",
        };
        let partitions = image.topics.values().flat_map(|topic| &topic.partitions);
        let led = partitions
            .filter(|one| one.leader == Some(broker.id))
            .count();
        table.row(&[
            &broker.id.to_string(),
            &format!("{}:{}", broker.host, broker.port),
            &broker.epoch.0.to_string(),
            state,
            &led.to_string(),
        ]);
    }
    table.text()
}

fn topics_table(image: &MetadataImage) -> String {
    let mut table = Table::new(&["TOPIC", "ID", "PARTITIONS", "OFFLINE", "CONFIGS"]);
    let topics = image
        .topic_ids
        .values()
        .filter_map(|id| image.topics.get(id));
    for topic in topics {
        let offline = topic
            .partitions
            .iter()
            .filter(|one| one.leader.is_none())
            .count();
        let configs = topic
            .configs
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        table.row(&[
            &topic.name,
            &topic.id.to_string(),
            &topic.partitions.len().to_string(),
            &offline.to_string(),
            &configs.collect::<Vec<_>>().join(","),
        ]);
    }
    table.text()
}

/// All groups, asked for some at a time.
async fn groups(client: &ControlClient) -> anyhow::Result<Vec<GroupSummary>> {
    let mut groups: Vec<GroupSummary> = Vec::new();
    loop {
        let after = groups.last().map(|group| group.name.clone());
        match client.call(Request::ListGroups { after }, TIME_MAX).await? {
            Response::Groups(more) if more.is_empty() => return Ok(groups),
            Response::Groups(more) => groups.extend(more),
            other => bail!("a controller answered {other:?}"),
        }
    }
}

fn groups_table(groups: &[GroupSummary]) -> String {
    let mut table = Table::new(&["GROUP", "COMMITTED OFFSETS"]);
    for group in groups {
        table.row(&[&group.name, &group.offsets.to_string()]);
    }
    table.text()
}

/// Rows of cells, each column as wide as its widest.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(head: &[&str]) -> Self {
        let mut table = Table { rows: Vec::new() };
        table.row(head);
        table
    }

    fn row(&mut self, cells: &[&str]) {
        self.rows
            .push(cells.iter().map(|cell| cell.to_string()).collect());
    }

    fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "{cell:width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}
