//! `/metrics`, `/healthz` and `/readyz`.

use crate::node::Node;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
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
use tracing::{error, warn};

/// A connection must say something within this.
const FIRST_BYTE_TIME_MAX: Duration = Duration::from_secs(2);
/// A scraper may then keep it for so long.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(60);
/// After a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
                    warn!(%error, "cannot accept a scraper's connection");
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

pub(crate) async fn serve(node: Arc<Node>, listener: TcpListener, connections: usize) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(node);
    let listener = Bounded {
        listener,
        free: Arc::new(Semaphore::new(connections)),
    };
    if let Err(error) = axum::serve(listener, router).await {
        error!(%error, "metrics are no longer served");
    }
}

async fn metrics(State(node): State<Arc<Node>>) -> impl IntoResponse {
    match node.metrics.render(&node) {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// The process works, with or without the others.
async fn healthz(State(node): State<Arc<Node>>) -> impl IntoResponse {
    let groups = [
        node.meta.metrics().running_state,
        node.offsets.metrics().running_state,
    ];
    match groups.into_iter().collect::<Result<Vec<()>, _>>() {
        Ok(_) => (StatusCode::OK, "ok\n".to_owned()),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// Requests that need a majority can be answered here or at the leader that is known here: one of each group has just been.
async fn readyz(State(node): State<Arc<Node>>) -> impl IntoResponse {
    let (meta, offsets) = tokio::join!(
        node.meta.has_quorum(&node.client),
        node.offsets.has_quorum(&node.client)
    );
    let formed = node
        .meta
        .shared
        .read(|state| !state.image().cluster_id.is_empty());
    match (meta && offsets, formed) {
        (true, true) => (StatusCode::OK, "ready\n"),
        (true, false) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the cluster is being formed\n",
        ),
        (false, _) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "no majority of controllers answers\n",
        ),
    }
}
