mod service;
mod signer;
mod token;

use std::time::SystemTime;

use meltemi_core::{Identity, TrustDomain};

fn now() -> SystemTime {
    SystemTime::now()
}

fn id(service_account: &str) -> Identity {
    Identity::new(TrustDomain::default(), "default", service_account).unwrap()
}
