//! The resources that have a configuration, as requests name them: a type, and a name whose meaning depends on it.

use super::admin::Refusal;
use control_api::ids::{BrokerId, TopicId};
use control_api::image::MetadataImage;
use control_api::message::ConfigResource;
use wire::ErrorCode;

/// The numbers of Kafka's `ConfigResource.Type`. It has more, for things that do not exist here.
pub(super) const TOPIC: i8 = 2;
pub(super) const BROKER: i8 = 4;

/// The topic of that name.
pub(super) fn topic(image: &MetadataImage, name: &str) -> Result<TopicId, Refusal> {
    let id = image.topic_ids.get(name).copied();
    id.ok_or_else(Refusal::unknown_topic)
}

/// A broker by its number, which has to be that of the broker that is asked, or by the empty name the defaults of all.
pub(super) fn broker(name: &str, asked: BrokerId) -> Result<Option<BrokerId>, Refusal> {
    if name.is_empty() {
        return Ok(None);
    }
    let Ok(id) = name.parse::<i32>() else {
        return Err(Refusal::invalid_request(format!(
            "Broker id must be an integer, but it is: {name}"
        )));
    };
    if id != asked.0 {
        return Err(Refusal::invalid_request(format!(
            "Unexpected broker id, expected {asked} or empty string, but received {name}"
        )));
    }
    Ok(Some(asked))
}

/// A resource of either type.
pub(super) fn resource(
    image: &MetadataImage,
    asked: BrokerId,
    resource_type: i8,
    name: &str,
) -> Result<ConfigResource, Refusal> {
    match resource_type {
        TOPIC => topic(image, name).map(ConfigResource::Topic),
        BROKER => broker(name, asked).map(ConfigResource::Broker),
        other => Err(Refusal::new(
            ErrorCode::InvalidRequest,
            format!("Unsupported resource type: {other}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_answers_for_itself_and_for_the_defaults_of_all() {
        let asked = BrokerId(1);
        assert_eq!(broker("1", asked), Ok(Some(asked)));
        assert_eq!(broker("", asked), Ok(None));
        for other in ["2", "-1", "one", " 1"] {
            let refused = broker(other, asked).unwrap_err();
            assert_eq!(refused.code, ErrorCode::InvalidRequest, "{other}");
        }
    }

    #[test]
    fn unknown_topics_and_types_are_told_apart() {
        let image = MetadataImage::default();
        let code = |kind| resource(&image, BrokerId(1), kind, "x").unwrap_err().code;
        assert_eq!(code(TOPIC), ErrorCode::UnknownTopicOrPartition);
        assert_eq!(code(0), ErrorCode::InvalidRequest);
        assert_eq!(code(8), ErrorCode::InvalidRequest);
    }
}
