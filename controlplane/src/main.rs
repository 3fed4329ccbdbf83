//! `millrace-controller`: serves a control plane node, or asks a running control plane.

mod config_file;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};
use control_api::client::ControlClient;
use control_api::handshake::{Party, Role};
use control_api::ids::BrokerId;
use control_api::level::{Level, try_later_level};
use control_api::message::QuorumChange;
use control_api::secured::Credentials;
use control_api::tls::TlsFiles;
use controlplane::config::{NodeConfig, Peers, Times, is_address, parse_node};
use controlplane::member::NODE_MAX;
use controlplane::node::RunningNode;
use controlplane::operator::{self, Form, Question};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(
    name = "millrace-controller",
    version = control_api::process::BUILD,
    about = "Millrace's control plane"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one controller until SIGTERM.
    Serve(ServeArgs),
    /// How each controller and its Raft groups are doing. The exit status is 0 only if all is well.
    Status(AskArgs),
    /// The brokers that are registered, and the removal of one that is gone for good.
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Brokers(BrokersArgs),
    /// The topics and their partitions.
    Topics(AskArgs),
    /// The consumer groups with committed offsets.
    Groups(AskArgs),
    /// The controllers that vote: who they are, and changes of them.
    #[command(subcommand)]
    Quorum(QuorumCommand),
    /// Which feature levels the controllers and brokers support, and at which the cluster is.
    Features(FeaturesArgs),
    /// What a controller that does not run has on disk: its snapshots and logs, one line for each thing in them.
    Dump(DumpArgs),
}

#[derive(Args)]
struct BrokersArgs {
    #[command(subcommand)]
    command: Option<BrokersCommand>,
    #[command(flatten)]
    ask: AskArgs,
}

#[derive(Subcommand)]
enum BrokersCommand {
    /// Forgets a broker that does not run, so that it is waited for no more. What only it had stays offline, unless it comes back.
    Remove {
        id: i32,
        #[command(flatten)]
        ask: AskArgs,
    },
}

#[derive(Subcommand)]
enum QuorumCommand {
    /// Each controller's part in both Raft groups, as their leaders see it.
    Status(AskArgs),
    /// Has a running controller vote: a new one, or one with an empty disk or at another address than before.
    Add {
        /// ID=HOST:PORT
        #[arg(value_parser = parse_node)]
        controller: (u64, String),
        #[command(flatten)]
        wait: WaitArgs,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Takes a controller out, whether it runs or not. If it does, it ends.
    Remove {
        id: u64,
        #[command(flatten)]
        wait: WaitArgs,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Has a controller lead both Raft groups.
    Transfer {
        id: u64,
        #[command(flatten)]
        wait: WaitArgs,
        #[command(flatten)]
        ask: AskArgs,
    },
}

#[derive(Args)]
struct WaitArgs {
    /// For how many seconds to wait until it is done. What was begun then stays, and the command may be repeated.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    wait_seconds: u64,
}

#[derive(Args)]
struct DumpArgs {
    /// A controller's data directory, or `meta` or `offsets` in it.
    path: PathBuf,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ServeArgs {
    /// A TOML file with any of these settings, written with underscores. A flag goes before the environment, that before the file.
    #[arg(long, env = "MILLRACE_CONTROLLER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// This node's id among the peers.
    #[arg(long, env = "MILLRACE_CONTROLLER_ID")]
    id: u64,
    /// Where to listen, HOST:PORT.
    #[arg(long, env = "MILLRACE_CONTROLLER_LISTEN")]
    listen: String,
    /// The controllers that a new cluster is formed of, this one included: 1=HOST:PORT,2=HOST:PORT,3=HOST:PORT. 1, 3 or 5 of them.
    #[arg(
        long,
        env = "MILLRACE_CONTROLLER_PEERS",
        required_unless_present = "join"
    )]
    peers: Option<Peers>,
    /// Controllers of a cluster that is to take this one in (`quorum add`), HOST:PORT,HOST:PORT,... It forms none itself.
    #[arg(
        long,
        env = "MILLRACE_CONTROLLER_JOIN",
        value_delimiter = ',',
        conflicts_with = "peers"
    )]
    join: Vec<String>,
    /// Where the others connect to this one, HOST:PORT [default: as it stands among the peers, or where it listens]
    #[arg(long, env = "MILLRACE_CONTROLLER_ADVERTISE")]
    advertise: Option<String>,
    #[command(flatten)]
    credentials: CredentialArgs,
    /// Where to serve /metrics, /healthz and /readyz, HOST:PORT.
    #[arg(long, env = "MILLRACE_CONTROLLER_METRICS")]
    metrics: String,
    /// The data directory; created where it is missing.
    #[arg(long, env = "MILLRACE_CONTROLLER_DATA")]
    data: PathBuf,
    /// A broker that is silent for so many milliseconds is fenced.
    #[arg(long, env = "MILLRACE_CONTROLLER_SESSION_MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    session_ms: u64,
    /// A controller that has heard of no leader for this up to twice as many milliseconds asks for votes.
    #[arg(long, env = "MILLRACE_CONTROLLER_ELECTION_MS", default_value_t = 200, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    election_ms: u64,
    /// How often a leader tells the other controllers that it lives, in milliseconds.
    #[arg(long, env = "MILLRACE_CONTROLLER_RAFT_HEARTBEAT_MS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=20_000))]
    raft_heartbeat_ms: u64,
    /// For how many minutes a committed offset is kept after its last commit, as Kafka's offsets.retention.minutes.
    #[arg(long, env = "MILLRACE_CONTROLLER_OFFSETS_RETENTION_MINUTES", default_value_t = 10_080, value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    offsets_retention_minutes: u32,
    /// A snapshot is taken when the log behind the last one is longer than it, and than so many bytes.
    #[arg(long, env = "MILLRACE_CONTROLLER_SNAPSHOT_LOG_BYTES", default_value_t = 16 << 20, value_parser = clap::value_parser!(u64).range(1..))]
    snapshot_log_bytes: u64,
    /// How many log entries are kept behind a snapshot for followers that are a little behind.
    #[arg(
        long,
        env = "MILLRACE_CONTROLLER_LOG_ENTRIES_KEPT",
        default_value_t = 1_000
    )]
    log_entries_kept: u64,
}

