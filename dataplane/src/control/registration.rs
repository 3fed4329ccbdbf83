//! Registers the broker and keeps its session alive.

use control_api::client::{ClientError, ControlClient};
use control_api::ids::BrokerEpoch;
use control_api::message::{
    BROKER_HEARTBEAT, BrokerHeartbeat, BrokerRegistration, ControlError, Request, Response,
};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

const HEARTBEAT_DEADLINE: Duration = Duration::from_millis(600);
const REGISTER_DEADLINE: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// A broker's standing with the control plane.
pub(super) struct Session<'a> {
    pub(super) client: &'a ControlClient,
    pub(super) registration: BrokerRegistration,
    /// The index that the broker's own metadata has reached.
    pub(super) metadata_index: watch::Receiver<u64>,
    /// Set once the broker wants to stop.
    pub(super) wants_shutdown: watch::Receiver<bool>,
    /// How far the leader's metadata has come, by the last heartbeat's answer.
    pub(super) leader_index: watch::Sender<u64>,
    /// The current registration, once there is one.
    pub(super) epoch: watch::Sender<Option<BrokerEpoch>>,
}

impl Session<'_> {
    /// Runs until the control plane lets a broker that wants to stop go.
    pub(super) async fn run(&self) {
        loop {
            let epoch = self.register().await;
            self.epoch.send_replace(Some(epoch));
            tracing::info!(epoch = epoch.0, "registered with the control plane");
            if self.keep_alive(epoch).await {
                return;
            }
            tracing::warn!(
                "the control plane no longer knows this registration; registering again"
            );
        }
    }

    /// Says goodbye, so that no one waits for the session to end.
    pub(super) async fn leave(&self) {
        let epoch = *self.epoch.borrow();
        if let Some(epoch) = epoch {
            // The session ends by itself if no controller hears this.
            let _ = self.heartbeat(epoch, true).await;
        }
    }

    /// Resolves once the control plane has taken the registration.
    pub(super) async fn registered(&self) {
        // The sender is this session's own, so it cannot be gone.
        let _ = self.epoch.subscribe().wait_for(Option::is_some).await;
    }

    async fn register(&self) -> BrokerEpoch {
        let mut told = None;
        loop {
            let request = Request::RegisterBroker(self.registration.clone());
            let reason = match self.client.call(request, REGISTER_DEADLINE).await {
                Ok(Response::Registered { epoch, .. }) => return epoch,
                Ok(other) => format!("unexpected answer {other:?}"),
                Err(error) => error.to_string(),
            };
            if told.as_ref() != Some(&reason) {
                tracing::warn!(%reason, "cannot register with the control plane; trying again");
                told = Some(reason);
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// True when the broker may stop, false when it must register again.
    async fn keep_alive(&self, epoch: BrokerEpoch) -> bool {
        let mut reachable = true;
        loop {
            match self.heartbeat(epoch, false).await {
                Ok(Response::Heartbeat {
                    may_shut_down,
                    metadata_index,
                    ..
                }) => {
                    self.leader_index.send_replace(metadata_index);
                    if !reachable {
                        tracing::info!("the control plane answers again");
                    }
                    reachable = true;
                    if may_shut_down && *self.wants_shutdown.borrow() {
                        return true;
                    }
                }
                Err(ClientError::Refused(
                    ControlError::StaleBrokerEpoch | ControlError::UnknownBroker,
                )) => return false,
                Ok(_) | Err(_) => {
                    if reachable {
                        tracing::warn!(
                            "no controller answers heartbeats; partitions led here are served on"
                        );
                    }
                    reachable = false;
                }
            }
            let mut wants_shutdown = self.wants_shutdown.clone();
            let asked_already = *wants_shutdown.borrow_and_update();
            tokio::select! {
                () = sleep(BROKER_HEARTBEAT) => {}
                _ = wants_shutdown.changed(), if !asked_already => {}
            }
        }
    }

    async fn heartbeat(&self, epoch: BrokerEpoch, goodbye: bool) -> Result<Response, ClientError> {
        let request = Request::Heartbeat(BrokerHeartbeat {
            id: self.registration.id,
            epoch,
            metadata_index: *self.metadata_index.borrow(),
            wants_shutdown: *self.wants_shutdown.borrow(),
            goodbye,
        });
        self.client.call(request, HEARTBEAT_DEADLINE).await
    }
}
