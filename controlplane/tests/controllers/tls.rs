//! The control plane over mutual TLS: it goes on as without, and whoever has no certificate of its CA is kept out.

use crate::certificates::{Authority, certificate, connect_as, serve_as, write_key};
use crate::cluster::{keeps_its_connections, live_broker};
use crate::hostile::{is_closed, peak_mib, throw_garbage};
use crate::operation::fails_with_one_line;
use crate::support::{Cluster, PATIENCE, PROGRAM, commit, create, eventually, offset};
use control_api::client::{ClientError, ControlClient};
use control_api::frame;
use control_api::handshake::{Party, Role};
use control_api::message::Request;
use control_api::secret::Secret;
use control_api::secured::{self, Credentials};
use control_api::tls::TlsFiles;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

fn party(tls: &TlsFiles) -> Party {
    Party::client(
        Credentials::load(None, Some(tls.clone())).unwrap(),
        String::new(),
    )
}

/// Why a call comes to nothing.
async fn refusal(party: Party, address: &str) -> String {
    let client = ControlClient::new(vec![address.to_owned()], party, Role::Broker);
    let asked = client.call_one(address, Request::Status, PATIENCE).await;
    match asked {
        Err(ClientError::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// Refusals of the same second share a line, so it is tried until the first controller's log has the text.
async fn is_told(cluster: &Cluster, text: &str, mut attempt: impl AsyncFnMut()) {
    eventually(text, async || {
        attempt().await;
        cluster.log(1).contains(text).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_quorum_over_tls_survives_its_leaders_and_grows() {
    let authority = Authority::new();
    let mut cluster = Cluster::start_tls(3, authority.issue("controller"), false).await;
    let client = cluster.client();
    live_broker(&client, 1).await;
    create(&client, "before").await;
    for group in ["meta", "offsets"] {
        let leader = cluster.leader_of(group).await;
        cluster.kill(leader);
        create(&client, &format!("after-{group}")).await;
        commit(&client, vec![offset("g", "before", 0, 7)]).await;
        cluster.start_node(leader);
        cluster.caught_up(leader).await;
    }
    cluster.start_joining(4).await;
    let add = format!("quorum add 4={}", cluster.addresses[&4]);
    cluster.operate(&add, 1).await.unwrap();
    cluster.caught_up(4).await;
    let table = cluster.operate("topics", 4).await.unwrap();
    assert!(table.contains("after-offsets"), "{table}");
    assert!(cluster.operate("quorum status", 2).await.is_ok());
}

#[tokio::test]
async fn connections_are_kept_and_not_made_for_each_commit_or_heartbeat() {
    let authority = Authority::new();
    keeps_its_connections(&Cluster::start_tls(3, authority.issue("controller"), true).await).await;
}

#[tokio::test]
async fn who_has_no_certificate_of_the_ca_is_refused_and_both_sides_say_why() {
    let authority = Authority::new();
    let cluster = Cluster::start_tls(1, authority.issue("controller"), false).await;
    let address = &cluster.addresses[&1];

    // Without TLS, whatever secret it has.
    is_told(&cluster, "it does not speak TLS", async || {
        for secret in [Secret::none(), Secret::of(&[7; 32])] {
            let why = refusal(Party::client(secret, String::new()), address).await;
            assert!(why.contains("it speaks TLS"), "{why}");
        }
    })
    .await;

    // One of another CA finds out first, and says so to the other side.
    let others = Authority::new();
    let stranger = others.issue("stranger");
    is_told(&cluster, "it does not know the CA", async || {
        let why = refusal(party(&stranger), address).await;
        assert!(why.contains("not of this cluster's CA"), "{why}");
    })
    .await;

    // What does not care who the controller is gets in as little.
    let expired = authority.issue_for("expired", "127.0.0.1", 2_000);
    let of_another_name = Authority::named("another CA");
    let elsewhere = of_another_name.issue("elsewhere");
    for (shown, ours, theirs) in [
        (Some(&stranger), "not of this cluster's CA", "DecryptError"),
        (Some(&elsewhere), "not of this cluster's CA", "UnknownCA"),
        (Some(&expired), "its certificate has expired", "Expired"),
        (None, "it shows no certificate", "CertificateRequired"),
    ] {
        is_told(&cluster, ours, async || {
            let mut stream = connect_as(shown, address).await;
            let told = stream.read_u8().await.unwrap_err().to_string();
            assert!(told.contains(theirs), "{told}");
        })
        .await;
    }
    let refused = "millrace_controller_handshakes_total{result=\"refused\"}";
    assert!(cluster.metric(1, refused).await >= Some(6));
    assert!(cluster.status(1).await.is_some(), "who has one is let in");
}

#[tokio::test]
async fn a_controller_that_cannot_show_a_good_certificate_is_not_spoken_to() {
    let authority = Authority::new();
    let own = authority.issue("own");
    let (others, of_another_name) = (Authority::new(), Authority::named("another CA"));
    for (shown, reason) in [
        (others.issue("other"), "not of this cluster's CA"),
        (of_another_name.issue("other"), "not of this cluster's CA"),
        (
            authority.issue_for("expired", "127.0.0.1", 2_000),
            "has expired",
        ),
        (
            authority.issue_for("elsewhere", "elsewhere.example", 4_000),
            "elsewhere.example",
        ),
    ] {
        let address = serve_as(&shown).await;
        let why = refusal(party(&own), &address).await;
        assert!(why.contains(reason), "{why}");
        // So do the operator's commands, in one line.
        let flags = ["status".into(), "--controllers".into(), address];
        let arguments = [&flags[..], &flags_of(&own)].concat();
        let one_line = move || fails_with_one_line(&arguments, reason);
        tokio::task::spawn_blocking(one_line).await.unwrap();
    }
}

#[tokio::test]
async fn one_with_a_certificate_and_one_without_tls_tell_each_other_apart() {
    let authority = Authority::new();
    let cluster = Cluster::start(1, &[]).await;
    let own = authority.issue("own");
    is_told(&cluster, "it speaks TLS", async || {
        let why = refusal(party(&own), &cluster.addresses[&1]).await;
        assert!(why.contains("it does not speak TLS 1.3"), "{why}");
    })
    .await;
}

#[tokio::test]
async fn with_both_a_secret_and_a_certificate_both_are_demanded() {
    let authority = Authority::new();
    let cluster = Cluster::start_tls(1, authority.issue("controller"), true).await;
    let address = &cluster.addresses[&1];
    let why = refusal(party(&authority.issue("own")), address).await;
    assert!(why.contains("secret"), "{why}");
    let secret = Secret::load(Some(&cluster.secret())).unwrap();
    let why = refusal(Party::client(secret, String::new()), address).await;
    assert!(why.contains("it speaks TLS"), "{why}");
    let other = Party {
        cluster_id: "another".into(),
        ..cluster.party()
    };
    let why = refusal(other, address).await;
    assert!(why.contains("belongs to cluster"), "{why}");
    assert!(cluster.status(1).await.is_some());
}

fn flags_of(tls: &TlsFiles) -> Vec<String> {
    let files = [
        ("--tls-cert", &tls.cert),
        ("--tls-key", &tls.key),
        ("--tls-ca", &tls.ca),
    ];
    let flags = files.map(|(flag, file)| [flag.to_owned(), file.display().to_string()]);
    flags.concat()
}

#[tokio::test]
async fn files_that_cannot_be_used_are_one_line_that_names_them() {
    let authority = Authority::new();
    let good = authority.issue("good");
    let empty = good.cert.with_file_name("empty");
    fs::write(&empty, "").unwrap();
    let open = good.key.with_file_name("open.key");
    fs::copy(&good.key, &open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o644)).unwrap();
    let missing = || good.cert.with_file_name("missing");
    let others = Authority::new();
    let elsewhere = authority.issue_for("elsewhere", "192.0.2.1", 4_000);
    let with = |change: fn(&mut TlsFiles, std::path::PathBuf), file| {
        let mut files = good.clone();
        change(&mut files, file);
        files
    };
    let cases = [
        (
            with(|files, one| files.cert = one, missing()),
            "missing: No such file",
        ),
        (
            with(|files, one| files.key = one, missing()),
            "missing: No such file",
        ),
        (
            with(|files, one| files.ca = one, missing()),
            "missing: No such file",
        ),
        (
            with(|files, one| files.cert = one, empty.clone()),
            "empty holds no certificate",
        ),
        (
            with(|files, one| files.ca = one, empty.clone()),
            "empty holds no certificate",
        ),
        (
            with(|files, one| files.ca = one, good.key.clone()),
            "good.key holds no certificate",
        ),
        (
            with(|files, one| files.key = one, good.ca.clone()),
            "chmod 600",
        ),
        (
            with(|files, one| files.key = one, open),
            "open.key (mode 644): chmod 600",
        ),
        (
            with(|files, one| files.key = one, elsewhere.key.clone()),
            "does not belong to the certificate",
        ),
        (
            authority.issue_for("old", "127.0.0.1", 2_000),
            "old.pem has expired",
        ),
        (
            with(|files, one| files.ca = one, others.issue("other").ca),
            "not signed by the CA",
        ),
    ];
    let serve = |tls: &TlsFiles| {
        let data = good.cert.with_file_name("never-created");
        let flags = format!(
            "serve --id 1 --listen 127.0.0.1:1 --peers 1=127.0.0.1:1 --metrics 127.0.0.1:2 --data {}",
            data.display()
        );
        let flags: Vec<String> = flags.split(' ').map(str::to_owned).collect();
        [flags, flags_of(tls)].concat()
    };
    let status = ["status", "--controllers", "127.0.0.1:1"].map(str::to_owned);
    for (files, reason) in &cases {
        fails_with_one_line(&serve(files), reason);
        fails_with_one_line(&[&status[..], &flags_of(files)].concat(), reason);
    }
    fails_with_one_line(
        &serve(&elsewhere),
        "is not for 127.0.0.1:1, where others connect to",
    );
    let some = &flags_of(&good)[..2];
    let reason = "--tls-key and --tls-ca is missing";
    fails_with_one_line(&[&status[..], some].concat(), reason);
    // Where the files are may be said in the environment.
    let asked = Command::new(PROGRAM)
        .args(&status)
        .env("MILLRACE_TLS_CA", &good.ca)
        .output();
    let errors = String::from_utf8(asked.unwrap().stderr).unwrap();
    assert!(
        errors.contains("--tls-cert and --tls-key is missing"),
        "{errors}"
    );
}

#[tokio::test]
async fn with_tls_other_addresses_than_loopback_are_served_and_joined_without_a_secret() {
    let authority = Authority::new();
    let mut cluster = Cluster::start_tls(1, authority.issue("controller"), false).await;
    assert_eq!(cluster.terminate(1).await, Some(0));
    let port = cluster.addresses[&1].rsplit_once(':').unwrap().1.to_owned();
    cluster.listens_at(&format!("0.0.0.0:{port}"));
    cluster.start_node(1);
    cluster.leader().await;
    let status = ["status", "--controllers", "192.0.2.1:9093"].map(str::to_owned);
    let asked = [&status[..], &flags_of(&authority.issue("own"))].concat();
    let answer = tokio::task::spawn_blocking(move || {
        fails_with_one_line(&asked, "no controller answered");
    });
    answer.await.unwrap();
}

/// A connection that is made once a file has changed shows what is in it now, and one that cannot be used changes nothing.
#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart() {
    let authority = Authority::new();
    let files = authority.issue("controller");
    let cluster = Cluster::start_tls(1, files.clone(), false).await;
    let address = &cluster.addresses[&1];
    let own = authority.issue("own");
    let shown = async || {
        let stream = connect_as(Some(&own), address).await;
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let first = certificate(&files.cert);
    assert_eq!(shown().await, first);
    authority.issue("controller");
    let second = certificate(&files.cert);
    assert_ne!(first, second);
    eventually("the renewed certificate", async || {
        (shown().await == second).then_some(())
    })
    .await;
    // Half of a renewal.
    let key = fs::read_to_string(&files.key).unwrap();
    write_key(&files.key, "none");
    eventually("the line that it cannot be used", async || {
        let _ = shown().await;
        cluster
            .log(1)
            .contains("controller.key holds no private key")
            .then_some(())
    })
    .await;
    assert_eq!(shown().await, second);
    write_key(&files.key, &key);
    // A client's is as new.
    assert!(cluster.status(1).await.is_some());
}

/// TLS holds back what the socket did not take, until it is told to send it.
#[tokio::test]
async fn what_a_socket_does_not_take_at_once_is_sent_all_the_same() {
    static SENT: [u8; 48 << 10] = [7; 48 << 10];
    const TIMES: usize = 40;
    let authority = Authority::new();
    let ours = party(&authority.issue("own"));
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(4 << 10).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let theirs = ours.clone();
    let sending = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let (mut stream, _) = secured::accept(tcp, &theirs).await.unwrap();
        for _ in 0..TIMES {
            frame::send(&mut stream, &SENT).await.unwrap();
        }
        stream
    });
    let connected = secured::connect(&address, &ours, Role::Broker, 0, PATIENCE).await;
    let (mut stream, _) = connected.unwrap();
    sleep(PATIENCE / 300).await;
    let mut read = vec![0; SENT.len() * TIMES];
    let reading = timeout(PATIENCE / 6, stream.read_exact(&mut read)).await;
    reading.expect("a part was held back").unwrap();
    drop(sending.await);
}

#[tokio::test]
async fn garbage_before_and_within_tls_harms_nobody() {
    let authority = Authority::new();
    let cluster = Cluster::start_tls(3, authority.issue("controller"), true).await;
    throw_garbage(&cluster).await;
    let address = &cluster.addresses[&cluster.leader().await];
    let own = authority.issue("own");
    // A good beginning of TLS that goes wrong at any place.
    let hello = client_hello().await;
    for position in 0..hello.len() {
        let mut damaged = hello.clone();
        damaged[position] ^= 0x40;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(&damaged).await;
        let _ = stream.shutdown().await;
        assert!(is_closed(stream).await, "byte {position}");
    }
    // One that has a certificate and sends garbage instead of a handshake.
    for garbage in [vec![0; 200], vec![0xff; 200], hello, vec![1; 1 << 20]] {
        let mut stream = connect_as(Some(&own), address).await;
        let _ = stream.write_all(&garbage).await;
        let _ = stream.shutdown().await;
        assert!(is_closed(stream).await);
    }
    create(&cluster.client(), "after-all").await;
}

/// What a client of TLS says first.
async fn client_hello() -> Vec<u8> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let connecting = tokio::spawn(async move { connect_as(None, &address).await });
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut hello = vec![0; 4096];
    let read = stream.read(&mut hello).await.unwrap();
    connecting.abort();
    hello.truncate(read);
    hello
}

/// Each may claim a message as long as TLS has them, and stay for as long as it is let.
#[tokio::test]
async fn strangers_to_tls_take_little_memory_and_keep_no_place() {
    let authority = Authority::new();
    let cluster = Cluster::start_tls(1, authority.issue("controller"), false).await;
    let address = &cluster.addresses[&1];
    let before = peak_mib(&cluster, 1);
    // Records of 16 KiB, all of one ClientHello of almost 64 KiB.
    let mut long = Vec::new();
    for _ in 0..4 {
        long.extend([22, 3, 3, 0x40, 0]);
        long.resize(long.len() + (16 << 10), 0);
    }
    long[5..9].copy_from_slice(&[1, 0, 0xff, 0xff]);
    long.truncate(60 << 10);
    let mut strangers = Vec::new();
    for _ in 0..400 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let written = stream.write_all(&long);
        let _ = timeout(PATIENCE / 1000, written).await;
        strangers.push(stream);
    }
    assert!(
        cluster.status(1).await.is_some(),
        "who has a certificate gets in"
    );
    let grown = peak_mib(&cluster, 1) - before;
    assert!(grown < 32, "{grown} MiB for strangers");
    for stranger in strangers {
        assert!(is_closed(stranger).await);
    }
}
