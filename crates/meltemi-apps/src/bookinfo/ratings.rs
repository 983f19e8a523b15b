use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::database::Database;

/// Version 2 keeps its stars in the database that its environment names; the others know them.
pub(super) fn app() -> Router {
    let database = Database::of(|name| std::env::var(name).ok());
    let is_v2 = std::env::var("SERVICE_VERSION").is_ok_and(|version| version == "v2");
    routes(database.filter(|_| is_v2))
}

fn routes(database: Option<Database>) -> Router {
    Router::new()
        .route("/ratings/{product}", get(ratings))
        .route(
            "/health",
            get(|| async { Json(json!({"status": "Ratings is healthy"})) }),
        )
        .with_state(Arc::new(database))
}

async fn ratings(
    State(database): State<Arc<Option<Database>>>,
    Path(product): Path<u64>,
) -> (StatusCode, Json<Value>) {
    let stars = match database.as_ref() {
        Some(database) => database.stars().await,
        None => Ok([5, 4]),
    };
    match stars {
        Ok([first, second]) => {
            let ratings = json!({"Reviewer1": first, "Reviewer2": second});
            let answer = json!({"id": product, "ratings": ratings});
            (StatusCode::OK, Json(answer))
        }
        Err(failure) => {
            let answer = json!({"error": failure.text()});
            (StatusCode::INTERNAL_SERVER_ERROR, Json(answer))
        }
    }
}
