//! AlterConfigs (API 33): replace all configs of a resource.

use crate::schema::messages;
use crate::Array;

messages! {
    AlterConfigs: AlterConfigsRequest<'a> => AlterConfigsResponse<'a>;

    struct AlterConfigsRequest<'a> {
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
        value: Option<&'a str> = Some(""),
    }

    struct AlterConfigsResponse<'a> {
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
