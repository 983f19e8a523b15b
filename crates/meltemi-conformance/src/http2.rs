//! HTTP/2 behaviour, case by case with the sections of RFC 9113 and RFC 7541, in both roles of the proxy.

pub mod frame;
pub mod peer;
