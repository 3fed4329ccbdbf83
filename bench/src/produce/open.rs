//! `produce --records-per-second`: producers at a fixed rate.

use anyhow::Result;

use super::Arguments;
use crate::meter::Meter;
use crate::open::{self, Rate};

pub(super) fn run(arguments: &Arguments, records_per_second: u64) -> Result<()> {
    let Arguments {
        workload,
        linger,
        limits,
        output,
        ..
    } = arguments;
    open::record_bytes(workload)?;
    crate::block_on(async {
        let topic = workload.prepare_topic().await?;
        let (report, ended) = open::run_once(
            workload,
            &topic,
            *linger,
            Rate::patient(records_per_second),
            *limits,
            output.clone(),
        )
        .await?;
        Meter::publish(output, &report, ended)
    })
}
