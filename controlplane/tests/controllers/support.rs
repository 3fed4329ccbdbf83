//! Real controller processes on loopback, in a directory of their own that goes with them.

use control_api::client::{ClientError, ControlClient};
use control_api::handshake::{Party, Role};
use control_api::ids::{BrokerEpoch, BrokerId, Incarnation, TopicId};
use control_api::message::{
    BrokerHeartbeat, BrokerRegistration, NewTopic, NodeStatus, OffsetCommit, Request, Response,
};
use control_api::secured::Credentials;
use control_api::tls::TlsFiles;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::sleep;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_millrace-controller");
/// Far longer than anything takes; what is waited for so long is not going to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Cluster {
    pub(crate) directory: PathBuf,
    pub(crate) addresses: BTreeMap<u64, String>,
    pub(crate) metrics: BTreeMap<u64, String>,
    /// What each node is told of the others at its start: the peers, or some to join.
    told: BTreeMap<u64, [String; 2]>,
    options: Vec<String>,
    /// Beside the secret, or instead of it.
    tls: Option<TlsFiles>,
    has_secret: bool,
    /// Where nodes listen, if not at their addresses.
    listen: Option<String>,
    /// How many descriptors each process may have.
    descriptors: Option<u32>,
    /// Nodes that run a program which supports a feature level more.
    pub(crate) later: BTreeSet<u64>,
    processes: BTreeMap<u64, Child>,
}

impl Cluster {
    /// `options`: more flags for `serve`.
    pub(crate) async fn start(nodes: u64, options: &[&str]) -> Self {
        Cluster::start_with(nodes, options, None).await
    }

    pub(crate) async fn start_limited(nodes: u64, options: &[&str], descriptors: u32) -> Self {
        Cluster::start_with(nodes, options, Some(descriptors)).await
    }

    async fn start_with(nodes: u64, options: &[&str], descriptors: Option<u32>) -> Self {
        let mut cluster = Cluster::prepare(nodes, options);
        cluster.descriptors = descriptors;
        (1..=nodes).for_each(|node| cluster.start_node(node));
        cluster.leader().await;
        cluster
    }

    /// Over TLS alone, or with the secret too.
    pub(crate) async fn start_tls(nodes: u64, tls: TlsFiles, has_secret: bool) -> Self {
        let mut cluster = Cluster::prepare(nodes, &["--session-ms", "60000"]);
        (cluster.tls, cluster.has_secret) = (Some(tls), has_secret);
        (1..=nodes).for_each(|node| cluster.start_node(node));
        cluster.leader().await;
        cluster
    }

    /// Starts none of the nodes yet.
    pub(crate) fn prepare(nodes: u64, options: &[&str]) -> Self {
        let ports = free_addresses(2 * nodes as usize);
        let mut cluster = Cluster {
            directory: directory(),
            addresses: (1..=nodes).zip(ports.iter().cloned()).collect(),
            metrics: (1..=nodes).zip(ports.iter().rev().cloned()).collect(),
            told: BTreeMap::new(),
            options: options.iter().map(|option| option.to_string()).collect(),
            tls: None,
            has_secret: true,
            listen: None,
            descriptors: None,
            later: BTreeSet::new(),
            processes: BTreeMap::new(),
        };
        write_secret(&cluster.secret());
        cluster.tell_peers();
        cluster
    }

    /// All nodes are told where all are, when they are started next.
    fn tell_peers(&mut self) {
        let peers = self.addresses.iter();
        let peers = peers.map(|(id, address)| format!("{id}={address}"));
        let told = ["--peers".to_owned(), peers.collect::<Vec<_>>().join(",")];
        let nodes = self.addresses.keys();
        self.told = nodes.map(|node| (*node, told.clone())).collect();
    }

    /// Starts a node that waits for the cluster to take it in.
    pub(crate) async fn start_joining(&mut self, node: u64) {
        let others = self.addresses.values().cloned().collect::<Vec<_>>();
        let told = ["--join".to_owned(), others.join(",")];
        self.told.insert(node, told);
        let ports = free_addresses(2);
        self.addresses.insert(node, ports[0].clone());
        self.metrics.insert(node, ports[1].clone());
        self.start_node(node);
        eventually("the node to wait", async || self.status(node).await).await;
    }

