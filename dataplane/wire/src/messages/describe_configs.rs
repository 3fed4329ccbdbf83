//! DescribeConfigs (API 32): read configs of topics and brokers.

use crate::schema::messages;
use crate::Array;

messages! {
    DescribeConfigs: DescribeConfigsRequest<'a> => DescribeConfigsResponse<'a>;

    struct DescribeConfigsRequest<'a> {
        resources: Array<'a, DescribeConfigsResource<'a>>,
        include_synonyms: bool,
        include_documentation: bool [3..],
    }

    struct DescribeConfigsResource<'a> {
        resource_type: i8,
        resource_name: &'a str,
        configuration_keys: Option<Array<'a, &'a str>> = Some(Array::default()),
    }

    struct DescribeConfigsResponse<'a> {
        throttle_time_ms: i32,
        results: Array<'a, DescribeConfigsResult<'a>>,
    }

    struct DescribeConfigsResult<'a> {
        error_code: i16,
        error_message: Option<&'a str> = Some(""),
        resource_type: i8,
        resource_name: &'a str,
        configs: Array<'a, DescribeConfigsResourceResult<'a>>,
    }

    struct DescribeConfigsResourceResult<'a> {
        name: &'a str,
        value: Option<&'a str> = Some(""),
        read_only: bool,
        config_source: i8 = -1,
        is_sensitive: bool,
        synonyms: Array<'a, DescribeConfigsSynonym<'a>>,
        config_type: i8 [3..] ignorable,
        documentation: Option<&'a str> [3..] ignorable = Some(""),
    }

    struct DescribeConfigsSynonym<'a> {
        name: &'a str,
        value: Option<&'a str> = Some(""),
        source: i8,
    }
}
