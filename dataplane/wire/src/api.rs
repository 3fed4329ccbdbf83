//! The table of APIs: which versions exist here, which form their headers and lengths have, which ones the broker answers.
//!
//! ApiVersions answers, request headers, message decoding and dispatch all read this table and nothing else.

use crate::field::Form;

/// One API of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Api {
    pub key: ApiKey,
    pub name: &'static str,
    /// The versions that can be decoded and encoded.
    pub version_min: i16,
    pub version_max: i16,
    /// The first version with compact lengths and tagged fields (KIP-482).
    pub version_flexible: i16,
    /// Whether a broker answers it. The others are declared for clients and for later.
    pub advertised: bool,
}

/// Where an API has no flexible version.
const NEVER: i16 = i16::MAX;

macro_rules! apis {
    ($($name:ident $key:literal: $min:literal to $max:literal, flexible $flexible:tt, $advertised:tt;)*) => {
        /// The number that a request header names its API by.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(i16)]
        pub enum ApiKey {
            $($name = $key,)*
        }

        /// Every API, in order of its key.
        pub const APIS: &[Api] = &[
            $(ApiKey::$name.api(),)*
        ];

        impl ApiKey {
            /// The API of that number, if it is in the table.
            pub fn from_i16(key: i16) -> Option<Self> {
                match key {
                    $($key => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The API's row in the table.
            pub const fn api(self) -> Api {
                match self {
                    $(Self::$name => Api {
                        key: Self::$name,
                        name: stringify!($name),
                        version_min: $min,
                        version_max: $max,
                        version_flexible: apis!(@flexible $flexible),
                        advertised: apis!(@advertised $advertised),
                    },)*
                }
            }
        }
    };
    (@flexible never) => { NEVER };
    (@flexible $version:literal) => { $version };
    (@advertised advertised) => { true };
    (@advertised hidden) => { false };
}

// The versions of Apache Kafka 4.1, except that OffsetCommit and OffsetFetch end at 9 (10 names topics by id) and InitProducerId at 5
// (6 is for two-phase commit): a version is offered once it is proven against a second implementation.
apis! {
    Produce                  0: 3 to 13, flexible  9, advertised;
    Fetch                    1: 4 to 18, flexible 12, advertised;
    ListOffsets              2: 1 to 10, flexible  6, advertised;
    Metadata                 3: 0 to 13, flexible  9, advertised;
    OffsetCommit             8: 2 to  9, flexible  8, advertised;
    OffsetFetch              9: 1 to  9, flexible  6, advertised;
    FindCoordinator         10: 0 to  6, flexible  3, advertised;
    JoinGroup               11: 0 to  9, flexible  6, hidden;
    Heartbeat               12: 0 to  4, flexible  4, hidden;
    LeaveGroup              13: 0 to  5, flexible  4, hidden;
    SyncGroup               14: 0 to  5, flexible  4, hidden;
    DescribeGroups          15: 0 to  6, flexible  5, advertised;
    ListGroups              16: 0 to  5, flexible  3, advertised;
    ApiVersions             18: 0 to  4, flexible  3, advertised;
    CreateTopics            19: 2 to  7, flexible  5, advertised;
    DeleteTopics            20: 1 to  6, flexible  4, advertised;
    DeleteRecords           21: 0 to  2, flexible  2, hidden;
    InitProducerId          22: 0 to  5, flexible  2, advertised;
    OffsetForLeaderEpoch    23: 2 to  4, flexible  4, advertised;
    DescribeConfigs         32: 1 to  4, flexible  4, advertised;
    AlterConfigs            33: 0 to  2, flexible  2, advertised;
    CreatePartitions        37: 0 to  3, flexible  2, advertised;
    DeleteGroups            42: 0 to  2, flexible  2, advertised;
    IncrementalAlterConfigs 44: 0 to  1, flexible  1, advertised;
    OffsetDelete            47: 0 to  0, flexible never, advertised;
    DescribeQuorum          55: 0 to  2, flexible  0, advertised;
    UpdateFeatures          57: 0 to  2, flexible  0, advertised;
    DescribeCluster         60: 0 to  2, flexible  0, advertised;
    UnregisterBroker        64: 0 to  0, flexible  0, advertised;
    AddRaftVoter            80: 0 to  0, flexible  0, advertised;
    RemoveRaftVoter         81: 0 to  0, flexible  0, advertised;
}

impl ApiKey {
    /// Whether messages of this version can be decoded and encoded.
    pub fn supports(self, version: i16) -> bool {
        let api = self.api();
        (api.version_min..=api.version_max).contains(&version)
    }

    /// The form of a request's header: 1 up to the API's first flexible version, 2 from it on.
    pub fn request_header_version(self, version: i16) -> i16 {
        if version >= self.api().version_flexible {
            2
        } else {
            1
        }
    }

    /// The form of a response's header. An ApiVersions response has the oldest form in every version, because a client reads it
    /// before it knows what the broker speaks (KIP-511).
    pub fn response_header_version(self, version: i16) -> i16 {
        let flexible = version >= self.api().version_flexible;
        if flexible && self != ApiKey::ApiVersions {
            1
        } else {
            0
        }
    }

    pub(crate) fn form(self, version: i16) -> Option<Form> {
        let flexible = version >= self.api().version_flexible;
        self.supports(version).then_some(Form { version, flexible })
    }
}

impl Api {
    /// The lowest version that an ApiVersions response names. It is the lowest one served, but for Produce: librdkafka turns
    /// compression off unless the range starts at 0, so Kafka 4 names 0 there and still refuses 0 to 2 (KAFKA-18659).
    pub fn version_min_advertised(&self) -> i16 {
        match self.key {
            ApiKey::Produce => 0,
            _ => self.version_min,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_finds_every_key() {
        assert!(APIS.is_sorted_by_key(|api| api.key));
        for api in APIS {
            assert_eq!(ApiKey::from_i16(api.key as i16), Some(api.key));
            assert!(api.version_min <= api.version_max);
            assert!(
                !api.key.supports(api.version_min - 1) && !api.key.supports(api.version_max + 1)
            );
        }
        assert_eq!(ApiKey::from_i16(4), None);
        assert_eq!(ApiKey::from_i16(-1), None);
    }

    #[test]
    fn only_api_versions_answers_with_the_old_header_in_flexible_versions() {
        assert_eq!(ApiKey::ApiVersions.request_header_version(3), 2);
        assert_eq!(ApiKey::ApiVersions.response_header_version(3), 0);
        assert_eq!(ApiKey::Fetch.request_header_version(11), 1);
        assert_eq!(ApiKey::Fetch.response_header_version(11), 0);
        assert_eq!(ApiKey::Fetch.response_header_version(12), 1);
        assert_eq!(ApiKey::OffsetDelete.request_header_version(0), 1);
    }
}
