//! The proxies that are compared, each started as a fresh pair for every group of tests.

mod envoy;
mod haproxy;
pub(crate) mod mesh;
mod ours;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::load::Kind;
use crate::load::tls::Terms;
use crate::pki::Pki;
pub(crate) use crate::rig::Cpus;
use crate::rig::{Place, Port, Process, Rig, Usage};

const READY_LIMIT: Duration = Duration::from_secs(30);
const READY_POLL: Duration = Duration::from_millis(20);

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Peer {
    /// No proxy at all.
    Direct,
    Ours,
    Envoy,
    Haproxy,
}

impl Peer {
    pub(crate) const ALL: [Self; 4] = [Self::Direct, Self::Ours, Self::Envoy, Self::Haproxy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Ours => "ours",
            Self::Envoy => "Envoy",
            Self::Haproxy => "HAProxy",
        }
    }
}

/// What a pair is configured for. Ours carries everything with one configuration; the others get what they need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
    Tcp,
    /// Proxy A leads to the load generator's own TLS server on these terms, proxy B to TCP.
    Tls(Terms),
}

impl Protocol {
    /// The port that the load calls.
    pub(crate) fn port(self) -> Port {
        match self {
            Self::Http1 => Port::Http1,
            Self::Http2 => Port::Http2,
            Self::Tcp => Port::Tcp,
            Self::Tls(terms) => terms.port(),
        }
    }

    /// The port behind proxy B.
    pub(crate) fn port_b(self) -> Port {
        match self {
            Self::Tls(_) => Port::Tcp,
            _ => self.port(),
        }
    }

    /// What shows that a pair serves.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Http1 => Kind::Http1,
            Self::Http2 => Kind::Http2,
            Self::Tcp => Kind::Bytes,
            Self::Tls(_) => Kind::Connections,
        }
    }
}

/// The programs of a run.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) proxy: PathBuf,
    pub(crate) control_plane: PathBuf,
    pub(crate) envoy: Option<PathBuf>,
    pub(crate) haproxy: Option<PathBuf>,
}

/// Everything that pairs are started from.
#[derive(Debug)]
pub(crate) struct Fleet<'rig> {
    rig: &'rig Rig,
    pki: Pki,
    folder: PathBuf,
    programs: Programs,
    /// Runs for the whole campaign and is idle while proxies are measured.
    control_plane: Process,
}

/// Proxy A and proxy B; neither for [`Peer::Direct`].
#[derive(Debug, Default)]
pub(crate) struct Pair {
    pub(crate) a: Option<Process>,
    pub(crate) b: Option<Process>,
}

/// A proxy that gets its configuration from the control plane.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) proxy: Process,
    /// Gets Envoy its certificate.
    _agent: Option<Process>,
}

impl Pair {
    /// What both have used.
    ///
    /// # Errors
    /// One has ended.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        let mut sum = Usage::default();
        for process in self.a.iter().chain(&self.b) {
            sum = sum + process.usage()?;
        }
        Ok(sum)
    }
}

impl<'rig> Fleet<'rig> {
    /// Founds the authority and starts the control plane.
    ///
    /// # Errors
    /// A file cannot be written or the program not be started.
    pub(crate) fn new(rig: &'rig Rig, folder: &Path, programs: Programs) -> anyhow::Result<Self> {
        let pki = Pki::found(&folder.join("state"))?;
        let control_plane = ours::control_plane(&pki, folder, &programs.control_plane)?;
        Ok(Self {
            rig,
            pki,
            folder: folder.to_owned(),
            programs,
            control_plane,
        })
    }

    pub(crate) fn control_plane(&self) -> &Process {
        &self.control_plane
    }

    pub(crate) fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The peers whose programs are here.
    pub(crate) fn peers(&self) -> Vec<Peer> {
        let is_here = |peer: &Peer| match peer {
            Peer::Direct | Peer::Ours => true,
            Peer::Envoy => self.programs.envoy.is_some(),
            Peer::Haproxy => self.programs.haproxy.is_some(),
        };
        Peer::ALL.into_iter().filter(is_here).collect()
    }

