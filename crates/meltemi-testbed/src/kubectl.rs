//! The one client of the cluster that this crate uses.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use tokio::process::Command;

use crate::process;

#[derive(Clone, Debug)]
pub(crate) struct Kubectl {
    pub(crate) program: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    /// What kubectl remembers of a server goes by its address, which another cluster had yesterday.
    pub(crate) cache: PathBuf,
}

impl Kubectl {
    /// Runs one command; `input` is its standard input.
    pub(crate) async fn run(&self, args: &[&str], input: &str, limit: Duration) -> Result<String> {
        process::run(self.command(args), input, limit).await
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(&self.cache)
            .args(args);
        command
    }
}
