use crate::Mesh;
use meltemi_core::Diagnostic;
pub fn analyze(_mesh: &Mesh) -> Vec<Diagnostic> {
    Vec::new()
}
