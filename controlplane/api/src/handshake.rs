//! How two processes of a cluster prove to each other that they are, before either says anything else.
//!
//! ```text
//!  client                                   server
//!    | hello: who, to whom, nonce, cluster    |        fixed length, so it is read without any allocation
//!    |--------------------------------------->|
//!    | answer: verdict, who, nonce, cluster,  |
//!    |<--- HMAC(secret, SERVER hello answer) -|        the client checks it, and is the first to know whom it talks to
//!    |                                        |
//!    |---- HMAC(secret, CLIENT hello answer)->|        the server checks it, and lets the client in
//! ```
//!
//! Both proofs cover both nonces, which are new each time, so that none can be used again; a word for the direction, so that
//! none can be sent back; and roles, members and cluster ids, so that none is good for another purpose. The secret itself never
//! travels. Without TLS underneath ([`crate::secured`]), what follows is neither encrypted nor signed: whoever can change packets under
//! way can change these too.

use crate::secured::Credentials;
use crate::tls;
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const MAGIC: &[u8; 8] = b"MILLRACE";
const VERSION: u8 = 1;
const NONCE_BYTES: usize = 32;
const PROOF_BYTES: usize = 32;
/// A cluster id has 22.
const CLUSTER_ID_BYTES_MAX: usize = 64;
/// magic 8 | version 1 | role 1 | member 8 | wanted member 8 | nonce 32 | cluster id's length 1 | cluster id 64
const HELLO_BYTES: usize = 8 + 1 + 1 + 8 + 8 + NONCE_BYTES + 1 + CLUSTER_ID_BYTES_MAX;
/// magic 8 | version 1 | verdict 1 | member 8 | nonce 32 | cluster id's length 1 | cluster id 64
const ANSWER_BYTES: usize = 8 + 1 + 1 + 8 + NONCE_BYTES + 1 + CLUSTER_ID_BYTES_MAX;

const SERVER: &[u8] = b"millrace server";
const CLIENT: &[u8] = b"millrace client";

/// How records of TLS begin, and how one without TLS tells whoever begins it that there is none: the fatal alert `protocol_version`
/// (RFC 8446, 5.1 and 6).
const TLS_HANDSHAKE: &[u8] = &[22, 3];
const TLS_ALERT: &[u8] = &[21, 3];
const NO_TLS: &[u8] = &[21, 3, 3, 0, 2, 2, 70];

const VERDICT_WELCOME: u8 = 0;
const VERDICT_OTHER_CLUSTER: u8 = 1;
const VERDICT_OTHER_MEMBER: u8 = 2;

/// What a client is to a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Another controller, which speaks Raft.
    Controller,
    Broker,
    /// Asks and commands, and holds no registration.
    Operator,
}

/// One side of a handshake.
#[derive(Clone, Debug)]
pub struct Party {
    pub credentials: Credentials,
    /// The member of the quorum that this side is; 0 for all but controllers.
    pub member: u64,
    /// Empty where it is not known yet.
    pub cluster_id: String,
}

impl Party {
    /// A broker or an operator's command.
    pub fn client(credentials: impl Into<Credentials>, cluster_id: String) -> Self {
        Party {
            credentials: credentials.into(),
            member: 0,
            cluster_id,
        }
    }
}

/// Who is at the other end, once it has proved that it belongs to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    pub role: Role,
    pub member: u64,
    /// Empty where it is not known yet.
    pub cluster_id: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub member: u64,
    /// Empty where it is not known yet.
    pub cluster_id: String,
}

#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error(transparent)]
    Io(io::Error),
    #[error("it does not speak this protocol")]
    Protocol,
    #[error("it speaks TLS, and this process has no certificate (--tls-cert)")]
    SpeaksTls,
    /// What TLS was refused for, by either side.
    #[error("{0}")]
    Tls(String),
    #[error("it does not know this cluster's secret")]
    Secret,
    #[error("it belongs to cluster {0}")]
    OtherCluster(String),
    /// Most likely its disk was replaced.
    #[error("it is member {0:x} now")]
    OtherMember(u64),
    #[error("{0} is no loopback address, and there is neither a cluster secret nor a certificate")]
    Unprotected(SocketAddr),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match tls::reason(&error) {
            Some(reason) => HandshakeError::Tls(reason),
            None => HandshakeError::Io(error),
        }
    }
}

