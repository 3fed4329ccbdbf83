//! `/metrics`, `/healthz` and `/readyz` over HTTP, on a thread of their own: to render the page of very many partitions takes long, and
//! neither a shard nor a heartbeat may wait for it.

use crate::limits::SCRAPERS_MAX;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use control_api::scrapers;
use prometheus::{Registry, TextEncoder};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use tokio::net::TcpListener;

/// What the pages are made of.
#[derive(Clone)]
pub struct Pages {
    pub registry: Registry,
    /// The control plane has this broker in service.
    pub in_service: Arc<AtomicBool>,
    /// Logs that are being opened.
    pub opening: Arc<AtomicUsize>,
}

/// Begins to serve, until the process ends.
pub fn start(address: SocketAddr, pages: Pages) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let listener = runtime.block_on(TcpListener::bind(address))?;
    let thread = thread::Builder::new().name("metrics".to_owned());
    thread.spawn(move || runtime.block_on(serve(listener, pages)))?;
    Ok(())
}

/// Serves until the listener fails.
async fn serve(listener: TcpListener, pages: Pages) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(pages);
    if let Err(error) = scrapers::serve(listener, SCRAPERS_MAX, router).await {
        tracing::error!(%error, "metrics are no longer served");
    }
}

async fn metrics(State(pages): State<Pages>) -> impl IntoResponse {
    match TextEncoder::new().encode_to_string(&pages.registry.gather()) {
        Ok(text) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)],
            text,
        ),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain")],
            format!("{error}\n"),
        ),
    }
}

async fn ready(State(pages): State<Pages>) -> (StatusCode, String) {
    let opening = pages.opening.load(Ordering::Relaxed);
    if !pages.in_service.load(Ordering::Acquire) {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not in service: the control plane has not admitted this broker\n".to_owned(),
        )
    } else if opening > 0 {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("recovering {opening} partitions\n"),
        )
    } else {
        (StatusCode::OK, "ready\n".to_owned())
    }
}
