//! One controller and one broker on loopback, with data of their own that goes when they go.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{Advice, fadvise};

use super::children::{Core, Process, Program, remove};
use super::lab::{Lab, Outcome, Running, settle};
use crate::clock::now;
use crate::connection::Connection;
use crate::topic;

const READY_MAX: Duration = Duration::from_secs(60);
const READY_POLL: Duration = Duration::from_millis(100);
/// Of all segments that are prepared before a run, and of one at most.
const PREPARED_MIB: u32 = 8192;
const SEGMENT_MIB_MAX: u32 = 1024;
const PREPARED_MAX: Duration = Duration::from_secs(90);
const HTTP_MAX: Duration = Duration::from_secs(5);
/// Four more fit behind it.
const PORT_MAX: u16 = u16::MAX - 3;
const PORT_TRIES: usize = 500;

pub(super) struct Cluster<'a> {
    lab: &'a Lab,
    broker: Process,
    controller: Process,
    data: PathBuf,
    metrics: String,
    /// Segment files that it keeps prepared.
    prepared: u32,
    pub(super) bootstrap: String,
}

impl<'a> Cluster<'a> {
    pub(super) fn start(lab: &'a Lab, shards: u32) -> Result<Self> {
        Self::start_under(lab, shards, Program::new(&lab.broker))
    }

    /// With segment files for so many partitions prepared before every run, as the sink's file is.
    pub(super) fn start_prepared(lab: &'a Lab, partitions: u32) -> Result<Self> {
        let segments = partitions.max(PREPARED_MIB / SEGMENT_MIB_MAX);
        let each_mib = PREPARED_MIB / segments;
        let program = Program::new(&lab.broker).args(&format!(
            "--spare-segments {segments} --spare-segment-mib {each_mib}"
        ));
        let mut cluster = Self::start_under(lab, 1, program)?;
        cluster.prepared = segments;
        Ok(cluster)
    }

