//! `/metrics`, `/healthz` and `/readyz` over HTTP, on a thread of their own: to render the page of very many partitions takes long, and
//! neither a shard nor a heartbeat may wait for it.

use crate::control::LinkMetrics;
use crate::io::Instant;
use crate::lease::Lease;
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
    pub link: LinkMetrics,
    pub lease: Lease,
    /// The clock of the shards.
    pub now: fn() -> Instant,
}

/// Begins to serve, until the process ends. Answers with where.
pub fn start(address: SocketAddr, pages: Pages) -> io::Result<SocketAddr> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let listener = runtime.block_on(TcpListener::bind(address))?;
    let address = listener.local_addr()?;
    let thread = thread::Builder::new().name("metrics".to_owned());
    thread.spawn(move || runtime.block_on(serve(listener, pages)))?;
    Ok(address)
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
    pages.link.show_lease(&pages.lease, (pages.now)());
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

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::core::{Collector, Desc};
    use prometheus::proto::MetricFamily;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    /// Numbers that take as long to collect as somebody else wants.
    struct Slow {
        begun: Sender<()>,
        go_on: Mutex<Receiver<()>>,
    }

    impl Collector for Slow {
        fn desc(&self) -> Vec<&Desc> {
            Vec::new()
        }

        fn collect(&self) -> Vec<MetricFamily> {
            self.begun.send(()).unwrap();
            let go_on = self.go_on.lock().unwrap();
            let waited = go_on.recv_timeout(Duration::from_secs(20));
            waited.expect("whoever serves the pages holds nobody else up");
            Vec::new()
        }
    }

    #[test]
    fn a_scrape_holds_up_nothing_of_the_thread_that_started_it() {
        let registry = Registry::new();
        let (begun, has_begun) = channel();
        let (let_go, go_on) = channel();
        let go_on = Mutex::new(go_on);
        registry.register(Box::new(Slow { begun, go_on })).unwrap();
        let lease = Lease::default();
        let pages = Pages {
            link: LinkMetrics::new(&registry).unwrap(),
            registry,
            in_service: Arc::default(),
            opening: Arc::default(),
            lease: lease.clone(),
            now: || Instant(1_000_000_000),
        };
        // As the control link runs.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let address = start(([127, 0, 0, 1], 0).into(), pages);
        let mut scrape = TcpStream::connect(address.unwrap()).unwrap();
        lease.set_end(Instant(1_250_000_000));
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        scrape.write_all(request).unwrap();
        runtime.block_on(async move {
            while has_begun.try_recv().is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let_go.send(()).unwrap();
        });
        let mut page = String::new();
        scrape.read_to_string(&mut page).unwrap();
        assert!(
            page.contains("\nmillrace_control_lease_seconds 0.25\n"),
            "{page}"
        );
    }
}
