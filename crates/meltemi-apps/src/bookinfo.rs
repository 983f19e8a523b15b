//! Work-alikes of the four services of Istio's bookinfo sample: same ports, paths, JSON and environment; and what stands
//! in for its databases.

mod database;
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
    /// Stars for each reviewer; version 2 asks a database where MONGO_DB_URL or DB_TYPE=mysql names one.
    Ratings(Port),
    /// Stands in for MongoDB as ratings' database.
    Mongodb(database::Options),
    /// Stands in for MySQL as ratings' database.
    Mysqldb(database::Options),
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
        Service::Mongodb(options) => database::mongo(options).await,
        Service::Mysqldb(options) => database::mysql(options).await,
    }
}
