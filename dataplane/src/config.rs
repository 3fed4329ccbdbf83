//! The broker's settings: a flag, else the environment, else the configuration file, else the default.

use crate::log::limits::SPARE_BYTES_MAX;
use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use control_api::secured::Credentials;
use control_api::tls::TlsFiles;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Parser, Debug)]
#[command(
    name = "millrace-broker",
    version = control_api::process::BUILD,
    about = "A Kafka-compatible log broker: one thread and one ring per core"
)]
pub struct CommandLine {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub settings: Settings,
    /// A TOML file with any of these settings, written with underscores.
    #[arg(long, global = true, env = "MILLRACE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Looks at this host (kernel, io_uring, memory locks, open files, disk flushes) and says what to change.
    Check,
    /// Sends one record to a new topic of a cluster that runs, reads it back and deletes the topic.
    Smoke {
        /// HOST:PORT of any broker
        #[arg(long, value_name = "ADDRESS")]
        bootstrap: String,
    },
}

/// Everything optional here; [`BrokerConfig`] has what is required.
#[derive(Args, Deserialize, Debug, Default, Clone)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// This broker's id in the cluster, 1 or higher.
    #[arg(long, global = true, env = "MILLRACE_ID")]
    pub id: Option<i32>,
    /// Where clients connect [default: 127.0.0.1:9092]
    #[arg(long, global = true, env = "MILLRACE_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// What clients are told to connect to [default: the listen address]
    #[arg(
        long,
        global = true,
        env = "MILLRACE_ADVERTISE",
        value_name = "HOST:PORT"
    )]
    pub advertise: Option<String>,
    /// Where /metrics, /healthz and /readyz are served [default: none]
    #[arg(long, global = true, env = "MILLRACE_METRICS", value_name = "ADDRESS")]
    pub metrics: Option<String>,
    /// The controllers, separated by commas.
    #[arg(
        long,
        global = true,
        env = "MILLRACE_CONTROLLERS",
        value_name = "HOST:PORT,...",
        value_delimiter = ','
    )]
    pub controllers: Option<Vec<String>>,
    /// The file with the cluster's secret; without it and without TLS only controllers on this machine are joined [default: none]
    #[arg(long, env = "MILLRACE_SECRET_FILE", value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// The certificate that controllers are shown over TLS, in PEM, with those between it and the CA [default: no TLS]
    #[arg(long, env = "MILLRACE_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM
    #[arg(long, env = "MILLRACE_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// The CA that the controllers' certificates must be signed by, in PEM
    #[arg(long, env = "MILLRACE_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The directory of this broker's data.
    #[arg(long, global = true, env = "MILLRACE_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Shards, each a thread pinned to a core of its own [default: one per core]
    #[arg(long, global = true, env = "MILLRACE_SHARDS")]
    pub shards: Option<usize>,
    /// Memory for recent records, over all shards, in MiB [default: 128, or 32 per shard if that is more]
    #[arg(long, global = true, env = "MILLRACE_TAIL_MIB", value_name = "MIB")]
    pub tail_mib: Option<usize>,
    /// Segment files that are kept prepared for whatever segment comes next, over all shards [default: 0]
    #[arg(long, global = true, env = "MILLRACE_SPARE_SEGMENTS", value_name = "N")]
    pub spare_segments: Option<usize>,
    /// How much of a segment is prepared so; topics with a smaller `segment.bytes` do without [default: 1024]
    #[arg(
        long,
        global = true,
        env = "MILLRACE_SPARE_SEGMENT_MIB",
        value_name = "MIB"
    )]
    pub spare_segment_mib: Option<u64>,
    /// Connections on which nothing moves for so long are closed; below 0, none is [default: 600000]
    #[arg(
        long,
        env = "MILLRACE_CONNECTIONS_MAX_IDLE_MS",
        value_name = "MS",
        allow_negative_numbers = true
    )]
    pub connections_max_idle_ms: Option<i64>,
    /// The rack that this broker stands in.
    #[arg(long, global = true, env = "MILLRACE_RACK")]
    pub rack: Option<String>,
}

