//! Every limit of the control plane, in one place, but those by which commands are applied: [`Rules`].

use crate::rules::Rules;
use control_api::frame::{FRAME_BYTES_MAX, REQUEST_BYTES_MAX};
use control_api::level::Level;
use std::time::Duration;

/// Values are numbers and words.
pub const CONFIG_VALUE_BYTES_MAX: usize = 32;

/// Groups that one answer lists.
pub const GROUPS_PER_ANSWER_MAX: usize = 10_000;
/// All connections to the control port.
pub const CONNECTIONS_MAX: usize = 4_096;
/// Connections that have not proved yet that they belong to the cluster, and how long each has for it.
pub const STRANGERS_MAX: usize = 256;
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(2);
/// What a stranger may take over TLS: a message of its handshake may have 64 KiB, and comes in records that are held beside it.
pub const TLS_STRANGER_BYTES_MAX: usize = 96 << 10;
/// The memory for what all brokers and operators send at a time.
pub const CLIENT_MEMORY_BYTES_MAX: usize = 128 << 20;
/// Connections from other controllers, and the memory for what all of them send at a time.
pub const CONTROLLERS_MAX: usize = 256;
pub const CONTROLLER_MEMORY_BYTES_MAX: usize = 512 << 20;
/// How long a frame that has begun may take to come whole.
pub const FRAME_TIME_MAX: Duration = Duration::from_secs(10);
/// Images that are on their way to brokers and operators at a time.
pub const IMAGES_IN_FLIGHT_MAX: usize = 4;
/// No vote is cast so many terms ahead: at six elections a second it would have been a month of them in vain.
pub const TERM_STEP_MAX: u64 = 1 << 24;
/// No log gets this long.
pub const INDEX_MAX: u64 = u64::MAX / 4;
/// A frame between controllers: a batch of log entries, or a part of a snapshot.
pub const PEER_FRAME_BYTES_MAX: usize = 160 << 20;
/// Entries per batch; times the longest command it stays below the longest frame.
pub const ENTRIES_PER_BATCH_MAX: usize = 128;
/// A batch is cut short once it holds so much.
pub const BATCH_BYTES_SOFT_MAX: usize = 4 << 20;
/// A snapshot is due when so many entries lie behind the last one, however short they are: the log has each in memory.
pub const LOG_ENTRIES_MAX: u64 = 1_000_000;
pub const SNAPSHOT_BYTES_MAX: usize = 1 << 30;
pub const SNAPSHOT_PART_BYTES: usize = 1 << 20;

/// Recent metadata changes kept for brokers that fell behind a little; the others get a snapshot.
pub const HISTORY_ENTRIES_MAX: usize = 8_192;
pub const HISTORY_BYTES_MAX: usize = 16 << 20;

/// How long a proposal or a linearizable read may take before the answer is that there is no majority.
pub const QUORUM_TIME_MAX: Duration = Duration::from_millis(1_000);
/// How long a peer may leave a request unanswered.
pub const PEER_TIME_MAX: Duration = Duration::from_secs(5);
/// How long writing one frame may take before the reader at the other end is given up.
pub const WRITE_TIME_MAX: Duration = Duration::from_secs(5);

const _: () = assert!(
    ENTRIES_PER_BATCH_MAX * (crate::command::COMMAND_BYTES_MAX + 64) < PEER_FRAME_BYTES_MAX,
    "a full batch of the longest commands must fit one frame"
);
const _: () = assert!(
    GROUPS_PER_ANSWER_MAX * (Rules::of(Level::NEWEST).group_name_bytes_max + 64) < FRAME_BYTES_MAX,
    "a full list of the longest names must fit a frame"
);
const _: () = assert!(
    STRANGERS_MAX * TLS_STRANGER_BYTES_MAX <= 24 << 20,
    "all strangers together take little"
);
const _: () = assert!(
    2 * PEER_FRAME_BYTES_MAX < CONTROLLER_MEMORY_BYTES_MAX,
    "the longest frame of each group's leader must find memory"
);
const _: () = assert!(
    REQUEST_BYTES_MAX < CLIENT_MEMORY_BYTES_MAX,
    "the longest request must find memory"
);
const _: () = assert!(
    HISTORY_BYTES_MAX < FRAME_BYTES_MAX,
    "any kept change must fit a frame"
);
