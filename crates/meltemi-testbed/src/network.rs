//! The links between the nodes: a bridge in the supervisor's own network namespace, and one cable for each node.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::process::Command;

use crate::plan::{Node, Plan, SWITCH};
use crate::process;

const IP_LIMIT: Duration = Duration::from_secs(10);

/// Makes the bridge in the calling process's network namespace, which must be its own.
///
/// # Errors
/// `ip` fails.
pub(crate) async fn make_switch() -> Result<()> {
    ip(None, &switch()).await?;
    // What leads out of the cluster is answered, not swallowed: the bridge routes, and has no route.
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")
        .context("cannot let the switch forward in its own namespace")
}

/// Connects a node, whose first process this is, with the bridge.
///
/// # Errors
/// `ip` fails.
pub(crate) async fn connect(plan: Plan, node: Node, pid: u32) -> Result<()> {
    ip(None, &cable(node, pid)).await?;
    ip(Some(pid), &node_side(plan, node)).await
}

/// Runs commands of ip-batch(8), in the namespace of a process or in the caller's.
async fn ip(inside: Option<u32>, batch: &str) -> Result<()> {
    let command = match inside {
        Some(pid) => {
            let mut command = Command::new("nsenter");
            command.args(["-t", &pid.to_string(), "-n", "ip", "-batch", "-"]);
            command
        }
        None => {
            let mut command = Command::new("ip");
            command.args(["-batch", "-"]);
            command
        }
    };
    process::run(command, batch, IP_LIMIT).await?;
    Ok(())
}

fn switch() -> String {
    format!(
        "\
link set lo up
link add nodes type bridge
address add {SWITCH}/24 dev nodes
link set nodes up
route add unreachable default
"
    )
}

fn cable(node: Node, pid: u32) -> String {
    let name = node.name();
    format!(
        "\
link add {name} type veth peer name eth0 netns {pid}
link set {name} master nodes
link set {name} up
route add {} via {}
",
        node.pod_range(),
        node.address()
    )
}

fn node_side(plan: Plan, node: Node) -> String {
    let mut batch = format!(
        "\
link set lo up
address add {}/24 dev eth0
link set eth0 up
route add default via {SWITCH}
",
        node.address()
    );
    for other in plan.nodes().filter(|other| *other != node) {
        batch += &format!("route add {} via {}\n", other.pod_range(), other.address());
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_knows_the_way_to_the_pods_of_the_others() {
        let plan = Plan::new(2).unwrap();
        let batch = node_side(plan, plan.first());
        assert!(batch.contains("address add 10.240.0.11/24 dev eth0\n"));
        assert!(batch.ends_with("route add 10.244.2.0/24 via 10.240.0.12\n"));
    }
}