/// The settings in force.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    pub id: i32,
    pub listen: SocketAddr,
    pub advertise_host: String,
    pub advertise_port: u16,
    pub metrics: Option<SocketAddr>,
    pub controllers: Vec<String>,
    pub credentials: Credentials,
    pub data: PathBuf,
    pub shards: usize,
    pub tail_bytes: usize,
    pub spare_segments: usize,
    pub spare_segment_bytes: u64,
    /// `None`: they may be idle for ever.
    pub connections_idle_ms_max: Option<u64>,
    pub rack: Option<String>,
}

const LISTEN_DEFAULT: &str = "127.0.0.1:9092";
pub const TAIL_MIB_DEFAULT: usize = 128;
/// Room for the largest batch a log takes and the ones that are being written before it.
const TAIL_MIB_PER_SHARD_MIN: usize = 32;
const TAIL_MIB_MAX: usize = 1 << 20;
const SHARDS_MAX: usize = 256;
/// As Kafka's.
const CONNECTIONS_MAX_IDLE_MS_DEFAULT: i64 = 600_000;
const SPARE_SEGMENT_MIB_MAX: u64 = SPARE_BYTES_MAX >> 20;

impl CommandLine {
    /// Puts flags, environment and file together and checks the result.
    pub fn resolve(self) -> anyhow::Result<BrokerConfig> {
        self.merged()?.checked()
    }

    /// Flags, environment and file together.
    pub fn merged(self) -> anyhow::Result<Settings> {
        let file = match &self.config {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                toml::from_str(&text)
                    .with_context(|| format!("{} is not a configuration", path.display()))?
            }
            None => Settings::default(),
        };
        Ok(self.settings.over(file))
    }
}

impl Settings {
    fn over(self, file: Settings) -> Settings {
        Settings {
            id: self.id.or(file.id),
            listen: self.listen.or(file.listen),
            advertise: self.advertise.or(file.advertise),
            metrics: self.metrics.or(file.metrics),
            controllers: self.controllers.or(file.controllers),
            secret_file: self.secret_file.or(file.secret_file),
            tls_cert: self.tls_cert.or(file.tls_cert),
            tls_key: self.tls_key.or(file.tls_key),
            tls_ca: self.tls_ca.or(file.tls_ca),
            data: self.data.or(file.data),
            shards: self.shards.or(file.shards),
            tail_mib: self.tail_mib.or(file.tail_mib),
            spare_segments: self.spare_segments.or(file.spare_segments),
            spare_segment_mib: self.spare_segment_mib.or(file.spare_segment_mib),
            connections_max_idle_ms: self
                .connections_max_idle_ms
                .or(file.connections_max_idle_ms),
            rack: self.rack.or(file.rack),
        }
    }

