//! Manifests in; resources, and what they do to a call, out.

mod golden;
mod incremental;
mod shapes;
mod support;
