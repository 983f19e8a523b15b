use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Form, Path, Query, State};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::outgoing::{self, HttpClient};
use crate::serve::hostname;

/// How long the page waits for details and for one attempt at reviews.
const PATIENCE: Duration = Duration::from_secs(3);
/// The page asks reviews a second time when the first attempt fails, as Istio's fault-injection task explains.
const REVIEWS_ATTEMPTS: usize = 2;
/// The cookie that remembers who signed in.
const USER_COOKIE: &str = "bookinfo-user";

struct Page {
    client: HttpClient,
    details: String,
    reviews: String,
    ratings: String,
}

type Upstream = Result<Value, StatusCode>;

pub(super) fn app() -> Router {
    let page = Arc::new(Page {
        client: outgoing::client(),
        details: outgoing::base_url("details"),
        reviews: outgoing::base_url("reviews"),
        ratings: outgoing::base_url("ratings"),
    });
    Router::new()
        .route("/", get(index))
        .route("/index.html", get(index))
        .route("/productpage", get(product_page))
        .route("/login", post(login))
        .route("/logout", get(logout))
        .route("/health", get(|| async { "Product page is healthy" }))
        .route(
            "/api/v1/products",
            get(|| async { Json(json!([product()])) }),
        )
        .route("/api/v1/products/{id}", get(api_details))
        .route("/api/v1/products/{id}/reviews", get(api_reviews))
        .route("/api/v1/products/{id}/ratings", get(api_ratings))
        .with_state(page)
}

fn product() -> Value {
    json!({"id": 0, "title": "The Comedy of Errors", "descriptionHtml": "A play of two pairs of twins, each taken for the other, in one long day at Ephesus."})
}

impl Page {
    async fn details(&self, id: u64, headers: &HeaderMap) -> Upstream {
        outgoing::get_json(
            &self.client,
            &format!("{}/details/{id}", self.details),
            headers,
            PATIENCE,
        )
        .await
    }

    async fn reviews(&self, id: u64, headers: &HeaderMap) -> Upstream {
        let url = format!("{}/reviews/{id}", self.reviews);
        let mut last = Err(StatusCode::SERVICE_UNAVAILABLE);
        for _ in 0..REVIEWS_ATTEMPTS {
            last = outgoing::get_json(&self.client, &url, headers, PATIENCE).await;
            if last.is_ok() {
                break;
            }
        }
        last
    }
}

/// The headers to hand on; a signed-in user travels as `end-user`.
fn handed_on(headers: &HeaderMap) -> HeaderMap {
    let mut forwarded = outgoing::forwarded(headers);
    if let Some(user) = signed_in(headers).and_then(|user| HeaderValue::from_str(&user).ok()) {
        forwarded.insert("end-user", user);
    }
    forwarded
}

fn signed_in(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get(header::COOKIE)?.to_str().ok()?;
    let user = cookies
        .split(';')
        .find_map(|pair| pair.trim().strip_prefix(USER_COOKIE)?.strip_prefix('='))?;
    let known = !user.is_empty()
        && user.len() <= 64
        && user
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b".-_@".contains(&c));
    known.then(|| user.to_owned())
}

#[derive(Deserialize)]
struct Login {
    username: String,
    #[serde(default, rename = "passwd")]
    _password: String,
}

async fn login(Form(login): Form<Login>) -> Response {
    let user: String = login
        .username
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || ".-_@".contains(*c))
        .take(64)
        .collect();
    with_cookie(&format!(
        "{USER_COOKIE}={user}; Path=/; HttpOnly; SameSite=Lax"
    ))
}

async fn logout() -> Response {
    with_cookie(&format!("{USER_COOKIE}=; Path=/; Max-Age=0"))
}

fn with_cookie(cookie: &str) -> Response {
    (
        [(header::SET_COOKIE, cookie.to_owned())],
        Redirect::to("/productpage"),
    )
        .into_response()
}

