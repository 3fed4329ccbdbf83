//! Why a ring could not be made, in words that tell an operator what to change.

use std::io;

use io_uring::{Parameters, Probe, opcode};

#[derive(Debug, thiserror::Error)]
pub enum RingError {
    #[error("this kernel has no io_uring: Linux 6.1 or later is needed, this is {kernel}")]
    NoIoUring { kernel: String },
    #[error(
        "this kernel's io_uring lacks {feature}: Linux 6.1 or later is needed, this is {kernel}"
    )]
    MissingFeature {
        feature: &'static str,
        kernel: String,
    },
    #[error(
        "io_uring is switched off on this host: set the sysctl kernel.io_uring_disabled to 0 (it is {setting})"
    )]
    SwitchedOff { setting: u32 },
    #[error(
        "io_uring is forbidden to this process, as by a container's seccomp profile: allow io_uring_setup, _enter and _register"
    )]
    Forbidden,
    #[error("not enough memory for an io_uring: raise the memlock limit (ulimit -l)")]
    MemoryLimit,
    #[error("no file descriptor is left for an io_uring: raise the open files limit (ulimit -n)")]
    DescriptorLimit,
    #[error("ring configuration: {0}")]
    Configuration(&'static str),
    #[error("{action}: {source}")]
    Other {
        action: &'static str,
        source: io::Error,
    },
}

impl RingError {
    pub(crate) fn other(action: &'static str) -> impl FnOnce(io::Error) -> RingError {
        move |source| RingError::Other { action, source }
    }

    /// What a failed io_uring_setup means, given the host's `io_uring_disabled` sysctl (absent before Linux 6.6).
    pub(crate) fn of_setup(error: io::Error, disabled: Option<u32>, kernel: String) -> RingError {
        match error.raw_os_error() {
            Some(libc::ENOSYS) => RingError::NoIoUring { kernel },
            Some(libc::EINVAL) => RingError::MissingFeature {
                feature: "SINGLE_ISSUER and DEFER_TASKRUN",
                kernel,
            },
            Some(libc::EPERM | libc::EACCES) => match disabled {
                Some(setting) if setting != 0 => RingError::SwitchedOff { setting },
                _ => RingError::Forbidden,
            },
            Some(libc::ENOMEM) => RingError::MemoryLimit,
            Some(libc::EMFILE | libc::ENFILE) => RingError::DescriptorLimit,
            _ => RingError::Other {
                action: "setting up io_uring",
                source: error,
            },
        }
    }
}

/// Operations that the reactor cannot do without, by the names an operator can look up.
const OPERATIONS: [(&str, u8); 19] = [
    ("IORING_OP_ACCEPT", opcode::AcceptMulti::CODE),
    ("IORING_OP_RECV", opcode::RecvMulti::CODE),
    ("IORING_OP_SEND", opcode::Send::CODE),
    ("IORING_OP_SENDMSG", opcode::SendMsg::CODE),
    ("IORING_OP_READ", opcode::Read::CODE),
    ("IORING_OP_WRITE", opcode::Write::CODE),
    ("IORING_OP_WRITEV", opcode::Writev::CODE),
    ("IORING_OP_READ_FIXED", opcode::ReadFixed::CODE),
    ("IORING_OP_WRITE_FIXED", opcode::WriteFixed::CODE),
    ("IORING_OP_FSYNC", opcode::Fsync::CODE),
    ("IORING_OP_FALLOCATE", opcode::Fallocate::CODE),
    ("IORING_OP_OPENAT", opcode::OpenAt::CODE),
    ("IORING_OP_STATX", opcode::Statx::CODE),
    ("IORING_OP_RENAMEAT", opcode::RenameAt::CODE),
    ("IORING_OP_UNLINKAT", opcode::UnlinkAt::CODE),
    ("IORING_OP_MKDIRAT", opcode::MkDirAt::CODE),
    ("IORING_OP_ASYNC_CANCEL", opcode::AsyncCancel::CODE),
    // Present since 6.0 and 6.1, like multishot receive and DEFER_TASKRUN, which cannot be probed as operations.
    ("IORING_OP_SEND_ZC", opcode::SendZc::CODE),
    ("IORING_OP_SENDMSG_ZC", opcode::SendMsgZc::CODE),
];

/// The first thing that this kernel's io_uring lacks.
pub(crate) fn missing_feature(parameters: &Parameters, probe: &Probe) -> Option<&'static str> {
    let features = [
        ("IORING_FEAT_NODROP", parameters.is_feature_nodrop()),
        ("IORING_FEAT_EXT_ARG", parameters.is_feature_ext_arg()),
        ("IORING_FEAT_FAST_POLL", parameters.is_feature_fast_poll()),
        (
            "IORING_FEAT_SUBMIT_STABLE",
            parameters.is_feature_submit_stable(),
        ),
    ];
    missing_of(&features, |operation| probe.is_supported(operation))
}

fn missing_of(
    features: &[(&'static str, bool)],
    supports: impl Fn(u8) -> bool,
) -> Option<&'static str> {
    let feature = features
        .iter()
        .find(|(_, present)| !present)
        .map(|(name, _)| *name);
    feature.or_else(|| {
        OPERATIONS
            .iter()
            .find(|(_, code)| !supports(*code))
            .map(|(name, _)| *name)
    })
}

/// As `uname -r` prints it.
pub(crate) fn kernel_release() -> String {
    read_setting("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".to_owned())
}

/// 0 is on, 1 off for most users, 2 off for all; absent before Linux 6.6.
pub(crate) fn io_uring_disabled() -> Option<u32> {
    read_setting("/proc/sys/kernel/io_uring_disabled")?
        .parse()
        .ok()
}

fn read_setting(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(errno: i32, disabled: Option<u32>) -> String {
        RingError::of_setup(
            io::Error::from_raw_os_error(errno),
            disabled,
            "5.4.0".to_owned(),
        )
        .to_string()
    }

    #[test]
    fn a_failed_setup_names_its_remedy() {
        assert!(said(libc::ENOSYS, None).contains("no io_uring"));
        assert!(said(libc::ENOSYS, None).contains("5.4.0"));
        assert!(said(libc::EINVAL, Some(0)).contains("DEFER_TASKRUN"));
        assert!(said(libc::EPERM, Some(2)).contains("io_uring_disabled"));
        assert!(said(libc::EPERM, Some(0)).contains("seccomp"));
        assert!(said(libc::EPERM, None).contains("seccomp"));
        assert!(said(libc::ENOMEM, None).contains("memlock"));
        assert!(said(libc::EMFILE, None).contains("open files"));
        assert!(said(libc::EIO, None).contains("setting up io_uring"));
        assert!(!said(libc::EPERM, Some(1)).contains('\n'));
    }

    #[test]
    fn the_first_missing_feature_or_operation_is_named() {
        let present = [("IORING_FEAT_EXT_ARG", true)];
        assert_eq!(missing_of(&present, |_| true), None);
        assert_eq!(
            missing_of(&[("IORING_FEAT_EXT_ARG", false)], |_| true),
            Some("IORING_FEAT_EXT_ARG")
        );
        assert_eq!(
            missing_of(&present, |code| code != opcode::MkDirAt::CODE),
            Some("IORING_OP_MKDIRAT")
        );
        assert_eq!(
            missing_of(&present, |code| code < opcode::SendZc::CODE),
            Some("IORING_OP_SEND_ZC")
        );
    }
}
