use std::path::{Path, PathBuf};

/// The folder that holds `samples` and `docs`.
///
/// # Panics
/// The tests were moved away from it.
pub fn project_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the project's root exists")
}

/// The path of one of our own samples, such as `bookinfo/platform/kube/bookinfo.yaml`.
pub fn sample(path: &str) -> String {
    project_root()
        .join("samples")
        .join(path)
        .to_string_lossy()
        .into_owned()
}

/// The path of one of Istio's own, unmodified samples; our own of the same name, said loudly, where they are not at hand.
///
/// # Panics
/// We have none of that name.
pub fn istio(path: &str) -> String {
    let ours = sample(path);
    assert!(Path::new(&ours).exists(), "{ours} is missing");
    let original = project_root()
        .join("../shared/data/istio/samples")
        .join(path);
    if original.exists() {
        return original.to_string_lossy().into_owned();
    }
    println!("Istio's own samples/{path} is not at hand: testing with ours");
    ours
}
