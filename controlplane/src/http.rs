//! `/metrics`, `/healthz` and `/readyz`.

use crate::node::Node;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use control_api::scrapers;
use std::sync::Arc;
use tokio::net::TcpListener;
use tracing::error;

pub(crate) async fn serve(node: Arc<Node>, listener: TcpListener, connections: usize) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(node);
    if let Err(error) = scrapers::serve(listener, connections, router).await {
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
