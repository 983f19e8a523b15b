use axum::extract::Path;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

pub(super) fn app() -> Router {
    Router::new()
        .route("/ratings/{product}", get(ratings))
        .route(
            "/health",
            get(|| async { Json(json!({"status": "Ratings is healthy"})) }),
        )
}

async fn ratings(Path(product): Path<u64>) -> Json<Value> {
    Json(json!({"id": product, "ratings": {"Reviewer1": 5, "Reviewer2": 4}}))
}
