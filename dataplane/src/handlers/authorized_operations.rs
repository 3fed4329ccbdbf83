//! Which operations a client may do, for the requests that ask (KIP-430). There is no authorizer, so these are all that a
//! resource has, one bit per operation's number.

const READ: u32 = 3;
const WRITE: u32 = 4;
const CREATE: u32 = 5;
const DELETE: u32 = 6;
const ALTER: u32 = 7;
const DESCRIBE: u32 = 8;
const CLUSTER_ACTION: u32 = 9;
const DESCRIBE_CONFIGS: u32 = 10;
const ALTER_CONFIGS: u32 = 11;
const IDEMPOTENT_WRITE: u32 = 12;

/// What a response holds when the client did not ask.
const NOT_ASKED: i32 = i32::MIN;

pub(super) fn of_topic(asked: bool) -> i32 {
    let operations = [
        READ,
        WRITE,
        CREATE,
        DELETE,
        ALTER,
        DESCRIBE,
        DESCRIBE_CONFIGS,
        ALTER_CONFIGS,
    ];
    if asked { bits(&operations) } else { NOT_ASKED }
}

pub(super) fn of_group(asked: bool) -> i32 {
    let operations = [READ, DELETE, DESCRIBE, DESCRIBE_CONFIGS, ALTER_CONFIGS];
    if asked { bits(&operations) } else { NOT_ASKED }
}

pub(super) fn of_cluster(asked: bool) -> i32 {
    let operations = [
        CREATE,
        ALTER,
        DESCRIBE,
        CLUSTER_ACTION,
        DESCRIBE_CONFIGS,
        ALTER_CONFIGS,
        IDEMPOTENT_WRITE,
    ];
    if asked { bits(&operations) } else { NOT_ASKED }
}

fn bits(operations: &[u32]) -> i32 {
    operations
        .iter()
        .fold(0, |bits, operation| bits | 1 << operation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bit_fields_are_those_of_a_kafka_broker_without_authorizer() {
        assert_eq!((of_topic(true), of_cluster(true)), (3576, 8096));
        assert_eq!((of_topic(false), of_cluster(false)), (i32::MIN, i32::MIN));
    }
}