#[derive(Args)]
struct FeaturesArgs {
    /// Raises the cluster's feature level, which is never lowered again.
    #[arg(long, value_name = "LEVEL")]
    raise: Option<u16>,
    #[command(flatten)]
    ask: AskArgs,
}

#[derive(Args)]
struct AskArgs {
    /// The controllers to ask, HOST:PORT,HOST:PORT,...
    #[arg(
        long,
        env = "MILLRACE_CONTROLLERS",
        value_delimiter = ',',
        required = true
    )]
    controllers: Vec<String>,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    credentials: CredentialArgs,
}

#[derive(Args)]
struct CredentialArgs {
    /// The file with the cluster's secret, the same for all of its processes. Without it and without TLS only loopback addresses
    /// are served and joined.
    #[arg(long, env = "MILLRACE_SECRET_FILE", value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// This process's certificate and those between it and the CA, in PEM: all connections of the control plane are TLS then, and
    /// both sides show a certificate.
    #[arg(long, env = "MILLRACE_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM.
    #[arg(long, env = "MILLRACE_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// The CA that the certificates of all others must be signed by, in PEM.
    #[arg(long, env = "MILLRACE_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
}

impl CredentialArgs {
    fn load(self) -> anyhow::Result<Credentials> {
        let files = TlsFiles::of(self.tls_cert, self.tls_key, self.tls_ca);
        let loaded = files.and_then(|files| Credentials::load(self.secret_file.as_deref(), files));
        loaded.map_err(anyhow::Error::msg)
    }
}

fn main() -> ExitCode {
    // Supports a feature level more, in a form that no other program reads: so an upgrade can be tried.
    if std::env::var_os("MILLRACE_TRY_LATER_LEVEL").is_some() {
        try_later_level(true);
    }
    let arguments = match config_file::arguments(std::env::args_os(), &Cli::command()) {
        Ok(arguments) => arguments,
        Err(error) => return fail(&format!("{error:#}")),
    };
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        // Help and version are no errors.
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => return fail(&error.to_string().lines().take(1).collect::<String>()),
    };
    let filter = EnvFilter::try_from_env("MILLRACE_LOG");
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // A line that cannot be written, on a full disk, is lost; it would be said on the same disk, by a panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            filter.unwrap_or_else(|_| EnvFilter::new("warn,controlplane=info,openraft=error")),
        )
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let ended = runtime
        .context("cannot start the runtime")
        .and_then(|runtime| runtime.block_on(run(cli.command)));
    match ended {
        Ok(code) => code,
        Err(error) => fail(&format!("{error:#}")),
    }
}

