//! `authz`: who may call what. `check` reads what a proxy enforces; `can` asks the proxy's own evaluator about one call.

mod call;
mod can;
mod check;

use meltemi_core::ObjectRef;

use crate::command::AuthzCommand;
use crate::{Access, CliError, Io};

pub(crate) async fn run(
    command: &AuthzCommand,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    match command {
        AuthzCommand::Check(args) => check::run(args, access, io).await,
        AuthzCommand::Can(args) => can::run(args, access, io).await,
    }
}

/// A rule by the name that proxies call it: `ns[a]-policy[b]-rule[0]`, for CUSTOM with more around it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    policy: ObjectRef,
    index: usize,
    is_custom: bool,
}

impl Rule {
    fn parse(name: &str) -> Option<Self> {
        let start = name.find("ns[")?;
        let (prefix, rest) = name.split_at_checked(start)?;
        let (namespace, rest) = rest.strip_prefix("ns[")?.split_once("]-policy[")?;
        let (policy, rest) = rest.split_once("]-rule[")?;
        let (index, _) = rest.split_once(']')?;
        Some(Self {
            policy: ObjectRef::new("AuthorizationPolicy", namespace, policy),
            index: index.parse().ok()?,
            is_custom: prefix.starts_with("istio-ext-authz"),
        })
    }
}

#[cfg(test)]
mod tests;
