//! What an operator sees: exit codes, one clear line when something is wrong, tables when asked.

use crate::support::{self, Cluster, PROGRAM};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
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

pub(crate) fn fails_with_one_line(arguments: &[String], reason: &str) {
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

/// A flag goes before the file; what the file says is checked as a flag is.
#[tokio::test]
async fn settings_may_stand_in_a_file() {
    let cluster = Cluster::start(1, &[]).await;
    let file = cluster.directory.join("controller.toml");
    let (listen, metrics) = (&cluster.addresses[&1], &cluster.metrics[&1]);
    let data = cluster.data(1).display().to_string();
    let mut settings = format!(
        "id = 1\nlisten = {listen:?}\npeers = \"1={listen}\"\nmetrics = {metrics:?}\ndata = {data:?}\n"
    );
    let serve = |more: &[&str]| {
        let arguments = ["serve", "--config", &file.display().to_string()];
        let arguments = arguments.iter().chain(more);
        arguments.map(|one| one.to_string()).collect::<Vec<_>>()
    };
    fs::write(&file, &settings).unwrap();
    fails_with_one_line(&serve(&[]), "in use by another controller");
    fails_with_one_line(&serve(&["--id", "2"]), "not among the peers");
    settings.push_str("session_ms = 200\noffsets_retention_minutes = 5\n");
    fs::write(&file, &settings).unwrap();
    fails_with_one_line(&serve(&[]), "--session-ms 200 is too short");
    fails_with_one_line(
        &serve(&["--session-ms=1000"]),
        "in use by another controller",
    );
    fs::write(&file, "offsets_retention_minutes = 0\n").unwrap();
    fails_with_one_line(&serve(&[]), "offsets-retention-minutes");
    for (wrong, reason) in [
        ("colour = 3", "colour is no setting"),
        ("id", "is not a configuration"),
    ] {
        fs::write(&file, wrong).unwrap();
        fails_with_one_line(&serve(&[]), reason);
    }
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
    let with = |more: &[&str]| {
        let more = more.iter().map(|one| one.to_string());
        serve("1=a:1", "1")
            .into_iter()
            .chain(more)
            .collect::<Vec<_>>()
    };
    fails_with_one_line(
        &with(&["--session-ms", "100"]),
        "--session-ms 100 is too short",
    );
    fails_with_one_line(
        &with(&["--election-ms", "100"]),
        "--election-ms 100 is too short",
    );
    fails_with_one_line(
        &with(&["--election-ms", "900"]),
        "--session-ms 1000 is too short",
    );
}

/// Asks a running control plane; answers with the exit code and the output.
fn ask(cluster: &Cluster, what: &str, more: &[&str]) -> (Option<i32>, String) {
    let addresses: Vec<String> = cluster.addresses.values().cloned().collect();
    let secret = cluster.secret().display().to_string();
    let addresses = addresses.join(",");
    let arguments = [what, "--controllers", &addresses, "--secret-file", &secret];
    let arguments = arguments.iter().chain(more).map(|one| one.to_string());
    let (code, output, errors) = run(&arguments.collect::<Vec<_>>());
    assert_eq!(errors, "");
    (code, output)
}

/// The same as JSON.
fn ask_json(cluster: &Cluster, what: &str) -> (Option<i32>, Value) {
    let (code, output) = ask(cluster, what, &["--json"]);
    (code, serde_json::from_str(&output).unwrap())
}

/// A cluster with a broker that does not need to beat, a topic and a group.
async fn cluster_in_use() -> Cluster {
    let cluster = Cluster::start(3, &["--session-ms", "60000"]).await;
    let client = cluster.client();
    let broker = support::Broker::register(&client, 7, 1).await.unwrap();
    broker.beat(&client).await.unwrap();
    support::create(&client, "orders").await;
    support::commit(&client, vec![support::offset("billing", "orders", 0, 5)]).await;
    for node in 1..=3 {
        cluster.caught_up(node).await;
    }
    cluster
}

#[tokio::test]
async fn an_operator_gets_tables_and_the_same_as_json() {
    let cluster = cluster_in_use().await;
    let (code, table) = ask(&cluster, "status", &[]);
    assert_eq!(code, Some(0), "{table}");
    assert!(table.contains("verdict: well"), "{table}");
    assert!(
        table.contains("1 of 1 brokers live, 1 topics, 3 partitions, 1 groups"),
        "{table}"
    );
    let (_, status) = ask_json(&cluster, "status");
    assert_eq!(status["healthy"], true, "{status}");
    // Whoever is asked names the others.
    let follower =
        (1..=3).find(|node| status["controllers"][2 * (*node as usize - 1)]["role"] == "follower");
    let alone = &cluster.addresses[&follower.unwrap()];
    let secret = cluster.secret().display().to_string();
    let arguments = [
        "status",
        "--controllers",
        alone,
        "--json",
        "--secret-file",
        &secret,
    ];
    let (code, output, _) = run(&arguments.map(str::to_owned));
    let alone: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(
        (code, &alone["healthy"]),
        (Some(0), &json!(true)),
        "{alone}"
    );
    assert_eq!(alone["controllers"].as_array().unwrap().len(), 6);
    assert_eq!(status["controllers"].as_array().unwrap().len(), 6);
    for (what, cell) in [
        ("brokers", "localhost:9092"),
        ("topics", "orders"),
        ("groups", "billing"),
    ] {
        assert!(ask(&cluster, what, &[]).1.contains(cell), "{what}");
    }
    let (_, brokers) = ask_json(&cluster, "brokers");
    let broker = &brokers[0];
    assert_eq!(broker["broker"], 7);
    assert_eq!(
        (&broker["leads"], &broker["replicas"]),
        (&json!(3), &json!(3))
    );
    assert_eq!(broker["version"], "test");
    assert!(broker["last_beat_ms"].as_u64().unwrap() < 60_000);
    let (_, topics) = ask_json(&cluster, "topics");
    assert_eq!(topics.as_array().unwrap().len(), 3);
    assert_eq!(
        (&topics[2]["leader"], &topics[2]["in_sync"]),
        (&json!(7), &json!([7]))
    );
    let (_, groups) = ask_json(&cluster, "groups");
    assert_eq!(
        groups,
        json!([{"group": "billing", "committed_offsets": 1}])
    );
}

#[tokio::test]
async fn the_verdict_names_what_is_wrong_and_the_exit_code_says_so() {
    let mut cluster = cluster_in_use().await;
    let client = cluster.client();
    let broker = support::Broker::register(&client, 7, 1).await.unwrap();
    broker.leave(&client).await;
    let (code, status) = ask_json(&cluster, "status");
    assert_eq!((code, &status["healthy"]), (Some(1), &json!(false)));
    let problems = status["problems"].to_string();
    assert!(problems.contains("fenced: 1 brokers: 7"), "{problems}");
    assert!(problems.contains("offline: 3 partitions"), "{problems}");

    let hung = cluster.leader().await;
    cluster.signal(hung, "STOP");
    let (code, status) = ask_json(&cluster, "status");
    cluster.signal(hung, "CONT");
    assert_eq!(code, Some(1));
    let problems = status["problems"].to_string();
    let address = &cluster.addresses[&hung];
    assert!(
        problems.contains(&format!("unreachable: controller {address}")),
        "{problems}"
    );

    for node in (1..=3).filter(|node| *node != hung) {
        cluster.kill(node);
    }
    support::eventually("the node that is left to notice", async || {
        let (code, table) = ask(&cluster, "status", &[]);
        assert_eq!(code, Some(1));
        (table.contains("no majority: no node that answers leads meta")
            && table.contains("verdict: not well"))
        .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_broker_that_never_returns_is_removed_and_what_only_it_has_is_said_to_be_offline() {
    let cluster = cluster_in_use().await;
    let client = cluster.client();
    let refused = cluster.operate("brokers remove 7", 1).await.unwrap_err();
    assert!(
        refused.contains("broker 7 is alive: stop it first"),
        "{refused}"
    );
    assert_eq!(refused.lines().count(), 1, "{refused}");
    let broker = support::Broker::register(&client, 7, 1).await.unwrap();
    broker.leave(&client).await;
    let removed = cluster.operate("brokers remove 7", 1).await.unwrap();
    assert!(
        removed.contains("3 partitions that only it has stay offline"),
        "{removed}"
    );
    assert_eq!(ask_json(&cluster, "brokers").1, json!([]));
    let (_, topics) = ask_json(&cluster, "topics");
    assert_eq!(topics[0]["replicas"], json!([7]));
    let (code, status) = ask_json(&cluster, "status");
    let problems = status["problems"].to_string();
    assert!(
        code == Some(1) && problems.contains("offline: 3 partitions"),
        "{problems}"
    );
    assert!(!problems.contains("fenced"), "{problems}");
    let again = cluster.operate("brokers remove 7", 1).await.unwrap_err();
    assert!(
        again.contains("no broker is registered under this id"),
        "{again}"
    );
    // It was not gone after all.
    let broker = support::Broker::register(&client, 7, 2).await.unwrap();
    broker.beat(&client).await.unwrap();
    let (_, topics) = ask_json(&cluster, "topics");
    assert_eq!(topics[0]["leader"], json!(7));
}

#[tokio::test]
async fn what_is_on_disk_is_printed_without_a_process_and_not_changed() {
    let options = ["--session-ms", "60000", "--snapshot-log-bytes", "1"];
    let mut cluster = Cluster::start(1, &options).await;
    let client = cluster.client();
    let broker = support::Broker::register(&client, 7, 1).await.unwrap();
    broker.beat(&client).await.unwrap();
    support::create(&client, "orders").await;
    let orders = cluster.status(1).await.unwrap().groups[0].applied_index;
    let mut number = 0;
    support::eventually("snapshots with the topic and the group", async || {
        support::create(&client, &format!("{number}-more")).await;
        support::commit(&client, vec![support::offset("billing", "orders", 0, 5)]).await;
        number += 1;
        let groups = cluster.status(1).await?.groups;
        (groups[0].snapshot_index >= orders && groups[1].snapshot_index > 2).then_some(())
    })
    .await;
    let data = cluster.data(1);
    let dump = |more: &str| {
        let arguments = ["dump", &data.display().to_string(), more];
        let arguments = arguments.iter().filter(|one| !one.is_empty());
        run(&arguments.map(|one| one.to_string()).collect::<Vec<_>>())
    };
    let (code, _, errors) = dump("");
    assert_eq!(
        (code, errors.lines().count()),
        (Some(1), 1),
        "a running node: {errors}"
    );
    assert_eq!(cluster.terminate(1).await, Some(0));
    let before = files(&data);
    let (code, text, errors) = dump("");
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    for expected in [
        "meta snapshot term",
        "meta topic orders",
        "meta partition orders-2",
        "meta command term",
        "CreateTopics",
        "offsets group billing with 1 offsets",
        "offset 5",
        "offsets vote for node 1",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
    assert!(files(&data) == before, "looking changes nothing");
    let (_, lines, _) = dump("--json");
    assert_eq!(lines.lines().count(), text.lines().count());
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line["group"].is_string() && line["what"].is_string());
    }
    fails_with_one_line(
        &["dump".to_owned(), cluster.directory.display().to_string()],
        "no data directory",
    );
}

/// Every file below a directory, with its content.
fn files(directory: &std::path::Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).unwrap())),
        }
    }
    found
}

