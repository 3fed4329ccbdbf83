//! A member of the Raft groups is one disk of one node.
//!
//! Raft counts on a member to remember what it voted and what it stored, which an empty disk under a known name does not. So what
//! has a vote is not the node but its disk: a new disk is a new member, knows nothing, and has no vote until the others have
//! committed that it is one of them.
//!
//! ```text
//!  member, 64 bits: | 0 | node, 15 bits | disk, 48 bits, random |
//! ```

const DISK_BITS: u32 = 48;
/// The highest node id.
pub const NODE_MAX: u64 = (1 << 15) - 1;

/// The member that a node is with this disk.
pub fn member(node: u64, disk: u64) -> u64 {
    assert!(
        node <= NODE_MAX && disk >> DISK_BITS == 0,
        "the two must fit"
    );
    node << DISK_BITS | disk
}

/// The node whose disk the member is.
pub fn node_of(member: u64) -> u64 {
    member >> DISK_BITS
}

/// Which of its node's disks the member is.
pub fn disk_of(member: u64) -> u64 {
    member & ((1 << DISK_BITS) - 1)
}

/// For a disk that is being formatted.
pub(crate) fn random_disk() -> u64 {
    rand::random::<u64>() >> (u64::BITS - DISK_BITS)
}

/// As it stands in files and logs.
pub(crate) fn disk_text(disk: u64) -> String {
    format!("{disk:012x}")
}

pub(crate) fn parse_disk(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let disk = u64::from_str_radix(text, 16).ok()?;
    (digits && text.len() == 12 && disk >> DISK_BITS == 0).then_some(disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_told_from_another_of_its_node() {
        for node in [1, 7, NODE_MAX] {
            let disk = random_disk();
            let one = member(node, disk);
            assert_eq!((node_of(one), disk_of(one)), (node, disk));
            assert_ne!(one, member(node, disk ^ 1));
            assert!(
                one < 1 << 63,
                "the log marks committed votes with the highest bit"
            );
            assert_eq!(parse_disk(&disk_text(disk)), Some(disk));
        }
        for bad in ["", "12", "00000000000g", "+00000000001", "1000000000000"] {
            assert_eq!(parse_disk(bad), None, "{bad}");
        }
    }
}
