//! The service of Istio's helloworld sample: it says which version and which pod answered.

use axum::Router;
use axum::routing::get;
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The port to listen on.
    #[arg(long, default_value_t = 5000)]
    port: u16,
    #[arg(long, env = "SERVICE_VERSION", default_value = "unknown", hide = true)]
    version: String,
    /// Kubernetes gives every container its pod's name.
    #[arg(long, env = "HOSTNAME", default_value = "unknown", hide = true)]
    instance: String,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let hello = greeting(&options.version, &options.instance);
    let app = Router::new()
        .route("/hello", get(|| async { hello }))
        .route("/health", get(|| async { "Helloworld is healthy" }));
    crate::serve::http(options.port, app).await
}

fn greeting(version: &str, instance: &str) -> String {
    format!("Hello version: {version}, instance: {instance}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_guides_count_by() {
        assert_eq!(
            greeting("v2", "helloworld-v2-x"),
            "Hello version: v2, instance: helloworld-v2-x\n"
        );
    }
}