#[derive(Deserialize)]
struct PageQuery {
    u: Option<String>,
}

async fn product_page(
    State(page): State<Arc<Page>>,
    Query(query): Query<PageQuery>,
    headers: HeaderMap,
) -> Html<String> {
    let user = signed_in(&headers).or_else(|| query.u.filter(|user| user != "normal"));
    let forwarded = handed_on(&headers);
    let (details, reviews) = tokio::join!(page.details(0, &forwarded), page.reviews(0, &forwarded));
    Html(render(user.as_deref(), &details, &reviews))
}

async fn api_details(
    State(page): State<Arc<Page>>,
    Path(id): Path<u64>,
    headers: HeaderMap,
) -> Response {
    answer(page.details(id, &handed_on(&headers)).await, "details")
}

async fn api_reviews(
    State(page): State<Arc<Page>>,
    Path(id): Path<u64>,
    headers: HeaderMap,
) -> Response {
    answer(page.reviews(id, &handed_on(&headers)).await, "reviews")
}

async fn api_ratings(
    State(page): State<Arc<Page>>,
    Path(id): Path<u64>,
    headers: HeaderMap,
) -> Response {
    let url = format!("{}/ratings/{id}", page.ratings);
    answer(
        outgoing::get_json(&page.client, &url, &handed_on(&headers), PATIENCE).await,
        "ratings",
    )
}