#[tokio::test]
async fn strangers_that_take_every_descriptor_leave_the_node_its_own() {
    let cluster = Cluster::start_limited(
        1,
        &["--session-ms", "60000", "--snapshot-log-bytes", "1"],
        96,
    )
    .await;
    let client = cluster.client();
    let broker = support::Broker::register(&client, 7, 1).await.unwrap();
    broker.beat(&client).await.unwrap();
    support::create(&client, "orders").await;
    support::commit(&client, vec![support::offset("g", "orders", 0, 0)]).await;
    // Over connections that it has already: new ones wait behind the strangers.
    let taken = async || {
        let address = &cluster.addresses[&1];
        let request = control_api::message::Request::Status;
        let answer = client.call_one(address, request, support::PATIENCE).await;
        match answer.unwrap() {
            control_api::message::Response::Status(status) => status.groups[1].snapshot_index,
            other => panic!("{other:?}"),
        }
    };
    let mut strangers = Vec::new();
    for address in [&cluster.addresses[&1], &cluster.metrics[&1]] {
        for _ in 0..150 {
            strangers.push(std::net::TcpStream::connect(address).unwrap());
        }
    }
    let before = taken().await;
    support::eventually("snapshots beside strangers", async || {
        support::commit(&client, vec![support::offset("g", "orders", 0, 1)]).await;
        (taken().await > before + 5).then_some(())
    })
    .await;
    let log = cluster.log(1);
    assert!(
        !log.contains("snapshot") && !log.contains("cannot"),
        "{log}"
    );
    drop(strangers);
}
