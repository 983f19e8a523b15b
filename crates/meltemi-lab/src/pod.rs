//! A pod as a kubelet runs it: from its spec to processes, and from processes to its status.

pub(crate) mod backoff;
pub(crate) mod container;
pub(crate) mod env;
pub(crate) mod events;
pub(crate) mod logs;
pub(crate) mod probe;
pub(crate) mod status;
pub(crate) mod volumes;
pub(crate) mod worker;
