//! What is shown of the control link: how the process stands with the control plane, and how old its metadata is.
//!
//! Set on the link's thread after each thing that happens there; what time alone changes is computed when it is scraped.

use super::machine::View;
use crate::io::Instant;
use crate::lease::Lease;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Registry};

/// From what a heartbeat takes on one machine to where it is given up.
const BEAT_SECONDS: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
];

/// Clones are the same metrics.
#[derive(Clone)]
pub struct LinkMetrics {
    registered: IntGauge,
    fenced: IntGauge,
    reachable: IntGauge,
    lease_seconds: Gauge,
    beat_seconds: Histogram,
    metadata_index: IntGauge,
    metadata_lag: IntGauge,
    divergences: IntCounter,
}

impl LinkMetrics {
    pub fn new(registry: &Registry) -> prometheus::Result<LinkMetrics> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            prometheus::Result::Ok(gauge)
        };
        let lease_seconds = Gauge::new(
            "millrace_control_lease_seconds",
            "For how long this broker may still append if it hears nothing more; 0 while it may not.",
        )?;
        registry.register(Box::new(lease_seconds.clone()))?;
        let beat_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "millrace_control_heartbeat_seconds",
                "Time from sending a heartbeat to its answer; those that nobody answered are not in it.",
            )
            .buckets(BEAT_SECONDS.to_vec()),
        )?;
        registry.register(Box::new(beat_seconds.clone()))?;
        let divergences = IntCounter::new(
            "millrace_metadata_divergences_total",
            "Times that this broker's metadata was found not to be the controllers' and a snapshot was taken in its place.",
        )?;
        registry.register(Box::new(divergences.clone()))?;
        Ok(LinkMetrics {
            registered: gauge(
                "millrace_control_registered",
                "1 while the control plane has this process registered.",
            )?,
            fenced: gauge(
                "millrace_control_fenced",
                "1 while this broker's metadata does not show it in service, so that it leads nothing.",
            )?,
            reachable: gauge(
                "millrace_control_reachable",
                "1 while a controller answers this broker's heartbeats.",
            )?,
            metadata_index: gauge(
                "millrace_metadata_index",
                "Index in the control plane's log that the metadata of the shards has reached.",
            )?,
            metadata_lag: gauge(
                "millrace_metadata_lag_entries",
                "How far behind the controllers' leader the metadata of the shards was at the last heartbeat's answer.",
            )?,
            divergences,
            lease_seconds,
            beat_seconds,
        })
    }

    pub(super) fn show(&self, view: View) {
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.registered.set(view.registered.into());
        self.fenced.set(view.fenced.into());
        self.reachable.set(view.reachable.into());
        self.metadata_index.set(count(view.metadata_index));
        self.metadata_lag.set(count(view.metadata_lag));
        let known = self.divergences.get();
        self.divergences
            .inc_by(view.divergences.saturating_sub(known));
    }

    pub(super) fn beaten(&self, nanos: u64) {
        self.beat_seconds.observe(nanos as f64 / 1e9);
    }

    pub(crate) fn show_lease(&self, lease: &Lease, now: Instant) {
        self.lease_seconds.set(lease.nanos_left(now) as f64 / 1e9);
    }
}