    /// Starts a pair, which may not serve yet when this returns.
    ///
    /// # Errors
    /// A program cannot be started.
    pub(crate) fn start(
        &self,
        peer: Peer,
        protocol: Protocol,
        workers: usize,
        cpus: Cpus,
    ) -> anyhow::Result<Pair> {
        let Some([a, b]) = self.commands(peer, protocol, workers)? else {
            return Ok(Pair::default());
        };
        Ok(Pair {
            b: Some(self.rig.proxy_b(cpus).spawn(b)?),
            a: Some(self.rig.proxy_a(cpus).spawn(a)?),
        })
    }

    /// Starts proxy A alone.
    ///
    /// # Errors
    /// The program cannot be started.
    pub(crate) fn start_a(&self, peer: Peer, protocol: Protocol) -> anyhow::Result<Process> {
        let commands = self.commands(peer, protocol, 1)?;
        let [a, _] = commands.ok_or_else(|| anyhow::anyhow!("no proxy to start"))?;
        self.rig.proxy_a(Cpus::One).spawn(a)
    }

    /// The services beside the measured one, none yet.
    pub(crate) fn mesh(&self) -> mesh::Mesh {
        mesh::Mesh::new(self.folder.join("config/members.yaml"))
    }

    /// Starts proxy A alone, with the full set from the control plane; nothing for peers that take none.
    ///
    /// # Errors
    /// A program cannot be started.
    pub(crate) fn subscriber(&self, peer: Peer) -> anyhow::Result<Option<Subscriber>> {
        let place = self.rig.proxy_a(Cpus::One);
        Ok(match peer {
            Peer::Direct | Peer::Haproxy => None,
            Peer::Ours => Some(Subscriber {
                proxy: place.spawn(ours::subscriber(self)?)?,
                _agent: None,
            }),
            Peer::Envoy => {
                let (agent, bootstrap) = ours::envoy_agent(self)?;
                let agent = place.spawn(agent)?;
                wait_for(place, &bootstrap)?;
                Some(Subscriber {
                    proxy: place.spawn(envoy::subscriber(self, &bootstrap)?)?,
                    _agent: Some(agent),
                })
            }
        })
    }

    /// Starts a pair of ours that asks for what it uses.
    ///
    /// # Errors
    /// The program cannot be started.
    pub(crate) fn on_demand(&self) -> anyhow::Result<Pair> {
        let [a, b] = ours::on_demand(self)?;
        Ok(Pair {
            b: Some(self.rig.proxy_b(Cpus::One).spawn(b)?),
            a: Some(self.rig.proxy_a(Cpus::One).spawn(a)?),
        })
    }

    fn commands(
        &self,
        peer: Peer,
        protocol: Protocol,
        workers: usize,
    ) -> anyhow::Result<Option<[Command; 2]>> {
        Ok(match peer {
            Peer::Direct => None,
            Peer::Ours => Some(ours::pair(self, workers)?),
            Peer::Envoy => Some(envoy::pair(self, protocol, workers)?),
            Peer::Haproxy => Some(haproxy::pair(self, protocol, workers)?),
        })
    }

    /// A command whose output goes to a file of the run.
    fn command(&self, program: &Path, log: &str) -> anyhow::Result<Command> {
        command(&self.folder, program, log)
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }
}

/// Waits for a file that a process writes when it is ready.
fn wait_for(place: Place<'_>, file: &Path) -> anyhow::Result<()> {
    let start = Instant::now();
    while !file.exists() {
        anyhow::ensure!(
            start.elapsed() < READY_LIMIT,
            "nothing writes {}",
            file.display()
        );
        place.pause(READY_POLL)?;
    }
    Ok(())
}

fn command(folder: &Path, program: &Path, log: &str) -> anyhow::Result<Command> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join(log))?;
    let mut command = Command::new(program);
    command.stdout(log.try_clone()?).stderr(Stdio::from(log));
    Ok(command)
}
