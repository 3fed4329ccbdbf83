//! Who this node is to the processes that it talks to.

use control_api::handshake::{HandshakeError, Party, Role, Server};
use control_api::level::ClusterLevel;
use control_api::secured::{self, Credentials, Stream};
use std::io;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::time::timeout;

/// Shown at every handshake of this node's, in both directions.
#[derive(Debug)]
pub struct Identity {
    pub credentials: Credentials,
    /// As which member of the Raft groups it votes.
    pub member: u64,
    /// Known once the cluster has formed, and then for good.
    pub cluster_id: OnceLock<String>,
    /// The cluster of the first controller that called this node when it had none.
    pub called_by: OnceLock<String>,
    /// At which it speaks.
    pub level: ClusterLevel,
}

impl Identity {
    pub fn new(credentials: Credentials, member: u64) -> Self {
        Identity {
            credentials,
            member,
            cluster_id: OnceLock::new(),
            called_by: OnceLock::new(),
            level: ClusterLevel::default(),
        }
    }

    pub fn party(&self) -> Party {
        Party {
            credentials: self.credentials.clone(),
            member: self.member,
            cluster_id: self.cluster_id.get().cloned().unwrap_or_default(),
        }
    }

    /// Connects to another controller. `wanted`: the member that must answer, 0 for whoever does.
    pub(crate) async fn connect(
        &self,
        address: &str,
        wanted: u64,
        time: Duration,
    ) -> Result<(Stream, Server), HandshakeError> {
        let party = self.party();
        let connecting = secured::connect(address, &party, Role::Controller, wanted, time);
        let connected = timeout(time, connecting).await;
        connected.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
    }
}