    fn checked(self) -> anyhow::Result<BrokerConfig> {
        let id = self.id.context("--id is missing")?;
        if id < 1 {
            bail!("--id must be 1 or higher, not {id}");
        }
        let controllers = self.controllers.context("--controllers is missing")?;
        let trimmed = controllers.iter().map(|address| address.trim().to_owned());
        let controllers: Vec<String> = trimmed.collect();
        if controllers.is_empty() || controllers.iter().any(|address| !is_host_and_port(address)) {
            bail!("--controllers must be host:port, separated by commas");
        }
        let tls = TlsFiles::of(self.tls_cert, self.tls_key, self.tls_ca);
        let loaded = tls.and_then(|tls| Credentials::load(self.secret_file.as_deref(), tls));
        let credentials = loaded.map_err(anyhow::Error::msg)?;
        let addresses = controllers.iter().map(String::as_str);
        credentials
            .check_addresses(addresses)
            .map_err(anyhow::Error::msg)?;
        let listen = self.listen.unwrap_or_else(|| LISTEN_DEFAULT.to_owned());
        let address_to_listen_at = address("--listen", &listen)?;
        let (advertise_host, advertise_port) = advertised(self.advertise.as_deref(), &listen)?;
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let shards = self.shards.unwrap_or(cores);
        if !(1..=SHARDS_MAX).contains(&shards) {
            bail!("--shards must be 1 to {SHARDS_MAX}, not {shards}");
        }
        let tail_mib = self
            .tail_mib
            .unwrap_or(TAIL_MIB_DEFAULT.max(shards * TAIL_MIB_PER_SHARD_MIN));
        if !(shards * TAIL_MIB_PER_SHARD_MIN..=TAIL_MIB_MAX).contains(&tail_mib) {
            bail!(
                "--tail-mib must be at least {TAIL_MIB_PER_SHARD_MIN} per shard and at most {TAIL_MIB_MAX}, not {tail_mib}"
            );
        }
        let spare_segment_mib = self.spare_segment_mib.unwrap_or(SPARE_SEGMENT_MIB_MAX);
        if !(1..=SPARE_SEGMENT_MIB_MAX).contains(&spare_segment_mib) {
            bail!(
                "--spare-segment-mib must be 1 to {SPARE_SEGMENT_MIB_MAX}, not {spare_segment_mib}"
            );
        }
        Ok(BrokerConfig {
            id,
            listen: address_to_listen_at,
            advertise_host,
            advertise_port,
            metrics: self
                .metrics
                .map(|metrics| address("--metrics", &metrics))
                .transpose()?,
            controllers,
            credentials,
            data: self.data.context("--data is missing")?,
            shards,
            tail_bytes: tail_mib << 20,
            spare_segments: self.spare_segments.unwrap_or(0),
            spare_segment_bytes: spare_segment_mib << 20,
            connections_idle_ms_max: u64::try_from(
                self.connections_max_idle_ms
                    .unwrap_or(CONNECTIONS_MAX_IDLE_MS_DEFAULT),
            )
            .ok(),
            rack: self.rack,
        })
    }
}

fn address(flag: &str, text: &str) -> anyhow::Result<SocketAddr> {
    use std::net::ToSocketAddrs;
    let mut addresses = text
        .to_socket_addrs()
        .with_context(|| format!("{flag} must be an address and a port, not {text:?}"))?;
    addresses
        .next()
        .with_context(|| format!("{flag} {text:?} names no address"))
}

/// What clients are told, which must lead them here and not to themselves.
fn advertised(advertise: Option<&str>, listen: &str) -> anyhow::Result<(String, u16)> {
    let text = advertise.unwrap_or(listen).trim();
    let (host, port) = text
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
        .filter(|(host, port)| !host.is_empty() && *port > 0)
        .with_context(|| format!("--advertise must be host:port, not {text:?}"))?;
    // Brackets belong to the text, not to the address.
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = inner.unwrap_or(host);
    if is_wildcard(host) {
        match advertise {
            Some(_) => bail!("--advertise must not be {text}, which leads every client to itself"),
            None => bail!("--advertise is missing: clients cannot be told to connect to {text}"),
        }
    }
    Ok((host.to_owned(), port))
}

