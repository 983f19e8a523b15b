//! Manifests in; resources, and what they do to a call, out.

mod envoy;
mod golden;
mod incremental;
mod shapes;
mod sharing;
mod simulation;
mod support;
