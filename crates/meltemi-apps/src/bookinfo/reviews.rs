use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use http::HeaderMap;
use serde_json::{Value, json};

use super::outgoing::{self, HttpClient};
use crate::serve::{env_or, hostname};

/// How long ratings may take: short with black stars and long with red ones, as in Istio's fault-injection task.
const PATIENCE_BLACK: Duration = Duration::from_millis(10_000);
const PATIENCE_RED: Duration = Duration::from_millis(2_500);

struct Reviews {
    client: HttpClient,
    ratings_url: String,
    /// The colour of the stars; `None` for the version without ratings.
    star_color: Option<String>,
    pod: String,
    cluster: String,
}

pub(super) fn app() -> Router {
    let reviews = Arc::new(Reviews {
        client: outgoing::client(),
        ratings_url: outgoing::base_url("ratings"),
        star_color: star_color(
            &env_or("SERVICE_VERSION", "v1"),
            std::env::var("ENABLE_RATINGS").ok(),
            std::env::var("STAR_COLOR").ok(),
        ),
        pod: hostname(),
        cluster: env_or("CLUSTER_NAME", "null"),
    });
    Router::new()
        .route("/reviews/{product}", get(get_reviews))
        .route(
            "/health",
            get(|| async { Json(json!({"status": "Reviews is healthy"})) }),
        )
        .with_state(reviews)
}

/// v1 has no stars, v2 black ones, v3 red ones; the two variables override the version.
fn star_color(
    version: &str,
    enable_ratings: Option<String>,
    color: Option<String>,
) -> Option<String> {
    let by_version = match version {
        "v2" => Some("black"),
        "v3" => Some("red"),
        _ => None,
    };
    let enabled = match enable_ratings {
        Some(value) => value.eq_ignore_ascii_case("true"),
        None => by_version.is_some(),
    };
    enabled.then(|| color.unwrap_or_else(|| by_version.unwrap_or("black").to_owned()))
}

async fn get_reviews(
    State(reviews): State<Arc<Reviews>>,
    Path(product): Path<u64>,
    headers: HeaderMap,
) -> Json<Value> {
    let ratings = match &reviews.star_color {
        None => None,
        Some(color) => {
            let url = format!("{}/ratings/{product}", reviews.ratings_url);
            let patience = if color == "black" {
                PATIENCE_BLACK
            } else {
                PATIENCE_RED
            };
            let answer = outgoing::get_json(
                &reviews.client,
                &url,
                &outgoing::forwarded(&headers),
                patience,
            )
            .await;
            Some((color.as_str(), answer.ok()))
        }
    };
    Json(json!({
        "id": product.to_string(),
        "podname": reviews.pod,
        "clustername": reviews.cluster,
        "reviews": [
            review("Reviewer1", "Mistaken twins, a shipwreck and a very patient duke: the jokes are old and they still land.", ratings.as_ref()),
            review("Reviewer2", "Short, quick and well built, though the best of the plays it is not.", ratings.as_ref()),
        ],
    }))
}

/// One review; with stars when ratings answered, with an error when it was asked and did not.
fn review(reviewer: &str, text: &str, ratings: Option<&(&str, Option<Value>)>) -> Value {
    let mut review = json!({"reviewer": reviewer, "text": text});
    if let Some((color, answer)) = ratings {
        let stars = answer
            .as_ref()
            .and_then(|answer| answer["ratings"][reviewer].as_u64());
        review["rating"] = match stars {
            Some(stars) => json!({"stars": stars, "color": color}),
            None => json!({"error": "Ratings service is currently unavailable"}),
        };
    }
    review
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_decides_the_stars() {
        assert_eq!(star_color("v1", None, None), None);
        assert_eq!(star_color("v2", None, None).as_deref(), Some("black"));
        assert_eq!(star_color("v3", None, None).as_deref(), Some("red"));
        assert_eq!(
            star_color("v1", Some("true".into()), Some("blue".into())).as_deref(),
            Some("blue")
        );
        assert_eq!(star_color("v3", Some("false".into()), None), None);
    }

    #[test]
    fn a_silent_ratings_service_is_told() {
        let missing = ("black", None);
        assert_eq!(
            review("R", "t", Some(&missing))["rating"]["error"],
            "Ratings service is currently unavailable"
        );
        let given = ("red", Some(json!({"ratings": {"R": 3}})));
        assert_eq!(
            review("R", "t", Some(&given))["rating"],
            json!({"stars": 3, "color": "red"})
        );
        assert_eq!(review("R", "t", None).get("rating"), None);
    }
}