/// The client's side. `wanted`: the member that must answer, 0 for any.
pub async fn offer<S>(
    stream: &mut S,
    party: &Party,
    role: Role,
    wanted: u64,
) -> Result<Server, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let hello = hello(party, role, wanted);
    send(stream, &[&hello]).await?;
    let mut answer = [0; ANSWER_BYTES];
    if let Err(error) = stream.read_exact(&mut answer).await {
        return Err(match answer.starts_with(TLS_ALERT) {
            true => HandshakeError::SpeaksTls,
            false => error.into(),
        });
    }
    let mut proof = [0; PROOF_BYTES];
    stream.read_exact(&mut proof).await?;
    let mut fields = Fields::new(&answer)?;
    let [verdict] = fields.take();
    let member = u64::from_le_bytes(fields.take());
    let _nonce: [u8; NONCE_BYTES] = fields.take();
    let cluster_id = fields.text()?;
    if party.credentials.secret.prove(&[SERVER, &hello, &answer]) != proof.into_proof() {
        return Err(HandshakeError::Secret);
    }
    match verdict {
        VERDICT_WELCOME => {}
        VERDICT_OTHER_CLUSTER => return Err(HandshakeError::OtherCluster(cluster_id)),
        VERDICT_OTHER_MEMBER => return Err(HandshakeError::OtherMember(member)),
        _ => return Err(HandshakeError::Protocol),
    }
    let own = party.credentials.secret.prove(&[CLIENT, &hello, &answer]);
    send(stream, &[&own.into_bytes()]).await?;
    Ok(Server { member, cluster_id })
}

/// The server's side. Takes no memory but its own few hundred bytes; the caller bounds the time.
pub async fn accept<S>(stream: &mut S, party: &Party) -> Result<Client, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut hello = [0; HELLO_BYTES];
    stream.read_exact(&mut hello).await?;
    if hello.starts_with(TLS_HANDSHAKE) {
        send(stream, &[NO_TLS]).await?;
        return Err(HandshakeError::SpeaksTls);
    }
    let mut fields = Fields::new(&hello)?;
    let role = match fields.take() {
        [1] => Role::Controller,
        [2] => Role::Broker,
        [3] => Role::Operator,
        _ => return Err(HandshakeError::Protocol),
    };
    let member = u64::from_le_bytes(fields.take());
    let wanted = u64::from_le_bytes(fields.take());
    let _nonce: [u8; NONCE_BYTES] = fields.take();
    let cluster_id = fields.text()?;
    let known = !cluster_id.is_empty() && !party.cluster_id.is_empty();
    let (verdict, refused) = if known && cluster_id != party.cluster_id {
        let refused = HandshakeError::OtherCluster(cluster_id.clone());
        (VERDICT_OTHER_CLUSTER, Some(refused))
    } else if wanted != 0 && wanted != party.member {
        (
            VERDICT_OTHER_MEMBER,
            Some(HandshakeError::OtherMember(party.member)),
        )
    } else {
        (VERDICT_WELCOME, None)
    };
    let answer = answer(party, verdict);
    let proof = party
        .credentials
        .secret
        .prove(&[SERVER, &hello, &answer])
        .into_bytes();
    send(stream, &[&answer, &proof]).await?;
    if let Some(error) = refused {
        return Err(error);
    }
    let mut proof = [0; PROOF_BYTES];
    stream.read_exact(&mut proof).await?;
    match party.credentials.secret.prove(&[CLIENT, &hello, &answer]) == proof.into_proof() {
        true => Ok(Client {
            role,
            member,
            cluster_id,
        }),
        false => Err(HandshakeError::Secret),
    }
}

/// All of it, at once where the stream can.
async fn send<S: AsyncWrite + Unpin>(stream: &mut S, parts: &[&[u8]]) -> io::Result<()> {
    for part in parts {
        stream.write_all(part).await?;
    }
    stream.flush().await
}

