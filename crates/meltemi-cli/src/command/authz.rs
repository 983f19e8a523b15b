//! What is asked of authorization.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Namespace, PodArgs};
use crate::Format;

#[derive(Clone, Debug, Subcommand)]
#[non_exhaustive]
pub enum AuthzCommand {
    /// Lists the AuthorizationPolicies that a proxy enforces
    #[command(after_help = "\
Examples:
  meltemi authz check httpbin
  meltemi x authz check deploy/httpbin.shop -o json
  meltemi x authz check -f config_dump.json")]
    Check(PodArgs),
    /// Tells whether a call is allowed, by which policy, and where that is written
    #[command(after_help = "\
The policies of the running mesh - with -f as if those files were applied - become what the called workload's proxy would be given, \
and the proxy's own evaluator decides. Nothing is sent.

Exit status: 0 allowed, 77 denied, 64 the question is not understood, 65 a file or a name is not.

Examples:
  meltemi authz can sleep httpbin --method GET --path /headers
  meltemi authz can deploy/productpage-v1 reviews-v2 --port 9080
  meltemi authz can sleep httpbin -f deny-all.yaml -o json
  meltemi authz can sleep httpbin --path /headers --jwt \"$TOKEN\"
  meltemi authz can legacy httpbin --plain --header 'x-token: admin'")]
    Can(CanArgs),
}

#[derive(Clone, Debug, Args)]
pub struct CanArgs {
    /// The calling pod, as [type/]name[.namespace]; the name of its workload will do
    pub source: String,
    /// The called pod, likewise
    pub destination: String,
    #[command(flatten)]
    pub namespace: Namespace,
    /// The workload's port; needed if it serves several
    #[arg(short, long)]
    pub port: Option<u16>,
    /// The method of the request
    #[arg(short, long, default_value = "GET")]
    pub method: String,
    /// The path, with or without a query
    #[arg(long, default_value = "/")]
    pub path: String,
    /// The host that the request names; the called service without it
    #[arg(long)]
    pub host: Option<String>,
    /// A header of the request, as 'name: value'
    #[arg(short = 'H', long = "header", value_name = "HEADER", value_parser = header)]
    pub headers: Vec<(String, String)>,
    /// A token of the request, as RequestAuthentication asks for one; its signature is taken for good
    #[arg(long, value_name = "TOKEN")]
    pub jwt: Option<String>,
    /// Without mutual TLS, even where the caller has a sidecar
    #[arg(long)]
    pub plain: bool,
    /// Manifests that are judged as if they were applied
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| "write it as 'name: value'".to_owned())?;
    Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
}
