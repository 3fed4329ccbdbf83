//! How many file descriptors this process may have, and who gets them.
//!
//! Connections are what grows with the world outside, so they are bounded below the limit; the rest is kept for what a node
//! cannot do without: its logs and snapshots, the connections that it makes itself, the runtime.

use crate::limits::CONNECTIONS_MAX;
use anyhow::{Context, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Half of the descriptors is kept for the node itself, within these bounds. A log has a file for every 8 MiB since its last
/// snapshot, which may be as many as a large state has.
const RESERVE_MIN: usize = 48;
const RESERVE_MAX: usize = 768;
/// Of the reserve: scrapes of metrics and health.
const HTTP_CONNECTIONS_MIN: usize = 8;
const HTTP_CONNECTIONS_MAX: usize = 64;
/// With fewer there would be no room for brokers.
const DESCRIPTORS_MIN: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Connections of brokers, operators and other controllers.
    pub connections: usize,
    pub http_connections: usize,
}

/// Raises the soft limit as far as it goes and shares out what there is.
pub(crate) fn raise() -> anyhow::Result<Shares> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, raised).context("cannot raise the limit of open files")?;
    }
    let descriptors = limit.maximum.map_or(usize::MAX, |maximum| {
        usize::try_from(maximum).unwrap_or(usize::MAX)
    });
    share(descriptors)
}

fn share(descriptors: usize) -> anyhow::Result<Shares> {
    ensure!(
        descriptors >= DESCRIPTORS_MIN,
        "the limit of open files is {descriptors}; at least {DESCRIPTORS_MIN} are needed (ulimit -n)"
    );
    let reserve = (descriptors / 2).clamp(RESERVE_MIN, RESERVE_MAX);
    Ok(Shares {
        connections: CONNECTIONS_MAX.min(descriptors - reserve),
        http_connections: (descriptors / 16).clamp(HTTP_CONNECTIONS_MIN, HTTP_CONNECTIONS_MAX),
    })
}

const _: () = assert!(
    HTTP_CONNECTIONS_MIN * 4 <= RESERVE_MIN && HTTP_CONNECTIONS_MAX * 4 <= RESERVE_MAX,
    "scrapes leave most of the reserve alone"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_node_needs_itself_is_kept_at_any_limit() {
        for descriptors in [64, 96, 256, 1_024, 4_096, 1 << 20, usize::MAX] {
            let shares = share(descriptors).unwrap();
            assert!(shares.connections > 0);
            assert!(shares.connections + RESERVE_MIN <= descriptors);
        }
        assert_eq!(share(usize::MAX).unwrap().connections, CONNECTIONS_MAX);
        let error = share(63).unwrap_err().to_string();
        assert!(error.contains("63"), "{error}");
    }
}