fn answer(upstream: Upstream, service: &str) -> Response {
    match upstream {
        Ok(value) => Json(value).into_response(),
        Err(status) => {
            (status, Json(json!({"error": format!("Sorry, product {service} are currently unavailable for this book.")}))).into_response()
        }
    }
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;margin:0;color:#1c2733;background:#f4f7fa}header{background:#0b4f6c;color:#fff;\
padding:.8rem 1.5rem;display:flex;justify-content:space-between;align-items:center}header a,header button{color:#fff}main{max-width:60rem;\
margin:1.5rem auto;padding:0 1.5rem}section{background:#fff;border:1px solid #d9e2ea;border-radius:8px;padding:1rem 1.5rem;margin:1rem 0}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1.5rem}dt{color:#5a6b7b}dd{margin:0}.stars{letter-spacing:.1em;font-size:1.3rem}\
.error{color:#9b1c1c}blockquote{margin:.5rem 0;padding-left:1rem;border-left:4px solid #d9e2ea}footer{color:#5a6b7b;font-size:.85rem}\
input,button{font:inherit;padding:.2rem .6rem;border-radius:4px;border:1px solid #8aa;background:transparent;color:inherit}";

async fn index() -> Html<String> {
    let body = "<section><h1>Bookinfo</h1><p>Four small services that call each other.</p><p><a href=\"/productpage\">Open the product page</a></p></section>";
    Html(document(None, body))
}

fn document(user: Option<&str>, body: &str) -> String {
    let session = match user {
        Some(user) => format!("<span>{} · <a href=\"/logout\">sign out</a></span>", escape(user)),
        None => "<form action=\"/login\" method=\"post\"><input name=\"username\" aria-label=\"user name\" placeholder=\"user name\"> \
                 <button>sign in</button></form>"
            .to_owned(),
    };
    format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Simple Bookstore App</title><style>{STYLE}</style></head>\
         <body><header><strong>BookInfo Sample</strong>{session}</header><main>{body}</main></body></html>"
    )
}

fn render(user: Option<&str>, details: &Upstream, reviews: &Upstream) -> String {
    let product = product();
    let text = |value: &Value| escape(value.as_str().unwrap_or_default());
    let mut body = format!(
        "<section><h1>{}</h1><p>{}</p></section>",
        text(&product["title"]),
        text(&product["descriptionHtml"])
    );
    body += &details_section(details);
    body += &reviews_section(reviews);
    let _infallible = write!(body, "<footer>served by {}</footer>", escape(&hostname()));
    document(user, &body)
}

fn details_section(details: &Upstream) -> String {
    let rows: Option<String> = details
        .as_ref()
        .ok()
        .and_then(Value::as_object)
        .map(|details| {
            let row = |(key, value): (&String, &Value)| {
                let value = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                format!("<dt>{}</dt><dd>{}</dd>", escape(key), escape(&value))
            };
            details
                .iter()
                .filter(|(key, _)| *key != "id")
                .map(row)
                .collect()
        });
    match rows {
        Some(rows) => format!("<section><h2>Book Details</h2><dl>{rows}</dl></section>"),
        None => unavailable("product details"),
    }
}

fn reviews_section(reviews: &Upstream) -> String {
    let Some(list) = reviews
        .as_ref()
        .ok()
        .and_then(|reviews| reviews["reviews"].as_array())
    else {
        return unavailable("product reviews");
    };
    let mut html = String::from("<section><h2>Book Reviews</h2>");
    for review in list {
        let text = |key: &str| escape(review[key].as_str().unwrap_or_default());
        html += &format!(
            "<blockquote><p>{}</p><small>{}</small>{}</blockquote>",
            text("text"),
            text("reviewer"),
            stars(&review["rating"])
        );
    }
    let pod = reviews
        .as_ref()
        .ok()
        .and_then(|reviews| reviews["podname"].as_str())
        .unwrap_or_default();
    html + &format!(
        "<footer>reviews served by {}</footer></section>",
        escape(pod)
    )
}

fn stars(rating: &Value) -> String {
    if let Some(error) = rating["error"].as_str() {
        return format!("<p class=\"error\">{}</p>", escape(error));
    }
    let Some(stars) = rating["stars"].as_u64() else {
        return String::new();
    };
    let full = usize::try_from(stars).unwrap_or(0).min(5);
    let color = escape(rating["color"].as_str().unwrap_or("black"));
    format!(
        "<p class=\"stars\" style=\"color:{color}\" aria-label=\"{full} of 5 stars\">{}{}</p>",
        "★".repeat(full),
        "☆".repeat(5 - full)
    )
}

fn unavailable(what: &str) -> String {
    format!(
        "<section><h2>Error fetching {what}!</h2><p class=\"error\">Sorry, {what} are currently unavailable for this book.</p></section>"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reviews(rating: Value) -> Upstream {
        Ok(
            json!({"podname": "reviews-v2-x", "reviews": [{"reviewer": "R", "text": "<b>", "rating": rating}]}),
        )
    }

    #[test]
    fn the_page_shows_stars_in_their_colour() {
        let page = render(
            None,
            &Err(StatusCode::BAD_GATEWAY),
            &reviews(json!({"stars": 4, "color": "red"})),
        );
        assert!(page.contains("★★★★☆") && page.contains("color:red"));
        assert!(page.contains("Error fetching product details!"));
        assert!(page.contains("&lt;b&gt;"), "text of others is escaped");
    }

    #[test]
    fn the_page_says_what_is_missing() {
        let page = render(
            None,
            &Ok(json!({"author": "A"})),
            &Err(StatusCode::SERVICE_UNAVAILABLE),
        );
        assert!(page.contains("Book Details") && page.contains("Error fetching product reviews!"));
        let page = render(
            None,
            &Ok(json!({})),
            &reviews(json!({"error": "Ratings service is currently unavailable"})),
        );
        assert!(page.contains("Ratings service is currently unavailable"));
    }

    #[test]
    fn a_signed_in_user_travels_as_a_header() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::COOKIE,
            HeaderValue::from_static("a=b; bookinfo-user=jason"),
        );
        assert_eq!(handed_on(&headers)["end-user"], "jason");
        headers.insert(
            header::COOKIE,
            HeaderValue::from_static("bookinfo-user=a b"),
        );
        assert!(!handed_on(&headers).contains_key("end-user"));
    }
}