fn hello(party: &Party, role: Role, wanted: u64) -> [u8; HELLO_BYTES] {
    let role = match role {
        Role::Controller => 1,
        Role::Broker => 2,
        Role::Operator => 3,
    };
    let mut hello = [0; HELLO_BYTES];
    let mut rest = start(&mut hello);
    put(&mut rest, &[role]);
    put(&mut rest, &party.member.to_le_bytes());
    put(&mut rest, &wanted.to_le_bytes());
    put(&mut rest, &nonce());
    put_text(&mut rest, &party.cluster_id);
    hello
}

fn answer(party: &Party, verdict: u8) -> [u8; ANSWER_BYTES] {
    let mut answer = [0; ANSWER_BYTES];
    let mut rest = start(&mut answer);
    put(&mut rest, &[verdict]);
    put(&mut rest, &party.member.to_le_bytes());
    put(&mut rest, &nonce());
    put_text(&mut rest, &party.cluster_id);
    answer
}

fn nonce() -> [u8; NONCE_BYTES] {
    rand::random()
}

fn start(message: &mut [u8]) -> &mut [u8] {
    let mut rest = message;
    put(&mut rest, MAGIC);
    put(&mut rest, &[VERSION]);
    rest
}

fn put(rest: &mut &mut [u8], bytes: &[u8]) {
    let (here, after) = std::mem::take(rest).split_at_mut(bytes.len());
    here.copy_from_slice(bytes);
    *rest = after;
}

/// A text that is too long is none of ours; what of it fits makes the other side refuse it.
fn put_text(rest: &mut &mut [u8], text: &str) {
    let length = text.len().min(CLUSTER_ID_BYTES_MAX);
    put(rest, &[length as u8]);
    put(rest, &text.as_bytes()[..length]);
}

/// Cuts a message of fixed length into its fields.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn new(message: &'a [u8]) -> Result<Self, HandshakeError> {
        let mut fields = Fields { rest: message };
        match (&fields.take(), fields.take()) {
            (MAGIC, [VERSION]) => Ok(fields),
            _ => Err(HandshakeError::Protocol),
        }
    }

    /// The lengths of all fields add up to the message's.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (here, after) = self
            .rest
            .split_first_chunk()
            .expect("a field of the message");
        self.rest = after;
        *here
    }

    fn text(&mut self) -> Result<String, HandshakeError> {
        let [length] = self.take();
        let text = self.rest.get(..usize::from(length));
        let text = text.and_then(|text| std::str::from_utf8(text).ok());
        text.map(str::to_owned).ok_or(HandshakeError::Protocol)
    }
}

trait IntoProof {
    fn into_proof(self) -> crate::secret::Proof;
}

