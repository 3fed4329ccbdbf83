//! ApiVersions (API 18): which APIs and versions a broker serves.
//!
//! A client sends the newest version that it knows. A broker that does not know that one answers UNSUPPORTED_VERSION in version 0 with its own range (KIP-511).

use crate::schema::messages;
use crate::Array;

messages! {
    ApiVersions: ApiVersionsRequest<'a> => ApiVersionsResponse<'a>;

    struct ApiVersionsRequest<'a> {
        client_software_name: &'a str [3..] ignorable,
        client_software_version: &'a str [3..] ignorable,
    }

    struct ApiVersionsResponse<'a> {
        error_code: i16,
        api_keys: Array<'a, ApiVersion>,
        throttle_time_ms: i32 [1..] ignorable,
    } tags {
        0 => supported_features: Array<'a, SupportedFeatureKey<'a>> [3..] ignorable,
        1 => finalized_features_epoch: i64 [3..] ignorable = -1,
        2 => finalized_features: Array<'a, FinalizedFeatureKey<'a>> [3..] ignorable,
        3 => zk_migration_ready: bool [3..] ignorable,
    }

    struct ApiVersion {
        api_key: i16,
        min_version: i16,
        max_version: i16,
    }

    struct SupportedFeatureKey<'a> {
        name: &'a str,
        min_version: i16,
        max_version: i16,
    }

    struct FinalizedFeatureKey<'a> {
        name: &'a str,
        max_version_level: i16,
        min_version_level: i16,
    }
}
