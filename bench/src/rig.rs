//! The machine of one run: network namespaces, links, redirection, and where each thing runs.
//!
//! ```text
//! node namespace (this process)          control plane, 10.78.9.1
//!        │ 10.78.1.0/24                           │ 10.78.2.0/24
//! ┌──────┴───────────────┐  10.78.0.0/24  ┌───────┴──────────────┐
//! │ front: load, proxy A ├────────────────┤ back: proxy B, server│
//! └──────────────────────┘                └──────────────────────┘
//! ```
//! As in a pod, what the load generator sends to a Service address is redirected to proxy A, and what arrives at the
//! server's ports is redirected to proxy B: the same two rules for every proxy that is measured. Load and server share
//! CPU 0, the proxies CPU 1. Everything ends with this process: the namespaces have no names.

mod netns;
mod place;
mod process;

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Context as _;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use netns::{Link, Namespace};
pub(crate) use place::{Place, has_priority};
pub(crate) use process::{Process, Usage, end_all};

/// The Service address that the load calls.
pub(crate) const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The Service addresses of a large mesh.
pub(crate) const MEMBERS: &str = "10.97.0.0/16";
/// Address of proxy A's pod.
pub(crate) const FRONT: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
/// Address of proxy B's pod.
pub(crate) const BACK: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 3);
/// Where proxies are redirected to, as Istio numbers them.
pub(crate) const OUTBOUND: u16 = 15001;
pub(crate) const INBOUND: u16 = 15006;
/// The name by which proxies find the control plane.
pub(crate) const CONTROL_PLANE: &str = "istiod.istio-system.svc";

const NODE_FRONT: Ipv4Addr = Ipv4Addr::new(10, 78, 1, 1);
const NODE_BACK: Ipv4Addr = Ipv4Addr::new(10, 78, 2, 1);
const CONTROL: Ipv4Addr = Ipv4Addr::new(10, 78, 9, 1);

/// The CPU of load and server, and that of the proxies.
const LOAD_CPU: usize = 0;
const PROXY_CPU: usize = 1;

/// The CPUs of the proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cpus {
    One,
    /// Shared with load and server.
    Both,
}

/// A port of the server, by what is spoken there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Http1,
    Http2,
    Tcp,
    /// TLS that the load generator terminates itself: the peer of proxy A in handshake figures.
    TlsEcdsa,
    TlsRsa,
    TlsHybrid,
}

impl Port {
    pub(crate) const ALL: [Self; 6] = [
        Self::Http1,
        Self::Http2,
        Self::Tcp,
        Self::TlsEcdsa,
        Self::TlsRsa,
        Self::TlsHybrid,
    ];

    /// The port of the Service.
    pub(crate) fn service(self) -> u16 {
        80 + self.index()
    }

    /// The port of the server, which proxy B takes over where it speaks plaintext.
    pub(crate) fn target(self) -> u16 {
        8080 + self.index()
    }

    /// The same server without redirection.
    pub(crate) fn direct(self) -> u16 {
        9080 + self.index()
    }

    /// Whether proxy B stands before it.
    pub(crate) fn is_redirected(self) -> bool {
        !matches!(self, Self::TlsEcdsa | Self::TlsRsa | Self::TlsHybrid)
    }

    fn index(self) -> u16 {
        match self {
            Self::Http1 => 0,
            Self::Http2 => 1,
            Self::Tcp => 2,
            Self::TlsEcdsa => 3,
            Self::TlsRsa => 4,
            Self::TlsHybrid => 5,
        }
    }
}

/// The namespaces of a run.
#[derive(Debug)]
pub(crate) struct Rig {
    front: Namespace,
    back: Namespace,
}

impl Rig {
    /// Moves this process into namespaces of its own and makes those of the two pods.
    ///
    /// Must be called before any thread is started: namespaces belong to threads, and later ones inherit them.
    ///
    /// # Errors
    /// The kernel refuses namespaces, links or rules.
    pub(crate) fn set_up(folder: &Path) -> anyhow::Result<Self> {
        become_node(folder)?;
        let (node, front, back) = (Namespace::current()?, Namespace::new()?, Namespace::new()?);
        node.add_address("lo", CONTROL, 32)?;
        node.link(
            &Link {
                name: "front",
                address: NODE_FRONT,
            },
            &front,
            &Link {
                name: "node",
                address: Ipv4Addr::new(10, 78, 1, 2),
            },
        )?;
        node.link(
            &Link {
                name: "back",
                address: NODE_BACK,
            },
            &back,
            &Link {
                name: "node",
                address: Ipv4Addr::new(10, 78, 2, 2),
            },
        )?;
        front.link(
            &Link {
                name: "peer",
                address: FRONT,
            },
            &back,
            &Link {
                name: "peer",
                address: BACK,
            },
        )?;
        // The default route is also that of Service addresses, which the rule below redirects before they leave.
        front.route_all(NODE_FRONT)?;
        back.route_all(NODE_BACK)?;
        let rig = Self { front, back };
        rig.redirect()?;
        Ok(rig)
    }

    /// Beside the load generator.
    pub(crate) fn load(&self) -> Place<'_> {
        Place::new(&self.front, &[LOAD_CPU])
    }

    /// Beside the server.
    pub(crate) fn server(&self) -> Place<'_> {
        Place::new(&self.back, &[LOAD_CPU])
    }

    /// Where proxy A runs.
    pub(crate) fn proxy_a(&self, cpus: Cpus) -> Place<'_> {
        Place::new(&self.front, cpus.list())
    }

    pub(crate) fn proxy_b(&self, cpus: Cpus) -> Place<'_> {
        Place::new(&self.back, cpus.list())
    }

    fn redirect(&self) -> anyhow::Result<()> {
        let ports: Vec<String> = Port::ALL
            .into_iter()
            .filter(|port| port.is_redirected())
            .map(|port| port.target().to_string())
            .collect();
        let front = format!(
            "table ip bench {{ chain output {{ type nat hook output priority -100; ip daddr {{ {SERVICE}, {MEMBERS} }} tcp dport 1-65535 redirect to :{OUTBOUND}\n}}\n}}\n"
        );
        let back = format!(
            "table ip bench {{ chain input {{ type nat hook prerouting priority -100; iifname \"peer\" tcp dport {{ {} }} redirect to :{INBOUND}\n}}\n}}\n",
            ports.join(", ")
        );
        self.load().nft(&front)?;
        self.server().nft(&back)
    }
}

impl Cpus {
    fn list(self) -> &'static [usize] {
        match self {
            Self::One => &[PROXY_CPU],
            Self::Both => &[LOAD_CPU, PROXY_CPU],
        }
    }
}

/// A network of its own, and a file of host names that nobody else sees. Without root, in a user namespace.
fn become_node(folder: &Path) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
        unshare(CloneFlags::CLONE_NEWUSER)
            .context("user namespaces are not allowed: run as root")?;
        std::fs::write("/proc/self/setgroups", "deny").context("giving up groups")?;
        std::fs::write("/proc/self/uid_map", format!("0 {uid} 1")).context("mapping the user")?;
        std::fs::write("/proc/self/gid_map", format!("0 {gid} 1")).context("mapping the group")?;
    }
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("making namespaces")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("keeping mounts to ourselves")?;
    let hosts = folder.join("hosts");
    std::fs::write(
        &hosts,
        format!("127.0.0.1 localhost\n{CONTROL} {CONTROL_PLANE}\n"),
    )?;
    mount(Some(&hosts), "/etc/hosts", none, MsFlags::MS_BIND, none).context("binding /etc/hosts")
}
