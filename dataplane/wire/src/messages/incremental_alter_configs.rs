//! IncrementalAlterConfigs (API 44): set, delete, append to or subtract from single configs (KIP-339).

use crate::schema::messages;
use crate::Array;

messages! {
    IncrementalAlterConfigs: IncrementalAlterConfigsRequest<'a> => IncrementalAlterConfigsResponse<'a>;

    struct IncrementalAlterConfigsRequest<'a> {
        resources: Array<'a, AlterConfigsResource<'a>>,
        validate_only: bool,
    }

    struct AlterConfigsResource<'a> {
        resource_type: i8,
        resource_name: &'a str,
        configs: Array<'a, AlterableConfig<'a>>,
    }

    struct AlterableConfig<'a> {
        name: &'a str,
        config_operation: i8,
        value: Option<&'a str> = Some(""),
    }

    struct IncrementalAlterConfigsResponse<'a> {
        throttle_time_ms: i32,
        responses: Array<'a, AlterConfigsResourceResponse<'a>>,
    }

    struct AlterConfigsResourceResponse<'a> {
        error_code: i16,
        error_message: Option<&'a str> = Some(""),
        resource_type: i8,
        resource_name: &'a str,
    }
}
