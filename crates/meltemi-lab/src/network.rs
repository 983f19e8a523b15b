//! The pods' network: one routed link per pod, and a node in the middle that forwards.
//!
//! ```text
//! pod netns                         node netns (the supervisor's own)
//! eth0 10.244.0.5/32  ------------  mv5  169.254.1.1/32, route 10.244.0.5/32
//! default via 169.254.1.1           lo   10.244.0.1, 10.96.0.10; local 10.96.0.0/16
//! ```
//! There is no bridge: pods meet only through the node's routing, so connection tracking sees every packet and Service
//! addresses need no second mechanism. Namespaces have no names; they end with the last descriptor and process.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth};
use rtnetlink::packet_route::route::{RouteScope, RouteType};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::task::spawn_blocking;

use crate::sys;

/// The node's address: where probes come from, and `status.hostIP` of every pod.
pub(crate) const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// The address of the cluster's DNS server.
pub(crate) const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The network of Service addresses.
pub(crate) const SERVICE_NETWORK: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 96, 0, 0), 16);
const POD_NETWORK: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 244, 0, 0), 16);
/// The pods' gateway, the same on every link; link-local, so it never meets a pod's own traffic.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The kernel's table of local routes (rtnetlink(7), RT_TABLE_LOCAL).
const LOCAL_TABLE: u32 = 255;

/// The node's end of the network.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    netlink: Handle,
}

/// One pod's namespaces and link.
#[derive(Debug)]
pub(crate) struct PodNetwork {
    netns: OwnedFd,
    uts: OwnedFd,
    /// The index of the node's end of the link.
    link: u32,
}

impl Node {
    /// Turns the caller's fresh network namespace into the node.
    pub(crate) async fn set_up() -> Result<Self> {
        let netlink = netlink()?;
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot turn on forwarding")?;
        let loopback = link_index(&netlink, "lo").await?;
        bring_up(&netlink, loopback).await?;
        for address in [NODE_ADDRESS, DNS_ADDRESS] {
            netlink
                .address()
                .add(loopback, address.into(), 32)
                .execute()
                .await?;
        }
        // A Service address without endpoints is refused at once, as kube-proxy's reject rule does.
        let services = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(SERVICE_NETWORK.0, SERVICE_NETWORK.1)
            .output_interface(loopback)
            .kind(RouteType::Local)
            .scope(RouteScope::Host)
            .table_id(LOCAL_TABLE);
        netlink.route().add(services.build()).execute().await?;
        let nobody = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(POD_NETWORK.0, POD_NETWORK.1)
            .kind(RouteType::Unreachable);
        netlink.route().add(nobody.build()).execute().await?;
        Ok(Self { netlink })
    }

    /// Makes a pod's namespaces and connects them.
    pub(crate) async fn connect(&self, hostname: &str, address: Ipv4Addr) -> Result<PodNetwork> {
        let name = link_name(address);
        let (hostname, peer) = (hostname.to_owned(), name.clone());
        let (netns, uts) = spawn_blocking(move || {
            in_own_thread(move || make_namespaces(&hostname, &peer, address))
        })
        .await?
        .with_context(|| format!("cannot make the network of {address}"))?;
        let link = link_index(&self.netlink, &name).await?;
        bring_up(&self.netlink, link).await?;
        self.netlink
            .address()
            .add(link, GATEWAY.into(), 32)
            .execute()
            .await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, 32)
            .output_interface(link)
            .scope(RouteScope::Link)
            .pref_source(NODE_ADDRESS);
        self.netlink.route().add(route.build()).execute().await?;
        Ok(PodNetwork { netns, uts, link })
    }

    /// Takes a pod's link away; the namespaces end with their last process.
    pub(crate) async fn disconnect(&self, network: &PodNetwork) -> Result<()> {
        Ok(self.netlink.link().del(network.link).execute().await?)
    }
}

impl PodNetwork {
    /// Paths by which a child of this process joins the pod's namespaces.
    pub(crate) fn paths(&self) -> [std::path::PathBuf; 2] {
        let path =
            |fd: &OwnedFd| format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()).into();
        [path(&self.netns), path(&self.uts)]
    }

    /// Connects from inside the pod.
    pub(crate) fn dial(&self, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        let netns = self.netns.try_clone()?;
        in_own_thread(move || {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            TcpStream::connect_timeout(&to, timeout)
        })
    }

    /// Opens a socket that sees every frame on the pod's link, from the node's side.
    pub(crate) fn packets(&self) -> io::Result<OwnedFd> {
        sys::packet_socket(self.link)
    }
}

/// Fits the kernel's 15 characters for any pod address.
fn link_name(address: Ipv4Addr) -> String {
    let [_, _, high, low] = address.octets();
    format!("mv{}", u16::from_be_bytes([high, low]))
}

/// Namespaces belong to threads: what changes them runs in a thread that ends afterwards.
fn in_own_thread<T: Send + 'static, E: From<io::Error> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    let thread = std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(work)?;
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("a namespace thread panicked").into()))
}

fn make_namespaces(hostname: &str, peer: &str, address: Ipv4Addr) -> Result<(OwnedFd, OwnedFd)> {
    let node: OwnedFd = File::open("/proc/thread-self/ns/net")?.into();
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS)
        .context("cannot make namespaces")?;
    nix::unistd::sethostname(hostname)?;
    // As container runtimes do: a server on port 80 needs no privilege in its own network.
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
        .context("cannot open low ports")?;
    // IPv4 only; absent where the kernel has no IPv6.
    if let Err(error) = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1") {
        tracing::debug!(%error, "cannot turn off IPv6 on the pod's link");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(link_up(&node, peer, address))?;
    Ok((
        File::open("/proc/thread-self/ns/net")?.into(),
        File::open("/proc/thread-self/ns/uts")?.into(),
    ))
}

/// Makes the link from inside the pod, with its other end in the node.
async fn link_up(node: &OwnedFd, peer: &str, address: Ipv4Addr) -> Result<()> {
    let netlink = netlink()?;
    bring_up(&netlink, link_index(&netlink, "lo").await?).await?;
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(peer)
        .setns_by_fd(node.as_raw_fd())
        .build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name("eth0")
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
    netlink
        .link()
        .add(pair.build())
        .execute()
        .await
        .context("cannot make the link")?;
    let link = link_index(&netlink, "eth0").await?;
    netlink
        .address()
        .add(link, address.into(), 32)
        .execute()
        .await?;
    bring_up(&netlink, link).await?;
    let gateway = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(GATEWAY, 32)
        .output_interface(link)
        .scope(RouteScope::Link);
    netlink
        .route()
        .add(gateway.build())
        .execute()
        .await
        .context("cannot route to the gateway")?;
    let default = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
        .gateway(GATEWAY);
    netlink
        .route()
        .add(default.build())
        .execute()
        .await
        .context("cannot set the default route")?;
    Ok(())
}

fn netlink() -> Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection().context("cannot open netlink")?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn link_index(netlink: &Handle, name: &str) -> Result<u32> {
    let mut links = netlink.link().get().match_name(name).execute();
    let link = links
        .try_next()
        .await?
        .with_context(|| format!("there is no link {name}"))?;
    Ok(link.header.index)
}

async fn bring_up(netlink: &Handle, index: u32) -> Result<()> {
    Ok(netlink
        .link()
        .set(LinkUnspec::new_with_index(index).up().build())
        .execute()
        .await?)
}
