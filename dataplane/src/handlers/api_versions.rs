//! ApiVersions: tells a client which APIs and versions this broker serves, straight from the table of APIs.

use crate::dispatch::{RequestError, respond};
use crate::io::{Gather, Io};
use crate::respond::AnswerTo;
use crate::shard::Shard;
use control_api::level::{FEATURE_NAME, Level, Levels};
use wire::messages::api_versions::{
    ApiVersion, ApiVersionsRequest, ApiVersionsResponse, FinalizedFeatureKey, SupportedFeatureKey,
};
use wire::{APIS, ApiKey, Array, ErrorCode};

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &ApiVersionsRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let api_keys: Vec<ApiVersion> = APIS
        .iter()
        .filter(|api| api.advertised)
        .map(api_version)
        .collect();
    // Before version 3 a client does not name itself.
    let named = is_software_name(request.client_software_name)
        && is_software_name(request.client_software_version);
    // What the controllers last said; the epoch is where in their log (KIP-584).
    let (level, epoch) = (shard.image().feature_level, shard.image().index);
    let (supported, finalized) = features(level);
    let response = if to.version < 3 || named {
        ApiVersionsResponse {
            api_keys: Array::from(&api_keys),
            supported_features: Array::from(&supported),
            finalized_features_epoch: i64::try_from(epoch).unwrap_or(i64::MAX),
            finalized_features: Array::from(&finalized),
            ..Default::default()
        }
    } else {
        ApiVersionsResponse {
            error_code: ErrorCode::InvalidRequest as i16,
            ..Default::default()
        }
    };
    respond(answer, to, |writer, version| {
        response.encode(writer, version)
    })
}

/// Answers a request of a version that is not served, whose body cannot be read: in version 0, which every client reads,
/// with the versions of ApiVersions that are served, so that the client can ask again (KIP-511).
pub(crate) fn unsupported(correlation_id: i32, answer: &mut Gather) -> Result<(), RequestError> {
    let to = AnswerTo {
        api: ApiKey::ApiVersions,
        version: 0,
        correlation_id,
    };
    let own_versions = [api_version(&ApiKey::ApiVersions.api())];
    let response = ApiVersionsResponse {
        error_code: ErrorCode::UnsupportedVersion as i16,
        api_keys: Array::from(&own_versions),
        ..Default::default()
    };
    respond(answer, to, |writer, version| {
        response.encode(writer, version)
    })
}

/// The one feature there is: what this program supports of it, and where the cluster is, once it is anywhere.
fn features(
    level: Level,
) -> (
    [SupportedFeatureKey<'static>; 1],
    Vec<FinalizedFeatureKey<'static>>,
) {
    let number = |level: Level| i16::try_from(level.0).unwrap_or(i16::MAX);
    let Levels { min, max } = Levels::supported();
    let supported = SupportedFeatureKey {
        name: FEATURE_NAME,
        min_version: number(min),
        max_version: number(max),
    };
    let finalized = FinalizedFeatureKey {
        name: FEATURE_NAME,
        max_version_level: number(level),
        min_version_level: number(level),
    };
    let known = level != Level::default();
    (
        [supported],
        known.then_some(finalized).into_iter().collect(),
    )
}

fn api_version(api: &wire::Api) -> ApiVersion {
    ApiVersion {
        api_key: api.key as i16,
        min_version: api.version_min_advertised(),
        max_version: api.version_max,
    }
}

/// Names and versions end up in metrics and logs, so KIP-511 allows letters and digits with dots and dashes in between.
fn is_software_name(name: &str) -> bool {
    let ends = [name.chars().next(), name.chars().next_back()];
    let inner = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-');
    name.chars().all(inner)
        && ends
            .iter()
            .all(|end| end.is_some_and(|end| end.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names_start_and_end_with_a_letter_or_digit() {
        for good in ["librdkafka", "2.3.0", "a", "apache-kafka-java"] {
            assert!(is_software_name(good), "{good}");
        }
        for bad in ["", "-a", "a.", "a b", "a_b", "é"] {
            assert!(!is_software_name(bad), "{bad}");
        }
    }

    #[test]
    fn an_unknown_version_is_answered_in_version_0_with_the_known_ones() {
        let mut answer = Gather::default();
        unsupported(7, &mut answer).unwrap();
        // Length, correlation id, error code, one key: ApiVersions from 0 on. No throttle time.
        let mut expected = vec![0, 0, 0, 16, 0, 0, 0, 7, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0];
        expected.extend(ApiKey::ApiVersions.api().version_max.to_be_bytes());
        assert_eq!(answer.inline, expected);
    }
}
