//! DescribeCluster (API 60): cluster id, controller and brokers (KIP-700).

use crate::schema::messages;
use crate::Array;

messages! {
    DescribeCluster: DescribeClusterRequest => DescribeClusterResponse<'a>;

    struct DescribeClusterRequest {
        include_cluster_authorized_operations: bool,
        endpoint_type: i8 [1..] = 1,
        include_fenced_brokers: bool [2..],
    }

    struct DescribeClusterResponse<'a> {
        throttle_time_ms: i32,
        error_code: i16,
        error_message: Option<&'a str>,
        endpoint_type: i8 [1..] = 1,
        cluster_id: &'a str,
        controller_id: i32 = -1,
        brokers: Array<'a, DescribeClusterBroker<'a>>,
        cluster_authorized_operations: i32 = -2147483648,
    }

    struct DescribeClusterBroker<'a> {
        broker_id: i32,
        host: &'a str,
        port: i32,
        rack: Option<&'a str>,
        is_fenced: bool [2..],
    }
}
