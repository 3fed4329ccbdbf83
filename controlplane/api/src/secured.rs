//! A connection between two processes of a cluster, from the first packet until each knows who the other is: TCP, TLS where this
//! process has a certificate, and the handshake over it.
//!
//! Everything that talks to a controller's port or serves it comes through [`connect`] and [`accept`], and sees only a
//! [`Stream`] afterwards.

use crate::handshake::{self, Client, HandshakeError, Party, Role, Server};
use crate::secret::Secret;
use crate::tls::{self, Tls, TlsFiles};
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tracing::{debug, warn};

/// Refusals are not worth more than a line in so long.
const REFUSAL_LOG_PAUSE: Duration = Duration::from_secs(1);
/// For so long whoever was refused may take up why, and so many bytes of what it had to say are thrown away meanwhile.
const PARTING_TIME_MAX: Duration = Duration::from_millis(200);
const PARTING_BYTES_MAX: u64 = 16 << 10;

/// What a process shows to be let in, and demands of those it talks to: a secret, a certificate, both, or neither. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    pub(crate) secret: Secret,
    tls: Option<Tls>,
    refusals: Arc<Refusals>,
}

impl From<Secret> for Credentials {
    fn from(secret: Secret) -> Self {
        Credentials {
            secret,
            ..Credentials::default()
        }
    }
}

impl Credentials {
    /// The error is one line that names the file.
    pub fn load(secret_file: Option<&Path>, tls: Option<TlsFiles>) -> Result<Self, String> {
        Ok(Credentials {
            secret: Secret::load(secret_file)?,
            tls: tls.map(Tls::load).transpose()?,
            refusals: Arc::default(),
        })
    }

    /// A process that can demand nothing talks to its own machine only.
    fn admits(&self, address: IpAddr) -> bool {
        self.secret.is_some() || self.tls.is_some() || address.to_canonical().is_loopback()
    }

    /// Whether all of these `host:port` may be served or joined; the error is one line for the operator.
    pub fn check_addresses<'a>(
        &self,
        addresses: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), String> {
        for address in addresses {
            // A name that says nothing now is looked at again when it is connected to.
            let mut resolved = address.to_socket_addrs().into_iter().flatten();
            if resolved.any(|one| !self.admits(one.ip())) {
                return Err(format!(
                    "without a cluster secret only loopback addresses are served and joined, and {address} is none: give --secret-file or --tls-cert"
                ));
            }
        }
        Ok(())
    }

    /// Whether others can connect to this process at `address`, as far as its certificate goes.
    pub fn check_serves(&self, address: &str) -> Result<(), String> {
        self.tls
            .as_ref()
            .map_or(Ok(()), |tls| tls.check_serves(address))
    }

    async fn open(&self, tcp: TcpStream, address: &str) -> Result<Stream, HandshakeError> {
        let Some(tls) = &self.tls else {
            return Ok(Stream::Plain(tcp));
        };
        let name = tls::server_name(address)?;
        let connector = TlsConnector::from(tls.configs().await.client);
        let stream = connector.connect(name, tcp).await?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }

    async fn take(&self, tcp: TcpStream) -> Result<Stream, HandshakeError> {
        let Some(tls) = &self.tls else {
            return Ok(Stream::Plain(tcp));
        };
        let acceptor = TlsAcceptor::from(tls.configs().await.server);
        match acceptor.accept(tcp).into_fallible().await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream.into()))),
            Err((error, mut tcp)) => {
                part(&mut tcp).await;
                Err(error.into())
            }
        }
    }
}

/// Closes in such a way that the other side can still read why: bytes of its that nobody read would have the kernel cut it off.
async fn part<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let parting = async {
        stream.shutdown().await?;
        let mut rest = stream.take(PARTING_BYTES_MAX);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    let _ = timeout(PARTING_TIME_MAX, parting).await;
}

/// Connects to a controller at `host:port`. `wanted`: the member that must answer, 0 for any. `time`: for the connection, and
/// again for everything until both know each other.
pub async fn connect(
    address: &str,
    party: &Party,
    role: Role,
    wanted: u64,
    time: Duration,
) -> Result<(Stream, Server), HandshakeError> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let tcp = timeout(time, TcpStream::connect(address))
        .await
        .map_err(late)??;
    tcp.set_nodelay(true)?;
    let introducing = async {
        let peer = tcp.peer_addr()?;
        if !party.credentials.admits(peer.ip()) {
            return Err(HandshakeError::Unprotected(peer));
        }
        let mut stream = party.credentials.open(tcp, address).await?;
        let server = handshake::offer(&mut stream, party, role, wanted).await?;
        Ok((stream, server))
    };
    let connected = timeout(time, introducing).await;
    let connected = connected.unwrap_or_else(|elapsed| Err(late(elapsed).into()));
    // An operator's command says it itself.
    if let (Err(error), Role::Controller | Role::Broker) = (&connected, role) {
        let refusals = &party.credentials.refusals;
        refusals.add("cannot speak to a controller", &address, error);
    }
    connected
}

/// The server's side; the caller bounds the time.
pub async fn accept(tcp: TcpStream, party: &Party) -> Result<(Stream, Client), HandshakeError> {
    tcp.set_nodelay(true)?;
    let peer = tcp.peer_addr()?;
    if !party.credentials.admits(peer.ip()) {
        return Err(HandshakeError::Unprotected(peer));
    }
    let mut stream = party.credentials.take(tcp).await?;
    let accepted = handshake::accept(&mut stream, party).await;
    if matches!(accepted, Err(HandshakeError::SpeaksTls)) {
        part(&mut stream).await;
    }
    Ok((stream, accepted?))
}

/// Says why connections come to nothing, but not as often as somebody tries.
#[derive(Debug, Default)]
pub struct Refusals {
    silent_until: Mutex<Option<Instant>>,
}

impl Refusals {
    /// `peer`: who is at the other end.
    pub fn add(&self, what: &str, peer: &dyn Display, error: &HandshakeError) {
        // A connection that says nothing, or ends, is nobody's mistake: a port scan, a health check.
        if matches!(error, HandshakeError::Io(_)) {
            debug!(%peer, %error, "a connection ended before its handshake");
            return;
        }
        let now = Instant::now();
        let silent_until = self.silent_until.lock();
        let mut silent_until = silent_until.unwrap_or_else(PoisonError::into_inner);
        if silent_until.is_none_or(|until| until <= now) {
            *silent_until = Some(now + REFUSAL_LOG_PAUSE);
            warn!(%peer, %error, "{what}");
        }
    }
}

/// Bytes to and from a process that has proved who it is. What was written is on its way once it was flushed.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

pub type Reader = ReadHalf<Stream>;
pub type Writer = WriteHalf<Stream>;

impl Stream {
    /// For a task that reads and one that writes.
    pub fn split(self) -> (Reader, Writer) {
        tokio::io::split(self)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_secret_only_this_machine_is_served_and_joined() {
        let none = Credentials::load(None, None).unwrap();
        for own in [
            "127.0.0.1:1",
            "[::1]:1",
            "localhost:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert_eq!(none.check_addresses([own]), Ok(()), "{own}");
        }
        for other in ["10.0.0.1:1", "0.0.0.0:1", "[::]:1", "[2001:db8::1]:1"] {
            let error = none.check_addresses(["127.0.0.1:1", other]).unwrap_err();
            assert!(
                error.contains(other) && error.contains("--secret-file"),
                "{error}"
            );
        }
    }
}
