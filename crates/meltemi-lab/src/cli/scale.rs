//! `scale`: kubectl's way to set how many pods a workload has.

use std::process::ExitCode;

use clap::Args;

use super::{Namespace, objects};
use crate::client::LabClient;
use crate::wire;

/// One machine holds no more.
const LIMIT: i64 = 1000;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  meltemi lab scale deploy/reviews-v1 --replicas 3\n  meltemi lab scale deploy reviews-v1 ratings-v1 --replicas 0"
)]
pub(super) struct Options {
    /// KIND/NAME... or KIND NAME... of Deployments, StatefulSets or ReplicaSets.
    #[arg(required = true)]
    words: Vec<String>,
    /// How many pods there shall be.
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=LIMIT))]
    replicas: u32,
    #[command(flatten)]
    namespace: Namespace,
}

pub(super) async fn scale(client: &LabClient, options: &Options) -> anyhow::Result<ExitCode> {
    for (kind, name) in objects::targets(&options.words)? {
        let scale = wire::Scale {
            kind: kind.kind.to_owned(),
            name,
            namespace: options.namespace.namespace.clone(),
            replicas: options.replicas,
        };
        objects::print(&client.scale(&scale).await?)?;
    }
    Ok(ExitCode::SUCCESS)
}