impl IntoProof for [u8; PROOF_BYTES] {
    /// Compared in a time that does not depend on where the two differ.
    fn into_proof(self) -> crate::secret::Proof {
        crate::secret::Proof::new(self.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use std::future::Future;
    use tokio::io::DuplexStream;

    fn party(key: &[u8], member: u64, cluster_id: &str) -> Party {
        Party {
            credentials: Secret::of(key).into(),
            member,
            cluster_id: cluster_id.to_owned(),
        }
    }

    async fn both(
        client: Party,
        wanted: u64,
        server: Party,
    ) -> (
        Result<Server, HandshakeError>,
        Result<Client, HandshakeError>,
    ) {
        let (mut near, mut far) = tokio::io::duplex(1024);
        let offering = async move { offer(&mut near, &client, Role::Controller, wanted).await };
        let accepting = async move { accept(&mut far, &server).await };
        tokio::join!(offering, accepting)
    }

    #[tokio::test]
    async fn two_that_know_the_secret_learn_who_the_other_is() {
        for (known, wanted) in [("", 0), ("", 2), ("c", 2)] {
            let (server, client) = both(party(b"k", 1, known), wanted, party(b"k", 2, "c")).await;
            let expected = Server {
                member: 2,
                cluster_id: "c".into(),
            };
            assert_eq!(server.unwrap(), expected);
            let expected = Client {
                role: Role::Controller,
                member: 1,
                cluster_id: known.into(),
            };
            assert_eq!(client.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn another_secret_cluster_or_member_is_refused_by_both() {
        let (server, client) = both(party(b"k", 1, "c"), 0, party(b"other", 2, "c")).await;
        assert!(matches!(server, Err(HandshakeError::Secret)));
        assert!(client.is_err());
        let (server, client) = both(party(b"k", 1, "c"), 0, party(b"k", 2, "d")).await;
        assert!(matches!(server, Err(HandshakeError::OtherCluster(id)) if id == "d"));
        assert!(matches!(client, Err(HandshakeError::OtherCluster(id)) if id == "c"));
        let (server, client) = both(party(b"k", 1, "c"), 3, party(b"k", 2, "c")).await;
        assert!(matches!(server, Err(HandshakeError::OtherMember(2))));
        assert!(matches!(client, Err(HandshakeError::OtherMember(2))));
    }

    /// What one handshake said, said again in the next.
    #[tokio::test]
    async fn nothing_that_was_overheard_is_good_a_second_time() {
        let (mut near, mut far) = tokio::io::duplex(1024);
        let ours = party(b"k", 1, "c");
        let (mut overheard, said) = (Vec::new(), hello(&ours, Role::Broker, 0));
        near.write_all(&said).await.unwrap();
        let server = party(b"k", 2, "c");
        let first = tokio::spawn(async move { accept(&mut far, &server).await });
        let mut answer = [0; ANSWER_BYTES];
        near.read_exact(&mut answer).await.unwrap();
        let proof = ours
            .credentials
            .secret
            .prove(&[CLIENT, &said, &answer])
            .into_bytes();
        near.write_all(&proof).await.unwrap();
        first.await.unwrap().unwrap();
        overheard.extend(said);
        overheard.extend(proof);

        let replayed = replay(&overheard, party(b"k", 2, "c")).await;
        assert!(matches!(replayed, Err(HandshakeError::Secret)));
        // Nor is the server's own proof, sent back to it.
        let (mut near, mut far) = tokio::io::duplex(1024);
        let accepting = tokio::spawn(async move { accept(&mut far, &party(b"k", 2, "c")).await });
        near.write_all(&said).await.unwrap();
        let (mut answer, mut proof) = ([0; ANSWER_BYTES], [0; PROOF_BYTES]);
        near.read_exact(&mut answer).await.unwrap();
        near.read_exact(&mut proof).await.unwrap();
        near.write_all(&proof).await.unwrap();
        let reflected = accepting.await.unwrap();
        assert!(matches!(reflected, Err(HandshakeError::Secret)));
    }

    async fn replay(bytes: &[u8], server: Party) -> Result<Client, HandshakeError> {
        let (mut near, mut far) = tokio::io::duplex(1024);
        near.write_all(bytes).await.unwrap();
        accept(&mut far, &server).await
    }

    #[tokio::test]
    async fn any_changed_byte_is_refused() {
        for position in 0..HELLO_BYTES + PROOF_BYTES {
            let (mut near, mut far) = tokio::io::duplex(1024);
            let changing = async move {
                let ours = party(b"k", 1, "c");
                let said = hello(&ours, Role::Broker, 0);
                let mut sent = said;
                if let Some(byte) = sent.get_mut(position) {
                    *byte ^= 0x40;
                }
                near.write_all(&sent).await?;
                let mut answer = [0; ANSWER_BYTES];
                near.read_exact(&mut answer).await?;
                let mut proof = ours
                    .credentials
                    .secret
                    .prove(&[CLIENT, &said, &answer])
                    .into_bytes();
                if let Some(byte) = position.checked_sub(HELLO_BYTES) {
                    proof[byte] ^= 0x40;
                }
                near.write_all(&proof).await?;
                io::Result::Ok(near)
            };
            let accepting = async move { accept(&mut far, &party(b"k", 2, "c")).await };
            let (_, accepted) = tokio::join!(changing, accepting);
            assert!(accepted.is_err(), "byte {position}");
        }
    }

    /// What a stranger can make a server hold.
    #[test]
    fn a_handshake_takes_less_than_a_page() {
        fn bytes<F: Future>(_: &F) -> usize {
            size_of::<F>()
        }
        let (_, mut stream): (DuplexStream, DuplexStream) = tokio::io::duplex(1);
        let server = party(b"k", 2, "c");
        let handshake = accept(&mut stream, &server);
        assert!(bytes(&handshake) < 2048, "{}", bytes(&handshake));
    }
}
