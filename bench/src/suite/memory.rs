//! Resident memory of a broker for what is merely there: an idle connection, an idle partition.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wire::messages::api_versions::ApiVersionsRequest;
use wire::{ApiKey, FRAME_LENGTH_BYTES};

use super::cluster::Cluster;
use super::lab::{Lab, progress};
use super::rows::{IDLE_CONNECTION, IDLE_PARTITION, Row, Sample};
use crate::bounds::wait_led;
use crate::connection::{Connection, encode_request};
use crate::topic;

const CONNECTIONS: usize = 10_000;
const CONNECTION_BYTES_MAX: f64 = 8192.0;
/// Descriptors that the suite needs beside its connections.
const FILES_SPARE: u64 = 100;
const API_VERSIONS_VERSION: i16 = 0;
const ANSWER_MAX: Duration = Duration::from_secs(10);

const TOPICS: usize = 5;
const PARTITIONS_PER_TOPIC: i32 = 1_000;
const PARTITION_BYTES_MAX: f64 = 4096.0;

/// What the broker allocates the first time is no cost of the thousandth.
const FIRST: usize = 10;
/// Longer than whatever a shard does once a second.
const REST: Duration = Duration::from_secs(2);

pub(super) fn idle_connections(lab: &Lab) -> Result<Vec<Row>> {
    raise_open_files(CONNECTIONS as u64 + FILES_SPARE)?;
    let cluster = Cluster::start(lab, 1)?;
    let request = api_versions()?;
    let mut open = Vec::with_capacity(FIRST + CONNECTIONS);
    for _ in 0..FIRST {
        open.push(connect(&cluster, &request)?);
    }
    let before = resident_bytes_at_rest(&cluster)?;
    progress(&format!("idle-connection: opening {CONNECTIONS}"));
    for number in 1..=CONNECTIONS {
        let opened = connect(&cluster, &request);
        open.push(opened.with_context(|| format!("connection {number} failed"))?);
    }
    let after = resident_bytes_at_rest(&cluster)?;
    let each = (after - before) / CONNECTIONS as f64;
    Ok(vec![Row::of_one(
        IDLE_CONNECTION,
        "8 KiB",
        Sample::new(each, CONNECTION_BYTES_MAX),
    )])
}

pub(super) fn idle_partitions(lab: &Lab) -> Result<Vec<Row>> {
    let cluster = Cluster::start(lab, 1)?;
    create_topic(&cluster, "first", FIRST as i32)?;
    let before = resident_bytes_at_rest(&cluster)?;
    for number in 1..=TOPICS {
        progress(&format!(
            "idle-partition: topic {number} of {TOPICS} with {PARTITIONS_PER_TOPIC} partitions"
        ));
        create_topic(&cluster, &format!("idle-{number}"), PARTITIONS_PER_TOPIC)?;
    }
    let after = resident_bytes_at_rest(&cluster)?;
    let each = (after - before) / (TOPICS as f64 * f64::from(PARTITIONS_PER_TOPIC));
    Ok(vec![Row::of_one(
        IDLE_PARTITION,
        "4 KiB",
        Sample::new(each, PARTITION_BYTES_MAX),
    )])
}

/// Creates a topic and waits until the broker leads all of it.
fn create_topic(cluster: &Cluster<'_>, name: &str, partitions: i32) -> Result<()> {
    crate::block_on(async {
        let mut connection = Connection::open(&cluster.bootstrap).await?;
        topic::create(&mut connection, name, partitions, &[]).await?;
        topic::find(&mut connection, name).await?;
        let all: Vec<i32> = (0..partitions).collect();
        wait_led(&mut connection, name, &all).await
    })
}

fn api_versions() -> Result<Vec<u8>> {
    let mut request = Vec::new();
    encode_request(
        &mut request,
        ApiKey::ApiVersions,
        API_VERSIONS_VERSION,
        0,
        |writer| ApiVersionsRequest::default().encode(writer, API_VERSIONS_VERSION),
    )?;
    Ok(request)
}

/// A connection that has asked one question and got its answer.
fn connect(cluster: &Cluster<'_>, request: &[u8]) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(&cluster.bootstrap)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.write_all(request)?;
    let mut length = [0; FRAME_LENGTH_BYTES];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer)?;
    Ok(stream)
}

fn resident_bytes_at_rest(cluster: &Cluster<'_>) -> Result<f64> {
    cluster.settle();
    sleep(REST);
    resident_bytes(cluster.pid()).context("the broker is gone")
}

fn resident_bytes(pid: u32) -> Option<f64> {
    parse_resident_bytes(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn parse_resident_bytes(status: &str) -> Option<f64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024.0)
}

/// Raises this process's limit of open files, which the broker started afterwards has from it.
fn raise_open_files(wanted: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    ensure!(
        limit.maximum.is_none_or(|maximum| maximum >= wanted),
        "{wanted} open files are needed, see ulimit -Hn"
    );
    let raised = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).context("cannot raise the limit of open files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_found_in_a_process_status() {
        let status = "Name:\tbroker\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\n";
        assert_eq!(parse_resident_bytes(status), Some(204_800.0));
        assert_eq!(parse_resident_bytes("Name:\tkernel thread\n"), None);
        assert!(resident_bytes(std::process::id()).is_some());
    }
}