    /// `wrapper` is what starts the broker, its path included.
    pub(super) fn start_under(lab: &'a Lab, shards: u32, wrapper: Program) -> Result<Self> {
        let port = free_ports(lab.port)?;
        let data = lab.scratch.join("cluster");
        remove(&data);
        fs::create_dir_all(&data).with_context(|| format!("cannot make {}", data.display()))?;
        let [bootstrap, metrics, controllers, controller_metrics] = addresses(port);
        let program = Program::new(&lab.controller)
            .args(&format!(
                "serve --id 1 --listen {controllers} --peers 1={controllers}"
            ))
            .args(&format!("--metrics {controller_metrics} --data"))
            .arg(data.join("controller"));
        let log = lab.scratch.join("controller.log");
        let mut controller = Process::start(&lab.children, Core::Client, &program, log)?;
        wait_ready(&mut controller, &controller_metrics).context("the controller did not start")?;
        let program = wrapper
            .args(&format!(
                "--id 1 --listen {bootstrap} --advertise {bootstrap}"
            ))
            .args(&format!("--controllers {controllers} --metrics {metrics}"))
            .args(&format!("--shards {shards} --data"))
            .arg(data.join("broker"));
        let log = lab.scratch.join("broker.log");
        let mut broker = Process::start(&lab.children, Core::Server, &program, log)?;
        wait_ready(&mut broker, &metrics).context("the broker did not start")?;
        Ok(Self {
            lab,
            broker,
            controller,
            data,
            metrics,
            prepared: 0,
            bootstrap,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.broker.pid()
    }

    pub(super) fn settle(&self) {
        settle(self.pid());
    }

    /// Waits until the segment files that the last run used up have been replaced, and the disk is nobody's.
    pub(super) fn wait_prepared(&self) -> Result<()> {
        let deadline = now() + PREPARED_MAX;
        loop {
            // A broker whose page answers late is busy, not gone.
            let ready = self.metric("millrace_spare_segments{");
            if matches!(ready, Ok(ready) if ready >= f64::from(self.prepared)) {
                break;
            }
            if now() >= deadline {
                let seconds = PREPARED_MAX.as_secs();
                let ready = ready?;
                bail!(
                    "{ready} of {} segments were prepared within {seconds} s",
                    self.prepared
                );
            }
            sleep(READY_POLL);
        }
        self.settle();
        Ok(())
    }

    /// Fills a new topic with a name of the run, and deletes it afterwards, so that no run finds the disk fuller than another did.
    pub(super) fn produce(&self, run: &str, words: &str) -> Result<Outcome> {
        let outcome = self.produce_to(run, run, words);
        let deleted = self.delete_topic(run);
        let outcome = outcome?;
        deleted?;
        Ok(outcome)
    }

    pub(super) fn produce_to(&self, run: &str, topic: &str, words: &str) -> Result<Outcome> {
        self.wait_prepared()?;
        self.begin_produce(run, topic, words)?
            .finish(self.lab.seconds)
    }

    /// Any command of this program against the cluster, with a topic if it wants one.
    pub(super) fn load(
        &self,
        run: &str,
        command: &str,
        topic: Option<&str>,
        words: &str,
    ) -> Result<Outcome> {
        self.settle();
        let mut program = Program::new(self.lab.own_program()?)
            .args(&format!("{command} --bootstrap {}", self.bootstrap));
        if let Some(topic) = topic {
            program = program.args(&format!("--topic {topic}"));
        }
        let run = self.lab.begin(run, program.args(words), self.pid())?;
        run.finish(self.lab.seconds)
    }

    pub(super) fn begin_produce(&self, run: &str, topic: &str, words: &str) -> Result<Running> {
        let program = Program::new(self.lab.own_program()?);
        let program = self.arguments(program, "produce", topic).args(words);
        self.lab.begin(run, program, self.pid())
    }

    pub(super) fn consume(&self, run: &str, topic: &str, words: &str) -> Result<Outcome> {
        self.settle();
        let program = Program::new(self.lab.own_program()?);
        let program = self.arguments(program, "consume", topic).args(words);
        let run = self.lab.begin(run, program, self.pid())?;
        run.finish(self.lab.seconds)
    }

    /// Starts to read a topic beside a run, and stays out of the way of that run's generator on the core they share.
    pub(super) fn begin_scan(&self, run: &str, topic: &str, words: &str) -> Result<Running> {
        let program = Program::new("nice")
            .args("-n 19")
            .arg(self.lab.own_program()?);
        let program = self.arguments(program, "consume", topic).args(words);
        self.lab.begin(run, program, self.pid())
    }

    fn arguments(&self, program: Program, command: &str, topic: &str) -> Program {
        let bootstrap = &self.bootstrap;
        program.args(&format!(
            "{command} --bootstrap {bootstrap} --topic {topic}"
        ))
    }

    pub(super) fn delete_topic(&self, name: &str) -> Result<()> {
        crate::block_on(async {
            let mut connection = Connection::open(&self.bootstrap).await?;
            topic::delete(&mut connection, name).await
        })
    }

    /// The sum of a metric over all series whose line starts so.
    pub(super) fn metric(&self, start: &str) -> Result<f64> {
        Ok(sum_metric(&http_get(&self.metrics, "/metrics")?.1, start))
    }

    /// The files that hold a topic's records: partition after partition, each from its start.
    pub(super) fn segments(&self, topic: &str) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for directory in entries(&self.data.join("broker/topics"))? {
            let name = directory.file_name().unwrap_or_default().to_string_lossy();
            // A topic's id follows its name.
            if name
                .strip_prefix(topic)
                .is_some_and(|id| id.starts_with('-'))
            {
                for partition in entries(&directory)? {
                    found.extend(entries(&partition)?.into_iter().filter(|file| is_log(file)));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Makes the kernel forget what it holds of a topic's files.
    pub(super) fn drop_page_cache(&self, topic: &str) -> Result<()> {
        for path in self.segments(topic)? {
            // Retention may have deleted it.
            if let Ok(file) = fs::File::open(&path) {
                fadvise(&file, 0, None, Advice::DontNeed)
                    .with_context(|| format!("cannot drop the cache of {}", path.display()))?;
            }
        }
        Ok(())
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        self.broker.kill();
        self.controller.kill();
        remove(&self.data);
    }
}

/// Of the broker, its metrics, the controller and its metrics.
fn addresses(port: u16) -> [String; 4] {
    [0, 1, 2, 3].map(|offset| format!("127.0.0.1:{}", port + offset))
}

/// The first of four ports that can be taken, from `port` on. Another cluster on them would answer in place of ours, and be filled; and one
/// that was killed may keep its own for a while, until the kernel has ended what its ring had under way.
fn free_ports(port: u16) -> Result<u16> {
    (port..=PORT_MAX)
        .step_by(4)
        .take(PORT_TRIES)
        .find(|first| {
            addresses(*first)
                .iter()
                .all(|address| TcpListener::bind(address).is_ok())
        })
        .with_context(|| format!("no four ports in a row are free from {port} on, see --port"))
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let read = |directory| -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(directory)?
            .map(|entry| Ok(entry?.path()))
            .collect()
    };
    // A partition has files beside its directories' own.
    match read(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Ok(Vec::new()),
        listed => listed.with_context(|| format!("cannot list {}", directory.display())),
    }
}

fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "log")
}

fn wait_ready(process: &mut Process, metrics: &str) -> Result<()> {
    let deadline = now() + READY_MAX;
    while now() < deadline {
        if process.has_ended()? {
            bail!("{}", process.last_words().unwrap_or("it ended".to_owned()));
        }
        if http_get(metrics, "/readyz").is_ok_and(|(status, _)| status == 200) {
            return Ok(());
        }
        sleep(READY_POLL);
    }
    bail!("it was not ready within {} s", READY_MAX.as_secs())
}

/// Status and body. The servers are ours and the answers small, so this is all of HTTP that is needed.
fn http_get(address: &str, path: &str) -> Result<(u16, String)> {
    let get = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(HTTP_MAX))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = get().map_err(|error| match error.kind() {
        // A read that runs into its limit.
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            anyhow!(
                "http://{address}{path} gave no answer within {} s",
                HTTP_MAX.as_secs()
            )
        }
        _ => anyhow!(error).context(format!("cannot read http://{address}{path}")),
    })?;
    parse_http(&answer).context("an answer that is no HTTP")
}

