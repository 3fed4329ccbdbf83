//! Which version of an API a connection uses: the highest that the broker and this program both speak, as the broker's ApiVersions answer has it.

use std::collections::HashMap;

use anyhow::{Result, anyhow, ensure};
use wire::messages::api_versions::ApiVersionsResponse;
use wire::{ApiKey, ErrorCode, Reader};

/// The first question of a connection. Version 4 would tell this program nothing more, and fewer brokers know it.
pub const QUESTION_VERSION_MAX: i16 = 3;

/// The last versions of Produce and Fetch that name topics by name.
pub const TOPIC_NAME_VERSION_MAX: i16 = 12;

/// Lowest and highest version, both included.
type Range = (i16, i16);

/// The versions that a broker speaks.
#[derive(Debug, Default)]
pub struct Versions(HashMap<i16, Range>);

/// What a broker says to the question which versions it speaks.
#[derive(Debug)]
pub enum Answer {
    Versions(Versions),
    /// It does not know the question's version, but this one.
    AskInstead(i16),
}

impl Answer {
    pub fn decode(reader: &mut Reader<'_>, version: i16) -> Result<Self> {
        // Whatever the question's version, a broker that does not know it answers in version 0 (KIP-511).
        let unknown = reader.clone().read_i16()? == ErrorCode::UnsupportedVersion as i16;
        let response = ApiVersionsResponse::decode(reader, if unknown { 0 } else { version })?;
        let range = |entry: wire::messages::api_versions::ApiVersion| {
            (entry.api_key, (entry.min_version, entry.max_version))
        };
        let versions = Versions(response.api_keys.iter().map(range).collect());
        if !unknown {
            crate::topic::check(response.error_code)?;
            return Ok(Answer::Versions(versions));
        }
        ensure!(
            version > 0,
            "the broker speaks no version of ApiVersions that this program knows"
        );
        let instead = versions
            .agreed_at_most(ApiKey::ApiVersions, version - 1)
            .unwrap_or(0);
        Ok(Answer::AskInstead(instead))
    }
}

impl Versions {
    /// The highest version of an API that both sides speak.
    pub fn agreed(&self, api: ApiKey) -> Result<i16> {
        self.agreed_at_most(api, i16::MAX)
    }

    /// As `agreed`, no higher than `version_max`.
    pub fn agreed_at_most(&self, api: ApiKey, version_max: i16) -> Result<i16> {
        let (our_min, our_max) = ours(api);
        let our_max = our_max.min(version_max);
        let (min, max) = self
            .0
            .get(&(api as i16))
            .ok_or_else(|| anyhow!("the broker does not speak {}", api.api().name))?;
        let highest = our_max.min(*max);
        ensure!(
            highest >= our_min.max(*min),
            "the broker speaks {} {min}-{max}, this program {our_min}-{our_max}",
            api.api().name
        );
        Ok(highest)
    }
}

/// The versions whose every field this program fills in.
fn ours(api: ApiKey) -> Range {
    let table = api.api();
    match api {
        // Before 4, a request could not forbid that asking for a topic creates it.
        ApiKey::Metadata => (4, table.version_max),
        // Later ones delete topics by id.
        ApiKey::DeleteTopics => (table.version_min, 5),
        ApiKey::ApiVersions => (table.version_min, QUESTION_VERSION_MAX),
        _ => (table.version_min, table.version_max),
    }
}

#[cfg(test)]
mod tests {
    use wire::messages::api_versions::ApiVersion;
    use wire::{Array, Writer};

    use super::*;

    fn versions(ranges: &[(ApiKey, i16, i16)]) -> Versions {
        let entry = |(api, min, max): &(ApiKey, i16, i16)| (*api as i16, (*min, *max));
        Versions(ranges.iter().map(entry).collect())
    }

    fn answer(error: ErrorCode, asked: i16, encoded: i16, known: (i16, i16)) -> Result<Answer> {
        let keys = [ApiVersion {
            api_key: ApiKey::ApiVersions as i16,
            min_version: known.0,
            max_version: known.1,
        }];
        let response = ApiVersionsResponse {
            error_code: error as i16,
            api_keys: Array::from(&keys),
            ..ApiVersionsResponse::default()
        };
        let mut bytes = Vec::new();
        response.encode(&mut Writer::new(&mut bytes), encoded)?;
        Answer::decode(&mut Reader::new(&bytes), asked)
    }

    #[test]
    fn the_highest_common_version_is_used() {
        let versions = versions(&[(ApiKey::Produce, 0, 8), (ApiKey::Fetch, 10, 99)]);
        assert_eq!(versions.agreed(ApiKey::Produce).unwrap(), 8);
        let ours = ApiKey::Fetch.api().version_max;
        assert_eq!(versions.agreed(ApiKey::Fetch).unwrap(), ours);
        let by_name = versions.agreed_at_most(ApiKey::Fetch, TOPIC_NAME_VERSION_MAX);
        assert_eq!(by_name.unwrap(), 12);
    }

    #[test]
    fn no_overlap_is_said_with_both_ranges() {
        let versions = versions(&[(ApiKey::Produce, 0, 2)]);
        let error = versions.agreed(ApiKey::Produce).unwrap_err().to_string();
        assert_eq!(error, "the broker speaks Produce 0-2, this program 3-13");
        let error = versions.agreed(ApiKey::InitProducerId).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the broker does not speak InitProducerId"
        );
    }

    #[test]
    fn a_broker_that_does_not_know_the_question_is_asked_in_its_own_version() {
        let older = |known| match answer(ErrorCode::UnsupportedVersion, 3, 0, known) {
            Ok(Answer::AskInstead(version)) => version,
            other => panic!("{other:?}"),
        };
        assert_eq!(older((0, 2)), 2);
        // Not even its own range helps, so the oldest question is asked.
        assert_eq!(older((7, 9)), 0);
        assert!(answer(ErrorCode::UnsupportedVersion, 0, 0, (7, 9)).is_err());
        assert!(matches!(
            answer(ErrorCode::None, 3, 3, (0, 3)),
            Ok(Answer::Versions(_))
        ));
    }
}
