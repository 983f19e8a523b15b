//! Network namespaces and the links between them.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

/// All links are of this size.
const PREFIX: u8 = 24;

/// A network namespace, which lives as long as this handle or a process in it.
#[derive(Debug)]
pub(crate) struct Namespace(OwnedFd);

/// One end of a link.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) name: &'static str,
    pub(crate) address: Ipv4Addr,
}

impl Namespace {
    pub(super) fn current() -> anyhow::Result<Self> {
        let namespace = Self::of_thread()?;
        namespace.up("lo")?;
        Ok(namespace)
    }

    pub(super) fn new() -> anyhow::Result<Self> {
        let namespace = in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
            Self::of_thread()
        })?;
        namespace.up("lo")?;
        Ok(namespace)
    }

    fn of_thread() -> anyhow::Result<Self> {
        Ok(Self(File::open("/proc/thread-self/ns/net")?.into()))
    }

    /// Moves the calling thread here.
    pub(super) fn enter(&self) -> anyhow::Result<()> {
        setns(&self.0, CloneFlags::CLONE_NEWNET).context("entering a network namespace")
    }

    /// Connects two namespaces.
    pub(super) fn link(&self, mine: &Link, other: &Self, theirs: &Link) -> anyhow::Result<()> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(theirs.name)
            .setns_by_fd(other.0.as_raw_fd())
            .build();
        let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(mine.name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        self.netlink(async |netlink| Ok(netlink.link().add(pair).execute().await?))
            .with_context(|| format!("making the link {}", mine.name))?;
        for (namespace, end) in [(self, mine), (other, theirs)] {
            namespace.add_address(end.name, end.address, PREFIX)?;
            namespace.up(end.name)?;
        }
        Ok(())
    }

    pub(super) fn add_address(
        &self,
        link: &str,
        address: Ipv4Addr,
        prefix: u8,
    ) -> anyhow::Result<()> {
        self.netlink(async |netlink| {
            let index = index(&netlink, link).await?;
            let add = netlink.address().add(index, address.into(), prefix);
            Ok(add.execute().await?)
        })
        .with_context(|| format!("adding {address} to {link}"))
    }

    pub(super) fn route_all(&self, gateway: Ipv4Addr) -> anyhow::Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
            .gateway(gateway)
            .build();
        self.netlink(async |netlink| Ok(netlink.route().add(route).execute().await?))
            .context("setting the default route")
    }

    fn up(&self, link: &str) -> anyhow::Result<()> {
        self.netlink(async |netlink| {
            let index = index(&netlink, link).await?;
            let up = LinkUnspec::new_with_index(index).up().build();
            Ok(netlink.link().set(up).execute().await?)
        })
        .with_context(|| format!("bringing {link} up"))
    }

    /// Speaks netlink inside the namespace.
    fn netlink<F>(&self, work: impl FnOnce(Handle) -> F + Send) -> anyhow::Result<()>
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        in_thread(|| {
            self.enter()?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()?;
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection()?;
                let connection = tokio::spawn(connection);
                let done = work(handle).await;
                connection.abort();
                done
            })
        })
    }
}

async fn index(netlink: &Handle, name: &str) -> anyhow::Result<u32> {
    let mut links = netlink.link().get().match_name(name.to_owned()).execute();
    let link = links.try_next().await?;
    Ok(link
        .with_context(|| format!("there is no link {name}"))?
        .header
        .index)
}

/// Namespaces belong to threads: what changes them runs in one that ends afterwards.
pub(super) fn in_thread<T: Send>(
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let joined = scope.spawn(work).join();
        joined.unwrap_or_else(|_| Err(anyhow::anyhow!("a thread of the rig panicked")))
    })
}
