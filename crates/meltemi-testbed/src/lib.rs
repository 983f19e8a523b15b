//! A real Kubernetes on one Linux machine, for tests and for people who try things.
//!
//! ```text
//!  up ──starts──► supervisor: PID 1 of a process namespace, in a network of its own (the switch)
//!                   │  kubeconfig: a listener on the machine's loopback, relayed to the API server
//!                   ├── n1: namespaces; etcd, API server, controllers, scheduler; containerd, kubelet, kube-proxy
//!                   └── n2: namespaces; containerd, kubelet, kube-proxy
//! ```
//! The programs are built from the Go module `testbed/kube` ([`program`]); containerd, runc and the network plugins are the
//! distribution's. A node is a set of namespaces around a process that only waits. Everything is a descendant of the
//! supervisor's process namespace, so the kernel ends all of it with the supervisor, however that ends; what then remains is
//! one folder and empty control groups, which `down` and the next `up` remove.
//!
//! It must not know Meltemi: what it runs is any cluster. It must not touch the machine's own network.

pub mod cluster;
pub mod image;
pub mod program;
pub mod smoke;
pub mod supervisor;

mod cgroup;
mod config;
mod kubectl;
mod manifests;
mod network;
mod node;
mod paths;
mod pki;
mod plan;
mod process;
mod relay;
mod tar;

pub use paths::State;
pub use plan::Plan;