    /// Gives nodes other addresses, of which each knows its own alone or, where `all` know, the others' too. They do not run.
    pub(crate) fn move_nodes(&mut self, nodes: &[u64], all: bool) {
        for (node, address) in nodes.iter().zip(free_addresses(nodes.len())) {
            let left = self.addresses.insert(*node, address.clone()).unwrap();
            let own = &mut self.told.get_mut(node).unwrap()[1];
            *own = own.replace(&left, &address);
        }
        if all {
            self.tell_peers();
        }
    }

    /// Runs an operator's command that is given one controller's address; answers with the output, or the one line of an error.
    pub(crate) async fn operate(&self, command: &str, asked: u64) -> Result<String, String> {
        let (address, credentials) = (self.addresses[&asked].clone(), self.credential_flags());
        let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
        let later = self.later.contains(&asked);
        let run = move || {
            let mut program = Command::new(PROGRAM);
            if later {
                program.env("MILLRACE_TRY_LATER_LEVEL", "1");
            }
            program.args(words).args(["--controllers", &address]);
            program.args(credentials).output().unwrap()
        };
        let output = tokio::task::spawn_blocking(run).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        match output.status.success() {
            true => Ok(text(output.stdout)),
            false => Err(text(output.stderr)),
        }
    }

    /// What the node logs is kept and shown when the test fails.
    pub(crate) fn start_node(&mut self, node: u64) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path(node))
            .unwrap();
        let mut command = match self.descriptors {
            Some(descriptors) => {
                let mut shell = Command::new("sh");
                let limited = format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"");
                shell.args(["-c", &limited, PROGRAM]);
                shell
            }
            None => Command::new(PROGRAM),
        };
        if self.later.contains(&node) {
            command.env("MILLRACE_TRY_LATER_LEVEL", "1");
        }
        let child = command
            .args(self.arguments(node))
            .stderr(log)
            .spawn()
            .unwrap();
        self.processes.insert(node, child);
    }

    fn log_path(&self, node: u64) -> PathBuf {
        self.directory.join(format!("{node}.log"))
    }

    pub(crate) fn log(&self, node: u64) -> String {
        std::fs::read_to_string(self.log_path(node)).unwrap_or_default()
    }

    pub(crate) fn arguments(&self, node: u64) -> Vec<String> {
        let [how, whom] = &self.told[&node];
        let data = self.data(node).display().to_string();
        let flags = [
            ("--id", node.to_string()),
            (
                "--listen",
                self.listen
                    .as_ref()
                    .unwrap_or(&self.addresses[&node])
                    .clone(),
            ),
            (how.as_str(), whom.clone()),
            ("--metrics", self.metrics[&node].clone()),
            ("--data", data),
        ];
        let flags = flags
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value]);
        std::iter::once("serve".to_owned())
            .chain(flags)
            .chain(self.credential_flags())
            .chain(self.options.clone())
            .collect()
    }

    fn credential_flags(&self) -> Vec<String> {
        let secret = self.has_secret.then(|| ("--secret-file", self.secret()));
        let tls = self.tls.clone().into_iter().flat_map(|tls| {
            [
                ("--tls-cert", tls.cert),
                ("--tls-key", tls.key),
                ("--tls-ca", tls.ca),
            ]
        });
        let flags = secret.into_iter().chain(tls);
        flags
            .flat_map(|(flag, file)| [flag.to_owned(), file.display().to_string()])
            .collect()
    }

    pub(crate) fn secret(&self) -> PathBuf {
        self.directory.join("secret")
    }

    pub(crate) fn data(&self, node: u64) -> PathBuf {
        self.directory.join(node.to_string())
    }

    pub(crate) fn pid(&self, node: u64) -> u32 {
        self.processes[&node].id()
    }

    /// SIGKILL, and an empty disk in place of the node's own.
    pub(crate) fn wipe(&mut self, node: u64) {
        self.kill(node);
        std::fs::remove_dir_all(self.data(node)).unwrap();
    }

    /// The first node listens there from its next start on; others know it by its address.
    pub(crate) fn listens_at(&mut self, address: &str) {
        let flags = ["--advertise".to_owned(), self.addresses[&1].clone()];
        self.options.extend(flags);
        self.listen = Some(address.to_owned());
    }

    /// Waits for a process that ends by itself; answers with the exit status.
    pub(crate) async fn ended(&mut self, node: u64) -> Option<i32> {
        let mut child = self.processes.remove(&node).unwrap();
        eventually("the process to end", async || child.try_wait().unwrap())
            .await
            .code()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, node: u64) {
        let mut child = self.processes.remove(&node).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, node: u64, name: &str) {
        let pid = self.processes[&node].id().to_string();
        let signal = format!("-{name}");
        let sent = Command::new("kill").args([&signal, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// SIGTERM; answers with the exit status.
    pub(crate) async fn terminate(&mut self, node: u64) -> Option<i32> {
        let mut child = self.processes.remove(&node).unwrap();
        let pid = child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        tokio::task::spawn_blocking(move || child.wait().unwrap().code())
            .await
            .unwrap()
    }

    pub(crate) fn client(&self) -> ControlClient {
        self.client_as(self.party())
    }

    pub(crate) fn client_as(&self, party: Party) -> ControlClient {
        let addresses = self.addresses.values().cloned().collect();
        ControlClient::new(addresses, party, Role::Broker)
    }

    /// Of this cluster, as far as its secret and certificates go.
    pub(crate) fn party(&self) -> Party {
        let secret = self.has_secret.then(|| self.secret());
        let credentials = Credentials::load(secret.as_deref(), self.tls.clone()).unwrap();
        Party::client(credentials, String::new())
    }

    pub(crate) async fn status(&self, node: u64) -> Option<NodeStatus> {
        let client = self.client();
        let address = &self.addresses[&node];
        let time = Duration::from_secs(1);
        match client.call_one(address, Request::Status, time).await {
            Ok(Response::Status(status)) => Some(*status),
            _ => None,
        }
    }

    /// The node that leads `meta` and has formed the cluster.
    pub(crate) async fn leader(&self) -> u64 {
        self.leader_of("meta").await
    }

    pub(crate) async fn leader_of(&self, group: &str) -> u64 {
        eventually("a leader", async || {
            for node in self.processes.keys() {
                let Some(status) = self.status(*node).await else {
                    continue;
                };
                let leads = |one: &_| is_leader(one, group);
                if status.groups.iter().any(leads) && !status.image.cluster_id.is_empty() {
                    return Some(*node);
                }
            }
            None
        })
        .await
    }

    /// Waits until the node has applied all that the leaders have.
    pub(crate) async fn caught_up(&self, node: u64) {
        let meta = self.status(self.leader_of("meta").await).await.unwrap();
        let offsets = self.status(self.leader_of("offsets").await).await.unwrap();
        let goal = [
            meta.groups[0].applied_index,
            offsets.groups[1].applied_index,
        ];
        eventually("the node to catch up", async || {
            let groups = self.status(node).await?.groups;
            let reached = groups
                .iter()
                .zip(goal)
                .all(|(group, goal)| group.applied_index >= goal);
            reached.then_some(())
        })
        .await;
    }

    /// Waits until every member votes that follows.
    pub(crate) async fn takes_nobody_in(&self) {
        for group in ["meta", "offsets"] {
            eventually("every member to vote", async || {
                let leader = self.leader_of(group).await;
                let name = |what: &str| format!("millrace_raft_{what}{{group=\"{group}\"}}");
                let voters = self.metric(leader, &name("voters")).await?;
                let learners = self.metric(leader, &name("learners")).await?;
                let leads = self.metric(leader, &name("leader")).await? == 1;
                (leads && voters as usize == self.addresses.len() && learners == 0).then_some(())
            })
            .await;
        }
    }

    /// One metric of a node, as its page has it.
    pub(crate) async fn metric(&self, node: u64, name: &str) -> Option<u64> {
        let page = self.page(node, "/metrics").await?;
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.trim().parse().ok()
    }

    pub(crate) async fn page(&self, node: u64, path: &str) -> Option<String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(&self.metrics[&node])
            .await
            .ok()?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await.ok()?;
        Some(page)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.processes.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for node in self.addresses.keys().filter(|_| std::thread::panicking()) {
            eprintln!("controller {node} logged:\n{}", self.log(*node));
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn is_leader(status: &control_api::message::RaftGroupStatus, group: &str) -> bool {
    status.name == group && status.role == "leader"
}

/// Tries until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let tries = PATIENCE.as_millis() / 20;
    for _ in 0..tries {
        if let Some(answer) = attempt().await {
            return answer;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain for {what}");
}

/// A registered broker that beats only when told to.
pub(crate) struct Broker {
    pub(crate) id: BrokerId,
    pub(crate) epoch: BrokerEpoch,
}

impl Broker {
    pub(crate) async fn register(
        client: &ControlClient,
        id: i32,
        process: u8,
    ) -> Result<Self, ClientError> {
        let registration = BrokerRegistration {
            id: BrokerId(id),
            incarnation: Incarnation([process; 16]),
            host: "localhost".into(),
            port: 9092,
            rack: None,
            version: "test".into(),
            cluster_id: String::new(),
            levels: control_api::level::Levels::supported(),
        };
        match client
            .call(Request::RegisterBroker(registration), PATIENCE)
            .await?
        {
            Response::Registered { epoch, .. } => Ok(Broker {
                id: BrokerId(id),
                epoch,
            }),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn heartbeat(&self) -> BrokerHeartbeat {
        BrokerHeartbeat {
            id: self.id,
            epoch: self.epoch,
            metadata_index: self.epoch.0,
            wants_shutdown: false,
            goodbye: false,
        }
    }

    /// Says that it is gone.
    pub(crate) async fn leave(&self, client: &ControlClient) {
        let goodbye = BrokerHeartbeat {
            goodbye: true,
            ..self.heartbeat()
        };
        let left = client.call(Request::Heartbeat(goodbye), PATIENCE).await;
        assert!(matches!(left, Ok(Response::Heartbeat { fenced: true, .. })));
    }

    /// Answers whether the broker is fenced.
    pub(crate) async fn beat(&self, client: &ControlClient) -> Result<bool, ClientError> {
        match client
            .call(Request::Heartbeat(self.heartbeat()), PATIENCE)
            .await?
        {
            Response::Heartbeat { fenced, .. } => Ok(fenced),
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn topic(name: &str) -> NewTopic {
    let mut id = [9; 16];
    id.iter_mut()
        .zip(name.bytes())
        .for_each(|(slot, byte)| *slot = byte);
    NewTopic {
        name: name.into(),
        id: TopicId(id),
        partitions: 3,
        replication_factor: -1,
        assignment: Vec::new(),
        configs: BTreeMap::new(),
    }
}

pub(crate) async fn create(client: &ControlClient, name: &str) {
    let topics = vec![topic(name)];
    let request = Request::CreateTopics {
        topics,
        validate_only: false,
    };
    match client.call(request, PATIENCE).await.unwrap() {
        Response::Topics(created) => assert_eq!(created[0].as_ref().unwrap().name, name),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn offset(group: &str, topic_name: &str, partition: u32, offset: i64) -> OffsetCommit {
    OffsetCommit {
        group: group.into(),
        topic: topic(topic_name).id,
        partition,
        offset,
        leader_epoch: -1,
        metadata: String::new(),
        timestamp_ms: 1,
        coordinator_epoch: 1,
        generation: -1,
        retention_ms: -1,
    }
}

pub(crate) async fn commit(client: &ControlClient, commits: Vec<OffsetCommit>) {
    let count = commits.len();
    match client
        .call(Request::CommitOffsets { commits }, PATIENCE)
        .await
        .unwrap()
    {
        Response::Done(done) => assert_eq!(done, vec![Ok(()); count]),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn write_secret(path: &Path) {
    let mut options = File::options();
    let mut file = options
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .unwrap();
    file.write_all(b"the secret of a cluster that goes with its test")
        .unwrap();
}

pub(crate) fn directory() -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(format!("millrace-cluster-{process}-{number}"));
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Ports that were free a moment ago, all different.
pub(crate) fn free_addresses(count: usize) -> Vec<String> {
    let listeners = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    let listeners: Vec<TcpListener> = listeners.collect();
    let addresses = listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap().to_string());
    let distinct: BTreeSet<String> = addresses.collect();
    assert_eq!(distinct.len(), count);
    distinct.into_iter().collect()
}
