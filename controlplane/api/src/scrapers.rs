//! Who reads `/metrics` and its like: the same rules at both planes' processes.
//!
//! Scrapers need no secret, so they may cost little: so many connections at a time, each for so long, and none that says nothing. More
//! wait in the kernel's queue.

use axum::Router;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// A connection must say something within this.
const FIRST_BYTE_TIME_MAX: Duration = Duration::from_secs(2);
/// A scraper may then keep it for so long.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(60);
/// After a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves pages, on so many connections at a time, until the listener fails.
pub async fn serve(listener: TcpListener, connections: usize, pages: Router) -> io::Result<()> {
    let listener = Bounded {
        listener,
        free: Arc::new(Semaphore::new(connections)),
    };
    axum::serve(listener, pages).await
}

/// Takes so many connections at a time; more wait in the kernel's queue.
struct Bounded {
    listener: TcpListener,
    free: Arc<Semaphore>,
}

impl axum::serve::Listener for Bounded {
    type Io = Held;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Held, SocketAddr) {
        let permit = self.free.clone().acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let held = Held {
                        stream,
                        end: Box::pin(sleep(FIRST_BYTE_TIME_MAX)),
                        silent: true,
                        _permit: permit,
                    };
                    return (held, address);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a scraper's connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that counts until it is closed, and reads as closed once its time is over.
struct Held {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    /// Nothing has come yet.
    silent: bool,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.silent && read.is_ready() {
            self.silent = false;
            self.end
                .as_mut()
                .reset(Instant::now() + CONNECTION_TIME_MAX);
        }
        read
    }
}

impl AsyncWrite for Held {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    const CONNECTIONS: usize = 2;

    /// Connects and asks for the page, in so many pieces.
    async fn ask(address: SocketAddr, pieces: &[&str]) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        for piece in pieces {
            stream.write_all(piece.as_bytes()).await.unwrap();
        }
        stream
    }

    async fn answer(mut stream: TcpStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[test]
    fn connections_that_say_nothing_are_few_and_make_room() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let pages = Router::new().route("/", get(|| async { "here it is" }));
            tokio::spawn(serve(listener, CONNECTIONS, pages));
            let request = ["GET / HTTP/1.1\r\n", "Connection: close\r\n\r\n"];
            let alone = answer(ask(address, &request).await).await;
            assert!(alone.ends_with("here it is"), "{alone}");
            let mut silent = Vec::new();
            for _ in 0..CONNECTIONS {
                silent.push(ask(address, &[]).await);
            }
            let mut asks = Box::pin(answer(ask(address, &request).await));
            let early = timeout(FIRST_BYTE_TIME_MAX / 4, &mut asks).await;
            assert!(early.is_err(), "there was no room yet");
            let late = timeout(FIRST_BYTE_TIME_MAX * 10, asks).await.unwrap();
            assert!(late.ends_with("here it is"), "{late}");
            for stream in silent {
                assert_eq!(answer(stream).await, "", "it was closed");
            }
        });
    }
}