fn parse_http(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

fn sum_metric(text: &str, start: &str) -> f64 {
    text.lines()
        .filter(|line| line.starts_with(start))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_series() {
        let text = "# TYPE a counter\na{shard=\"0\",stage=\"hop\"} 3\na{shard=\"1\",stage=\"hop\"} 4\nab 9\n";
        assert_eq!(sum_metric(text, "a{"), 7.0);
        assert_eq!(sum_metric(text, "a{shard=\"1\""), 4.0);
        assert_eq!(sum_metric(text, "none"), 0.0);
    }

    #[test]
    fn ports_that_are_taken_are_passed_over() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port().min(PORT_MAX - 400);
        let free = free_ports(port.saturating_sub(2)).unwrap();
        assert!(!(free..free + 4).contains(&taken.local_addr().unwrap().port()));
    }

    #[test]
    fn a_page_that_does_not_answer_is_named_with_how_long_it_was_awaited() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let error = http_get(&address, "/metrics").unwrap_err().to_string();
        assert!(
            error.ends_with("/metrics gave no answer within 5 s"),
            "{error}"
        );
    }

    #[test]
    fn an_http_answer_is_cut_into_status_and_body() {
        let answer = "HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nyes";
        assert_eq!(parse_http(answer), Some((200, "yes".to_owned())));
        assert_eq!(parse_http(""), None);
    }
}
