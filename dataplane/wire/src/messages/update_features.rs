//! UpdateFeatures (API 57): raise what a cluster's brokers and controllers may do (KIP-584).

use crate::schema::messages;
use crate::Array;

messages! {
    UpdateFeatures: UpdateFeaturesRequest<'a> => UpdateFeaturesResponse<'a>;

    struct UpdateFeaturesRequest<'a> {
        timeout_ms: i32 = 60000,
        feature_updates: Array<'a, FeatureUpdateKey<'a>>,
        validate_only: bool [1..],
    }

    struct FeatureUpdateKey<'a> {
        feature: &'a str,
        max_version_level: i16,
        allow_downgrade: bool [0..=0],
        upgrade_type: i8 [1..] = 1,
    }

    struct UpdateFeaturesResponse<'a> {
        throttle_time_ms: i32,
        error_code: i16,
        error_message: Option<&'a str> = Some(""),
        results: Array<'a, UpdatableFeatureResult<'a>> [0..=1] ignorable,
    }

    struct UpdatableFeatureResult<'a> {
        feature: &'a str,
        error_code: i16,
        error_message: Option<&'a str> = Some(""),
    }
}
