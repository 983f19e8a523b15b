//! What the allocator keeps.
#![allow(unsafe_code, reason = "mimalloc is a C library")]

// Links the library.
use mimalloc as _;

unsafe extern "C" {
    /// `mimalloc.h`; the crate declares it behind a feature that brings another dependency.
    fn mi_collect(force: bool);
}

/// Gives free memory of this thread back to the kernel. By itself the allocator does so a while after the next
/// allocations, of which a proxy that rests makes none.
pub(crate) fn give_back() {
    // SAFETY: it takes no pointer, and any thread may call it at any time.
    unsafe { mi_collect(true) }
}
