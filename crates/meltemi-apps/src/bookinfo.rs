//! Work-alikes of the four services of Istio's bookinfo sample: same ports, paths, JSON and environment.

mod details;
mod outgoing;
mod productpage;
mod ratings;
mod reviews;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Service {
    /// The page: calls details and reviews.
    Productpage(Port),
    /// Facts about a book.
    Details(Port),
    /// Reviews of a book; calls ratings unless ENABLE_RATINGS is false.
    Reviews(Port),
    /// Stars for each reviewer.
    Ratings(Port),
}

#[derive(Debug, Args)]
pub(crate) struct Port {
    /// The port to listen on.
    #[arg(default_value_t = 9080)]
    port: u16,
}

pub(crate) async fn run(service: Service) -> anyhow::Result<()> {
    match service {
        Service::Productpage(Port { port }) => crate::serve::http(port, productpage::app()).await,
        Service::Details(Port { port }) => crate::serve::http(port, details::app()).await,
        Service::Reviews(Port { port }) => crate::serve::http(port, reviews::app()).await,
        Service::Ratings(Port { port }) => crate::serve::http(port, ratings::app()).await,
    }
}
