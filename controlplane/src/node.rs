//! One controller: both Raft groups, the listeners, and the tasks beside them.

use crate::config::NodeConfig;
use crate::data::DataDirectory;
use crate::group::{Group, GroupFiles};
use crate::identity::Identity;
use crate::limits::IMAGES_IN_FLIGHT_MAX;
use crate::member::{disk_text, member};
use crate::meta::MetaState;
use crate::metrics::Metrics;
use crate::offsets::OffsetsState;
use crate::sessions::Sessions;
use crate::{descriptors, http, levels, quorum, server, supervise};
use anyhow::Context;
use control_api::client::ControlClient;
use control_api::frame::{META_GROUP, OFFSETS_GROUP};
use control_api::handshake::Role;
use control_api::process::BUILD;
use futures::future::BoxFuture;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::info;

/// What every task of the node shares.
pub struct Node {
    pub config: NodeConfig,
    pub meta: Group<MetaState>,
    pub offsets: Group<OffsetsState>,
    pub metrics: Metrics,
    /// Calls the leaders of the groups, wherever they are.
    pub client: ControlClient,
    pub identity: Arc<Identity>,
    /// A place for each image that is on its way to somebody.
    pub images: Semaphore,
    sessions: Mutex<Sessions>,
    started: Instant,
}

impl Node {
    /// For sessions.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node that serves; [`RunningNode::stop`] ends it in good order.
pub struct RunningNode {
    pub node: Arc<Node>,
    tasks: JoinSet<()>,
    _data: DataDirectory,
}

/// Boxed, so that what these futures do is compiled in this crate once, and not again in each program and test that awaits them.
impl RunningNode {
    /// Opens the data directory and the ports and starts serving. An error is one clear line for the operator.
    pub fn start(config: NodeConfig) -> BoxFuture<'static, anyhow::Result<Self>> {
        Box::pin(RunningNode::open(config))
    }

    /// Returns when the node cannot go on: its log failed, or holds what this version cannot read, or it is no member any more.
    pub fn failed(&self) -> BoxFuture<'_, anyhow::Error> {
        Box::pin(self.end())
    }

    /// Hands leadership over where it can, then stops serving. Whatever was acknowledged is on disk already.
    pub fn stop(self) -> BoxFuture<'static, ()> {
        Box::pin(self.close())
    }
}

impl RunningNode {
    async fn open(config: NodeConfig) -> anyhow::Result<Self> {
        config.times.check()?;
        let shares = descriptors::raise()?;
        let addresses = config.controllers();
        let addresses = addresses.chain([&config.listen, &config.advertise]);
        let checked = config
            .credentials
            .check_addresses(addresses.map(String::as_str));
        let serves = || config.credentials.check_serves(&config.advertise);
        checked
            .and_then(|()| serves())
            .map_err(anyhow::Error::msg)?;
        let data = DataDirectory::open(&config.data, config.id, &config.peers)?;
        let listener = bind(&config.listen).await?;
        let metrics_listener = bind(&config.metrics).await?;
        let own = member(config.id, data.disk);
        let identity = Arc::new(Identity::new(config.credentials.clone(), own));
        let open = (&config, &identity);
        // All of them before any is used: where one is damaged, that is all there is to say.
        let meta = GroupFiles::open(META_GROUP, open, &data)?;
        let offsets = GroupFiles::open(OFFSETS_GROUP, open, &data)?;
        let meta = Group::start(meta, open).await?;
        let offsets = Group::start(offsets, open).await?;
        info!(id = config.id, build = BUILD, disk = disk_text(data.disk), listen = config.listen, peers = %config.peers, "controller started");
        let node = Arc::new(Node {
            metrics: Metrics::new([&meta.times, &offsets.times])?,
            meta,
            offsets,
            client: ControlClient::new(
                config.controllers().cloned().collect(),
                identity.party(),
                Role::Operator,
            )
            .at(identity.level.clone()),
            identity,
            images: Semaphore::new(IMAGES_IN_FLIGHT_MAX),
            sessions: Mutex::new(Sessions::new(config.times.session)),
            started: Instant::now(),
            config,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(server::serve(node.clone(), listener, shares.connections));
        tasks.spawn(http::serve(
            node.clone(),
            metrics_listener,
            shares.http_connections,
        ));
        tasks.spawn(supervise::learn_cluster_id(node.clone()));
        tasks.spawn(quorum::form(node.clone()));
        tasks.spawn(quorum::keep(node.clone()));
        tasks.spawn(quorum::follow::learn_addresses(node.clone()));
        tasks.spawn(quorum::follow::announce_address(node.clone()));
        tasks.spawn(supervise::lead_brokers(node.clone()));
        tasks.spawn(supervise::forget_deleted_topics(node.clone()));
        tasks.spawn(supervise::expire_offsets(node.clone()));
        tasks.spawn(levels::follow(node.clone()));
        tasks.spawn(supervise::take_snapshots(node.clone()));
        tasks.spawn(supervise::report_leaders(node.clone()));
        Ok(RunningNode {
            node,
            tasks,
            _data: data,
        })
    }

    async fn end(&self) -> anyhow::Error {
        let (meta, offsets) = (&self.node.meta.raft, &self.node.offsets.raft);
        tokio::select! {
            error = supervise::fatal(meta) => error.context("the meta group stopped"),
            error = supervise::fatal(offsets) => error.context("the offsets group stopped"),
            lost = self.node.meta.memory.lost() => anyhow::anyhow!(lost),
            lost = self.node.offsets.memory.lost() => anyhow::anyhow!(lost),
            why = quorum::follow::taken_out(&self.node) => anyhow::anyhow!(why),
        }
    }

    async fn close(mut self) {
        supervise::hand_over(&self.node.meta).await;
        supervise::hand_over(&self.node.offsets).await;
        self.tasks.shutdown().await;
        // Both are on their way out; a task of theirs that failed has nothing left to lose.
        let _ = self.node.meta.raft.shutdown().await;
        let _ = self.node.offsets.raft.shutdown().await;
        info!(id = self.node.config.id, "controller stopped");
    }
}

async fn bind(address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
}
