use meltemi_core::Diagnostic;
use crate::Mesh;
pub fn analyze(_mesh: &Mesh) -> Vec<Diagnostic> { Vec::new() }
