//! What an operator sees: exit codes, one clear line when something is wrong, tables when asked.

use crate::support::{self, Cluster, PROGRAM};
use std::fs;
use std::process::Command;

/// Runs the program to its end; answers with exit code, output and error lines.
fn run(arguments: &[String]) -> (Option<i32>, String, String) {
    let output = Command::new(PROGRAM).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn fails_with_one_line(arguments: &[String], reason: &str) {
    let (code, _, errors) = run(arguments);
    assert_eq!(code, Some(1), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.contains(reason), "{errors}");
}

#[tokio::test]
async fn clusters_of_one_three_and_five_form_and_end_with_success_on_sigterm() {
    for nodes in [1, 3, 5] {
        let mut cluster = Cluster::start(nodes, &[]).await;
        cluster.caught_up(nodes).await;
        for node in 1..=nodes {
            assert_eq!(
                cluster.terminate(node).await,
                Some(0),
                "node {node} of {nodes}"
            );
        }
    }
}

#[tokio::test]
async fn a_directory_or_port_in_use_is_one_clear_line() {
    let mut cluster = Cluster::start(1, &[]).await;
    fails_with_one_line(&cluster.arguments(1), "in use by another controller");
    let mut elsewhere = cluster.arguments(1);
    let data = elsewhere
        .iter()
        .position(|argument| argument == "--data")
        .unwrap();
    elsewhere[data + 1] = cluster.directory.join("elsewhere").display().to_string();
    fails_with_one_line(&elsewhere, "cannot listen on 127.0.0.1");
    assert_eq!(cluster.terminate(1).await, Some(0));
}

#[tokio::test]
async fn a_damaged_directory_is_one_clear_line() {
    let mut cluster = Cluster::start(1, &["--snapshot-log-bytes", "1"]).await;
    support::eventually("a snapshot", async || {
        cluster.data(1).join("meta/snapshot").exists().then_some(())
    })
    .await;
    assert_eq!(cluster.terminate(1).await, Some(0));
    let snapshot = cluster.data(1).join("meta/snapshot");
    let good = fs::read(&snapshot).unwrap();
    let mut bytes = good.clone();
    bytes[30] ^= 1;
    fs::write(&snapshot, bytes).unwrap();
    fails_with_one_line(&cluster.arguments(1), "damaged");
    fs::write(&snapshot, good).unwrap();
    fs::write(cluster.data(1).join("identity"), "nonsense").unwrap();
    fails_with_one_line(&cluster.arguments(1), "damaged");
}

#[test]
fn bad_flags_are_refused() {
    let serve = |peers: &str, id: &str| {
        let flags = [
            "serve",
            "--id",
            id,
            "--peers",
            peers,
            "--listen",
            "127.0.0.1:1",
            "--metrics",
            "127.0.0.1:2",
        ];
        let data = std::env::temp_dir()
            .join("millrace-never-created")
            .display()
            .to_string();
        let flags = flags.iter().map(|flag| flag.to_string());
        flags
            .chain(["--data".to_owned(), data])
            .collect::<Vec<String>>()
    };
    fails_with_one_line(&serve("1=a:1,2=b:1", "1"), "there must be 1, 3 or 5");
    fails_with_one_line(&["serve".to_owned()], "required");
    fails_with_one_line(&serve("1=a:1", "4"), "not among the peers");
}

#[tokio::test]
async fn an_operator_gets_tables() {
    let cluster = Cluster::start(3, &["--session-ms", "60000"]).await;
    let client = cluster.client();
    let broker = support::Broker::register(&client, 7, 1).await.unwrap();
    broker.beat(&client).await.unwrap();
    support::create(&client, "orders").await;
    support::commit(&client, vec![support::offset("billing", "orders", 0, 5)]).await;
    let addresses: Vec<String> = cluster.addresses.values().cloned().collect();
    let ask = |what: &str| {
        let (code, table, errors) = run(&[
            what.to_owned(),
            "--controllers".to_owned(),
            addresses.join(","),
        ]);
        assert_eq!(code, Some(0), "{errors}");
        table
    };
    assert_eq!(ask("status").lines().count(), 7);
    for (what, cell) in [
        ("brokers", "localhost:9092"),
        ("topics", "orders"),
        ("groups", "billing"),
    ] {
        assert!(ask(what).contains(cell), "{what}");
    }
}
