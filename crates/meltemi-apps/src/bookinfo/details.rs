use axum::extract::Path;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

pub(super) fn app() -> Router {
    Router::new()
        .route("/details/{product}", get(details))
        .route(
            "/health",
            get(|| async { Json(json!({"status": "Details is healthy"})) }),
        )
}

async fn details(Path(product): Path<u64>) -> Json<Value> {
    Json(json!({
        "id": product,
        "author": "William Shakespeare",
        "year": 1595,
        "type": "paperback",
        "pages": 200,
        "publisher": "PublisherA",
        "language": "English",
        "ISBN-10": "1234567890",
        "ISBN-13": "123-1234567890",
    }))
}
