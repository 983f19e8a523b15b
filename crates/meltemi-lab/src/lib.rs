//! The lab: a mesh of ordinary Kubernetes manifests on one Linux machine, without Kubernetes.
//!
//! ```text
//! commands (cli, client) --lab.sock, fds.sock--> daemon --> cluster: one task, owner of all state
//!                                                            | admission: defaults and the sidecar (meltemi-inject)
//!                                                            | controllers: what must run (pure: controller)
//!                                                            | publish: endpoints -> nft, DNS, the control plane's files
//!                                                            v
//!                                                          pod workers: network, volumes, containers, probes
//!                                                            v
//!                                                          enter: namespaces, root, ids, capabilities -> the program
//! ```
//! A pod is a network namespace; its containers are processes in it; an image is a command. The injector, the capture
//! rules, the control plane and the proxy are the ones that ship, and the lab knows of them no more than a cluster does:
//! the injector is called where a webhook would be, the control plane is a pod that reads files.
//!
//! A user of this crate calls [`launch::intercept`] first in `main`, because a lab consists of re-executions of its program.

pub mod cli;
pub mod client;
pub mod launch;
pub mod paths;
pub mod wire;

mod daemon;
mod supervisor;

mod cluster;
mod controller;
mod store;
mod unsupported;

mod pod;

mod children;
mod dns;
mod enter;
mod images;
mod machine_pids;
mod network;
mod rootfs;
mod sys;
mod tokens;
mod vip;
