//! UpdateFeatures: raises the cluster's feature level, the one feature there is (KIP-584).

use super::admin::{self, Refusal, outcome};
use crate::dispatch::{RequestError, respond};
use crate::io::{Gather, Io};
use crate::limits::ADMIN_ITEMS_MAX;
use crate::respond::AnswerTo;
use crate::shard::Shard;
use control_api::level::{FEATURE_NAME, Level};
use control_api::message::Request;
use wire::messages::update_features::{
    FeatureUpdateKey, UpdatableFeatureResult, UpdateFeaturesRequest, UpdateFeaturesResponse,
};
use wire::{Array, ErrorCode};

/// What a client calls raising; the others are ways of lowering.
const UPGRADE: i8 = 1;

pub(crate) async fn handle<I: Io>(
    shard: &Shard<I>,
    to: AnswerTo,
    request: &UpdateFeaturesRequest<'_>,
    answer: &mut Gather,
) -> Result<(), RequestError> {
    let mut results = Vec::new();
    for update in request.feature_updates.iter().take(ADMIN_ITEMS_MAX) {
        let result = match wanted(shard.image().feature_level, &update, to.version) {
            Ok(level) => raise(shard, level, request).await,
            Err(refusal) => Err(refusal),
        };
        results.push((update.feature, result));
    }
    if request
        .feature_updates
        .iter()
        .nth(ADMIN_ITEMS_MAX)
        .is_some()
    {
        results.clear();
        results.push(("", Err(Refusal::too_many_items())));
    }
    // From version 2 on there is one answer for all of them.
    let first_failure = results.iter().find(|(_, result)| result.is_err());
    let whole = first_failure.filter(|_| to.version >= 2);
    let (error_code, error_message) = whole.map_or((0, None), |(_, result)| outcome(result));
    let results: Vec<UpdatableFeatureResult<'_>> = results
        .iter()
        .map(|(feature, result)| {
            let (error_code, error_message) = outcome(result);
            UpdatableFeatureResult {
                feature,
                error_code,
                error_message,
            }
        })
        .collect();
    let response = UpdateFeaturesResponse {
        error_code,
        error_message,
        results: Array::from(&results),
        ..Default::default()
    };
    respond(answer, to, |writer, version| {
        response.encode(writer, version)
    })
}

/// The level that an update asks for.
fn wanted(current: Level, update: &FeatureUpdateKey<'_>, version: i16) -> Result<Level, Refusal> {
    let refuse = |why: &str| {
        let (level, feature) = (update.max_version_level, update.feature);
        let text = format!("Invalid update version {level} for feature {feature}. {why}");
        Err(Refusal::new(ErrorCode::InvalidUpdateVersion, text))
    };
    if update.feature != FEATURE_NAME {
        return refuse("The controllers do not support this feature.");
    }
    let level = match u16::try_from(update.max_version_level) {
        Ok(level) if level > 0 => Level(level),
        _ => return refuse("The feature cannot be removed."),
    };
    let lowers = level < current || (version >= 1 && update.upgrade_type != UPGRADE);
    match lowers {
        true => refuse("It can only be raised, because what was written since could not be read."),
        false => Ok(level),
    }
}

async fn raise<I: Io>(
    shard: &Shard<I>,
    level: Level,
    request: &UpdateFeaturesRequest<'_>,
) -> Result<(), Refusal> {
    let ask = Request::RaiseFeatureLevel {
        level,
        validate_only: request.validate_only,
    };
    let mut answers = admin::ask_done(shard, ask, 1).await;
    answers.remove(0)?;
    if !request.validate_only {
        let raised = |image: &control_api::image::MetadataImage| image.feature_level >= level;
        admin::catch_up(shard, request.timeout_ms, raised).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(feature: &str, level: i16, upgrade_type: i8) -> Result<Level, ErrorCode> {
        let update = FeatureUpdateKey {
            feature,
            max_version_level: level,
            upgrade_type,
            ..Default::default()
        };
        wanted(Level(2), &update, 1).map_err(|refusal| refusal.code)
    }

    #[test]
    fn only_our_feature_is_raised_and_nothing_is_lowered() {
        let refused = Err(ErrorCode::InvalidUpdateVersion);
        assert_eq!(asked(FEATURE_NAME, 3, 1), Ok(Level(3)));
        assert_eq!(asked(FEATURE_NAME, 2, 1), Ok(Level(2)));
        assert_eq!(asked(FEATURE_NAME, 1, 1), refused);
        assert_eq!(asked(FEATURE_NAME, 1, 2), refused);
        assert_eq!(asked(FEATURE_NAME, 0, 3), refused);
        assert_eq!(asked(FEATURE_NAME, -1, 1), refused);
        assert_eq!(asked("metadata.version", 3, 1), refused);
    }
}