/// One line for the operator, whatever the causes' own texts look like.
fn fail(text: &str) -> ExitCode {
    let text = text.trim_start_matches("error: ").replace('\n', " ");
    eprintln!("millrace-controller: {text}");
    ExitCode::FAILURE
}

fn form(json: bool) -> Form {
    match json {
        true => Form::Json,
        false => Form::Table,
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let (question, args) = match command {
        Command::Serve(args) => return serve(args).await.map(|()| ExitCode::SUCCESS),
        Command::Dump(args) => {
            let form = form(args.json);
            operator::dump(&args.path, form, &mut std::io::stdout().lock())?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Status(args) => (Question::Status, args),
        Command::Brokers(BrokersArgs { command, ask }) => match command {
            None => (Question::Brokers, ask),
            Some(BrokersCommand::Remove { id, ask }) => {
                let done = operator::remove_broker(&client(ask)?, BrokerId(id)).await?;
                print!("{done}");
                return Ok(ExitCode::SUCCESS);
            }
        },
        Command::Topics(args) => (Question::Topics, args),
        Command::Groups(args) => (Question::Groups, args),
        Command::Quorum(command) => return quorum(command).await,
        Command::Features(args) => {
            let raise = args.raise.map(Level);
            (Question::Features { raise }, args.ask)
        }
    };
    let (controllers, form) = (args.controllers.clone(), form(args.json));
    let client = client(args)?;
    let answer = operator::ask(question, &client, &controllers, form).await?;
    print!("{}", answer.text);
    Ok(match answer.healthy {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

async fn quorum(command: QuorumCommand) -> anyhow::Result<ExitCode> {
    let (change, wait, args) = match command {
        QuorumCommand::Status(args) => {
            let form = form(args.json);
            let table = operator::quorum(&client(args)?, form).await?;
            print!("{table}");
            return Ok(ExitCode::SUCCESS);
        }
        QuorumCommand::Add {
            controller: (node, address),
            wait,
            ask,
        } => {
            let disk = None;
            let change = QuorumChange::Add {
                node,
                disk,
                address,
            };
            (change, wait, ask)
        }
        QuorumCommand::Remove { id, wait, ask } => {
            let (node, disk) = (id, None);
            (QuorumChange::Remove { node, disk }, wait, ask)
        }
        QuorumCommand::Transfer { id, wait, ask } => {
            (QuorumChange::Transfer { node: id }, wait, ask)
        }
    };
    let time = Duration::from_secs(wait.wait_seconds);
    operator::change_quorum(&client(args)?, change, time).await?;
    Ok(ExitCode::SUCCESS)
}

fn client(args: AskArgs) -> anyhow::Result<ControlClient> {
    let credentials = args.credentials.load()?;
    let addresses = args.controllers.iter().map(String::as_str);
    let checked = credentials.check_addresses(addresses);
    checked.map_err(anyhow::Error::msg)?;
    let party = Party::client(credentials, String::new());
    Ok(ControlClient::new(args.controllers, party, Role::Operator))
}

async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let peers = args.peers.unwrap_or_default();
    let own = peers.0.get(&args.id).cloned();
    anyhow::ensure!(
        own.is_some() || !args.join.is_empty(),
        "node {} is not among the peers {peers}",
        args.id,
    );
    anyhow::ensure!(
        (1..=NODE_MAX).contains(&args.id),
        "--id {} is not from 1 to {NODE_MAX}",
        args.id
    );
    let advertise = args.advertise.or(own);
    let advertise = advertise.unwrap_or_else(|| args.listen.clone());
    if let Some(wrong) = args
        .join
        .iter()
        .chain([&advertise])
        .find(|one| !is_address(one))
    {
        anyhow::bail!("`{wrong}` is not HOST:PORT");
    }
    let node = RunningNode::start(NodeConfig {
        id: args.id,
        credentials: args.credentials.load()?,
        listen: args.listen,
        peers,
        join: args.join,
        advertise,
        metrics: args.metrics,
        data: args.data,
        times: Times {
            heartbeat: Duration::from_millis(args.raft_heartbeat_ms),
            election: Duration::from_millis(args.election_ms),
            session: Duration::from_millis(args.session_ms),
        },
        snapshot_log_bytes: args.snapshot_log_bytes,
        log_entries_kept: args.log_entries_kept,
        offsets_retention: Duration::from_secs(60 * u64::from(args.offsets_retention_minutes)),
    })
    .await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        error = node.failed() => return Err(error),
    }
    node.stop().await;
    Ok(())
}
