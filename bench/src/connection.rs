//! One connection to a broker: frames in both directions, the versions that both sides speak, and single calls for whatever is not
//! measured. Every wait has a limit, so an unreachable or silent broker is an error and never a hang.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use monoio::buf::{IoBufMut, SliceMut};
use monoio::io::{AsyncReadRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf, Splitable};
use monoio::net::TcpStream;
use monoio::time::timeout;
use wire::messages::api_versions::ApiVersionsRequest;
use wire::{
    ApiKey, EncodeError, FRAME_LENGTH_BYTES, Reader, RequestHeader, ResponseHeader, Writer,
    frame_length,
};

use crate::versions::{Answer, QUESTION_VERSION_MAX, Versions};

const CONNECT_WAIT: Duration = Duration::from_secs(5);
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// Far above what any request here asks for; only a peer that does not speak the protocol claims more.
const FRAME_BYTES_MAX: usize = 512 << 20;
const RECEIVE_BYTES: usize = 256 << 10;

/// How this program names itself to brokers.
pub const CLIENT_ID: &str = "millrace-bench";

pub struct Connection {
    pub frames: Frames,
    pub sender: Sender,
    pub versions: Versions,
    next_correlation_id: i32,
}

/// The sending half.
pub struct Sender(OwnedWriteHalf<TcpStream>);

/// The receiving half, cut into frames.
pub struct Frames {
    stream: OwnedReadHalf<TcpStream>,
    buffer: Vec<u8>,
    /// Where in `buffer` the first frame starts that was not taken yet.
    start: usize,
}

impl Connection {
    pub async fn open(address: &str) -> Result<Self> {
        let (reader, writer) = connect(address).await?.into_split();
        let frames = Frames {
            stream: reader,
            buffer: Vec::new(),
            start: 0,
        };
        let mut connection = Self {
            frames,
            sender: Sender(writer),
            versions: Versions::default(),
            next_correlation_id: 0,
        };
        connection
            .ask_versions()
            .await
            .with_context(|| format!("cannot talk to {address}"))?;
        Ok(connection)
    }

    /// Before anything else, as every client does.
    async fn ask_versions(&mut self) -> Result<()> {
        let request = ApiVersionsRequest {
            client_software_name: CLIENT_ID,
            client_software_version: env!("CARGO_PKG_VERSION"),
        };
        let mut version = QUESTION_VERSION_MAX;
        loop {
            let encode = |writer: &mut Writer<'_>| request.encode(writer, version);
            let decode = |reader: &mut Reader<'_>| Answer::decode(reader, version);
            match self
                .call(ApiKey::ApiVersions, version, encode, decode)
                .await?
            {
                Answer::Versions(versions) => {
                    self.versions = versions;
                    return Ok(());
                }
                Answer::AskInstead(older) => version = older,
            }
        }
    }

    /// The version of an API to call it with.
    pub fn version(&self, api: ApiKey) -> Result<i16> {
        self.versions.agreed(api)
    }

    /// One request and its answer. `decode` sees the message behind the response header.
    pub async fn call<R>(
        &mut self,
        api: ApiKey,
        version: i16,
        encode: impl FnOnce(&mut Writer<'_>) -> Result<(), EncodeError>,
        decode: impl FnOnce(&mut Reader<'_>) -> Result<R>,
    ) -> Result<R> {
        let correlation_id = self.next_correlation_id;
        self.next_correlation_id = correlation_id.wrapping_add(1);
        let exchange = async {
            let mut request = Vec::new();
            encode_request(&mut request, api, version, correlation_id, encode)?;
            self.sender.send(request).await?;
            let mut answer = Reader::new(self.frames.wait().await?);
            let header = ResponseHeader::decode(&mut answer, api, version)?;
            ensure!(
                header.correlation_id == correlation_id,
                "an answer to another request"
            );
            decode(&mut answer)
        };
        within(ANSWER_WAIT, exchange)
            .await
            .and_then(|answer| answer)
            .with_context(|| format!("{api:?} failed"))
    }
}

/// Appends a whole request frame and returns where in it spliced record bytes belong.
pub fn encode_request(
    request: &mut Vec<u8>,
    api: ApiKey,
    version: i16,
    correlation_id: i32,
    encode: impl FnOnce(&mut Writer<'_>) -> Result<(), EncodeError>,
) -> Result<Vec<wire::Splice>, EncodeError> {
    let header = RequestHeader {
        api_key: api as i16,
        api_version: version,
        correlation_id,
        client_id: Some(CLIENT_ID),
    };
    let mut writer = Writer::new(request);
    let start = writer.start_frame();
    header.encode(&mut writer)?;
    encode(&mut writer)?;
    writer.end_frame(start)?;
    Ok(writer.into_splices())
}

impl Sender {
    /// Sends everything and gives the buffer back.
    pub async fn send(&mut self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let (sent, bytes) = self.0.write_all(bytes).await;
        sent.context("the connection broke while sending")?;
        Ok(bytes)
    }
}

impl Frames {
    /// The next frame without its length prefix, if it has arrived whole.
    pub fn arrived(&mut self) -> Result<Option<&[u8]>> {
        let frame = self.take_range()?;
        Ok(frame.map(|range| &self.buffer[range]))
    }

    /// Waits for the next frame.
    pub async fn wait(&mut self) -> Result<&[u8]> {
        loop {
            if let Some(range) = self.take_range()? {
                return Ok(&self.buffer[range]);
            }
            self.receive().await?;
        }
    }

    /// Waits until more bytes have arrived.
    pub async fn receive(&mut self) -> Result<()> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let wanted = self.frame_end()?.unwrap_or(0).max(RECEIVE_BYTES);
        self.buffer
            .reserve(wanted.saturating_sub(self.buffer.len()));
        let filled = self.buffer.len();
        let free: SliceMut<Vec<u8>> = std::mem::take(&mut self.buffer).slice_mut(filled..);
        let (received, free) = self.stream.read(free).await;
        self.buffer = free.into_inner();
        match received.context("the connection broke")? {
            0 => bail!("the broker closed the connection"),
            _ => Ok(()),
        }
    }

    fn take_range(&mut self) -> Result<Option<Range<usize>>> {
        let Some(end) = self.frame_end()?.filter(|end| *end <= self.buffer.len()) else {
            return Ok(None);
        };
        let range = self.start + FRAME_LENGTH_BYTES..end;
        self.start = end;
        Ok(Some(range))
    }

    /// Where the first frame ends or will end, once its length is here.
    fn frame_end(&self) -> Result<Option<usize>> {
        let Some(prefix) = self.buffer[self.start..].first_chunk() else {
            return Ok(None);
        };
        let length = frame_length(*prefix, FRAME_BYTES_MAX)
            .context("the peer does not speak Kafka's protocol")?;
        Ok(Some(self.start + FRAME_LENGTH_BYTES + length))
    }
}

/// A connection for any protocol.
pub async fn connect(address: &str) -> Result<TcpStream> {
    let resolved = resolve(address)?;
    let stream = within(CONNECT_WAIT, TcpStream::connect_addr(resolved))
        .await
        .and_then(|connected| Ok(connected?))
        .with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn resolve(address: &str) -> Result<SocketAddr> {
    let resolved = address
        .to_socket_addrs()
        .and_then(|mut all| all.next().ok_or(io::ErrorKind::NotFound.into()));
    resolved.with_context(|| format!("'{address}' is no HOST:PORT that can be resolved"))
}

async fn within<T>(wait: Duration, future: impl Future<Output = T>) -> Result<T> {
    timeout(wait, future)
        .await
        .map_err(|_| anyhow!("no answer within {} s", wait.as_secs()))
}
