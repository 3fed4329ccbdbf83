//! Registration, fencing and shutdown of brokers, and the producer ids they hand out.

use super::{Change, coordinators, election};
use crate::command::RegisteredBroker;
use control_api::ids::BrokerEpoch;
use control_api::image::{BrokerRecord, MetadataEvent};
use control_api::message::{BrokerRegistration, ControlError, Response};

/// Makes a broker process known, fenced until it has caught up with the metadata. Repeated by the same process, it answers
/// with the epoch that the process already has.
pub(super) fn register(
    change: &mut Change,
    new: &BrokerRegistration,
) -> Result<Response, ControlError> {
    check(change, new)?;
    let known = change.image.brokers.get(&new.id);
    let same_process = known.filter(|known| known.incarnation == new.incarnation);
    let (epoch, fenced, shutting_down) = match same_process {
        Some(known) => (known.epoch, known.fenced, known.shutting_down),
        None => (BrokerEpoch(change.at.index), true, false),
    };
    let record = BrokerRecord {
        id: new.id,
        epoch,
        incarnation: new.incarnation,
        host: new.host.clone(),
        port: new.port,
        rack: new.rack.clone(),
        version: new.version.clone(),
        fenced,
        shutting_down,
        levels: new.levels,
    };
    if known != Some(&record) {
        change.push(MetadataEvent::BrokerChanged(record));
    }
    let cluster_id = change.image.cluster_id.clone();
    Ok(Response::Registered { epoch, cluster_id })
}

/// Takes the broker's leaderships and coordinators away; what only it can lead has no leader until it is back.
pub(super) fn fence(change: &mut Change, broker: RegisteredBroker) -> Result<(), ControlError> {
    let mut record = current(change, broker)?;
    if record.fenced {
        return Ok(());
    }
    record.fenced = true;
    change.push(MetadataEvent::BrokerChanged(record));
    election::elect_where_led_by(change, broker.id);
    coordinators::balance(change);
    Ok(())
}

pub(super) fn unfence(change: &mut Change, broker: RegisteredBroker) -> Result<(), ControlError> {
    let mut record = current(change, broker)?;
    if !record.fenced || record.shutting_down {
        return Ok(());
    }
    record.fenced = false;
    change.push(MetadataEvent::BrokerChanged(record));
    election::elect_where_leaderless(change);
    coordinators::balance(change);
    Ok(())
}

/// Moves what another broker can take over. The rest stays until the broker is fenced, so nothing is unavailable sooner
/// than it must be.
pub(super) fn shut_down(change: &mut Change, broker: RegisteredBroker) -> Result<(), ControlError> {
    let mut record = current(change, broker)?;
    if record.shutting_down {
        return Ok(());
    }
    record.shutting_down = true;
    change.push(MetadataEvent::BrokerChanged(record));
    election::elect_where_led_by(change, broker.id);
    coordinators::balance(change);
    Ok(())
}

/// Forgets a broker. Its partitions keep it among their replicas, as in Kafka: what only it has is offline, and led again if it comes
/// back with its data.
pub(super) fn unregister(
    change: &mut Change,
    broker: RegisteredBroker,
) -> Result<(), ControlError> {
    let record = current(change, broker)?;
    if !record.fenced {
        return Err(ControlError::InvalidRequest(format!(
            "broker {} is in service: stop it first",
            broker.id
        )));
    }
    change.push(MetadataEvent::BrokerRemoved(broker.id));
    Ok(())
}

pub(super) fn allocate_producer_ids(
    change: &mut Change,
    broker: RegisteredBroker,
) -> Result<Response, ControlError> {
    current(change, broker)?;
    let first = change.image.next_producer_id;
    let count = change.rules.producer_ids_per_block;
    let next = first
        .checked_add(count.into())
        .ok_or_else(|| ControlError::InvalidRequest("no producer ids are left".to_owned()))?;
    change.push(MetadataEvent::NextProducerId(next));
    Ok(Response::ProducerIds { first, count })
}

fn check(change: &Change, new: &BrokerRegistration) -> Result<(), ControlError> {
    let rules = change.rules;
    let invalid = |text: &str| Err(ControlError::InvalidRequest(text.to_owned()));
    if !new.cluster_id.is_empty() && new.cluster_id != change.image.cluster_id {
        return Err(ControlError::WrongCluster(new.cluster_id.clone()));
    }
    let level = change.image.feature_level;
    if !new.levels.contain(level) {
        return Err(ControlError::UnsupportedLevel(format!(
            "the cluster is at feature level {level}, and the broker supports levels {}",
            new.levels
        )));
    }
    if new.id.0 < 0 {
        return invalid("a broker id must not be negative");
    }
    if new.host.is_empty() || new.host.len() > rules.host_bytes_max || new.port == 0 {
        return invalid("a broker needs a host and a port that clients can reach");
    }
    if new
        .rack
        .as_ref()
        .is_some_and(|rack| rack.len() > rules.host_bytes_max)
    {
        return invalid("the rack's name is too long");
    }
    if new.version.len() > rules.version_bytes_max {
        return invalid("the version is too long");
    }
    match change.image.brokers.get(&new.id) {
        // The other process may still be alive; its session must end first.
        Some(known) if known.incarnation != new.incarnation && !known.fenced => {
            Err(ControlError::DuplicateBroker)
        }
        Some(_) => Ok(()),
        None if change.image.brokers.len() >= rules.brokers_max => invalid("too many brokers"),
        None => Ok(()),
    }
}

/// The record, if the registration is still the current one.
fn current(change: &Change, broker: RegisteredBroker) -> Result<BrokerRecord, ControlError> {
    let known = change.image.brokers.get(&broker.id);
    let record = known.ok_or(ControlError::UnknownBroker)?;
    match record.epoch == broker.epoch {
        true => Ok(record.clone()),
        false => Err(ControlError::StaleBrokerEpoch),
    }
}