/// Whether an address is that of every interface, in whatever way it is written. Names are not looked up: they are the clients'.
fn is_wildcard(host: &str) -> bool {
    use std::net::{IpAddr, ToSocketAddrs};
    if let Ok(address) = host.parse::<IpAddr>() {
        return address.to_canonical().is_unspecified();
    }
    // Short forms such as 0 or 0x0.
    let is_number = |character: char| character.is_ascii_hexdigit() || ".xX".contains(character);
    host.starts_with(|first: char| first.is_ascii_digit())
        && host.chars().all(is_number)
        && (host, 0)
            .to_socket_addrs()
            .is_ok_and(|mut addresses| addresses.any(|address| address.ip().is_unspecified()))
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::topic_config::CONNECTIONS_MAX_IDLE_MS;

    fn settings() -> Settings {
        Settings {
            id: Some(1),
            controllers: Some(vec!["127.0.0.1:1".to_owned()]),
            data: Some("data".into()),
            ..Settings::default()
        }
    }

    #[test]
    fn a_flag_goes_before_the_file() {
        let flags = Settings {
            id: Some(2),
            ..Settings::default()
        };
        let config = flags.over(settings()).checked().unwrap();
        assert_eq!(config.id, 2);
        assert_eq!(config.controllers, ["127.0.0.1:1"]);
        assert_eq!(config.advertise_port, 9092);
    }

    #[test]
    fn connections_may_be_idle_for_ten_minutes_or_for_ever() {
        let idle = |connections_max_idle_ms| {
            let settings = Settings {
                connections_max_idle_ms,
                ..settings()
            };
            settings.checked().unwrap().connections_idle_ms_max
        };
        assert_eq!(idle(None), Some(600_000));
        let shown = CONNECTIONS_MAX_IDLE_MS.default;
        assert_eq!(shown, CONNECTIONS_MAX_IDLE_MS_DEFAULT.to_string());
        assert_eq!(idle(Some(5)), Some(5));
        assert_eq!(idle(Some(-1)), None);
    }

    #[test]
    fn what_is_missing_or_senseless_is_named() {
        type Change = fn(&mut Settings);
        let cases: [(Change, &str); 6] = [
            (
                |settings| settings.listen = Some("nowhere".to_owned()),
                "--listen",
            ),
            (|settings| settings.id = None, "--id"),
            (|settings| settings.id = Some(0), "--id"),
            (|settings| settings.shards = Some(0), "--shards"),
            (
                |settings| settings.advertise = Some("nowhere".to_owned()),
                "--advertise",
            ),
            (
                |settings| settings.controllers = Some(vec!["x".to_owned()]),
                "--controllers",
            ),
        ];
        for (change, named) in cases {
            let mut settings = settings();
            change(&mut settings);
            let error = settings.checked().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn what_leads_clients_to_themselves_is_not_advertised() {
        let advertised = |listen: &str, advertise: Option<&str>| {
            let settings = Settings {
                listen: Some(listen.to_owned()),
                advertise: advertise.map(str::to_owned),
                ..settings()
            };
            let config = settings.checked().map_err(|error| error.to_string())?;
            Ok::<_, String>((config.advertise_host, config.advertise_port))
        };
        let wildcards = [
            "0.0.0.0:9092",
            "[::]:9092",
            ":::9092",
            "[::0]:9092",
            "[::ffff:0.0.0.0]:9092",
            "[0:0:0:0:0:0:0:0]:9092",
            "0:9092",
            "0.0:9092",
            "0x0:9092",
            " 0.0.0.0:9092 ",
        ];
        for wildcard in wildcards {
            let error = advertised("127.0.0.1:9092", Some(wildcard)).unwrap_err();
            assert!(error.starts_with("--advertise must not be"), "{error}");
        }
        for wildcard in &wildcards[..2] {
            let error = advertised(wildcard, None).unwrap_err();
            assert!(error.starts_with("--advertise is missing"), "{error}");
            let named = advertised(wildcard, Some("broker.example:9092"));
            assert_eq!(named, Ok(("broker.example".to_owned(), 9092)));
        }
        assert_eq!(advertised("[::1]:9092", None), Ok(("::1".to_owned(), 9092)));
        assert_eq!(
            advertised("0.0.0.0:9092", Some("10.0.0.1:1")),
            Ok(("10.0.0.1".to_owned(), 1))
        );
        assert!(advertised("127.0.0.1:9092", Some("host:0")).is_err());
    }

    #[test]
    fn the_file_refuses_unknown_keys() {
        assert!(toml::from_str::<Settings>("id = 1\nidd = 2").is_err());
    }
}
