//! What the targets in `fuzz/` do with an input, and the inputs that are kept there.
//!
//! A target panics where a property does not hold. `fuzz/` takes these files as they are: the whole crate would bring its
//! crypto library, which need not be instrumented.

mod sniff;

use std::path::Path;

use crate::http1::fuzzing::{chunked_body, wire_head};

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let result = std::panic::catch_unwind(|| run(&bytes));
        assert!(result.is_ok(), "{}", path.display());
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}

#[test]
fn kept_inputs_of_sniff() {
    replay("sniff", sniff::sniff);
}

#[test]
fn kept_inputs_of_chunked_body() {
    replay("chunked_body", chunked_body);
}

#[test]
fn kept_inputs_of_wire_head() {
    replay("wire_head", wire_head);
}
