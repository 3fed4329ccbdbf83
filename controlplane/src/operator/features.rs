//! The cluster's feature level: which programs support what, and raising it.

use super::table::Table;
use super::{Answer, Answers, Form, TIME_MAX, newest, print};
use anyhow::Context;
use control_api::client::ControlClient;
use control_api::level::{FEATURE_NAME, Level};
use control_api::message::{Request, Response};
use serde_json::json;

/// Asking every controller takes its time.
const TRIES_PER_RAISE: u32 = 5;

pub(super) async fn raise(client: &ControlClient, level: Level) -> anyhow::Result<()> {
    let request = Request::RaiseFeatureLevel {
        level,
        validate_only: false,
    };
    let answer = client.call(request, TRIES_PER_RAISE * TIME_MAX).await;
    match answer.context("the feature level is not raised")? {
        Response::Done(results) => results.into_iter().collect::<Result<(), _>>()?,
        other => anyhow::bail!("a controller answered {other:?}"),
    }
    Ok(())
}

/// One row for each program.
pub(super) fn describe(answers: &Answers, form: Form) -> Answer {
    let mut table = Table::new(&["feature", "process", "version", "supports", "finalized"]);
    for (address, answer) in answers {
        let row = match answer {
            Ok(node) => [
                json!(FEATURE_NAME),
                json!(format!("controller {}", node.node)),
                json!(node.version),
                json!(node.levels.to_string()),
                json!(node.feature_level.0),
            ],
            Err(_) => [
                json!(FEATURE_NAME),
                json!(format!("controller at {address}")),
                json!(null),
                json!("unreachable"),
                json!(null),
            ],
        };
        table.row(row);
    }
    let image = newest(answers).map(|node| &node.image);
    for broker in image.iter().flat_map(|image| image.brokers.values()) {
        table.row([
            json!(FEATURE_NAME),
            json!(format!("broker {}", broker.id)),
            json!(broker.version),
            json!(broker.levels.to_string()),
            json!(image.map(|image| image.feature_level.0)),
        ]);
    }
    print(&table, form)
}
