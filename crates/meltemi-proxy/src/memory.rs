//! Memory that is given back once start-up, or a large configuration, is over.
#![allow(
    unsafe_code,
    reason = "the allocator is a C library, and the kernel is told of addresses"
)]

use std::ffi::c_void;

// Links the library.
use mimalloc as _;
use rustix::mm::{Advice, madvise};

const PAGE_BYTES: usize = 4096;

unsafe extern "C" {
    /// `mimalloc.h`; the crate declares it behind a feature that brings another dependency.
    fn mi_collect(force: bool);
}

unsafe extern "C" {
    /// The first byte of this program in memory, and the one behind its code (both set by the linker).
    static __executable_start: u8;
    static etext: u8;
}

/// Gives back what this thread's heap no longer uses, and the pages of code that nothing runs any more.
pub(crate) fn give_back() {
    // SAFETY: it takes no pointer, and any thread may call it at any time. By itself the allocator collects a while
    // after the next allocations, of which a proxy that rests makes none.
    unsafe { mi_collect(true) }
    if let Err(error) = forget_code() {
        tracing::debug!(%error, "the pages of the program's code stay");
    }
}

/// Lets go of the pages of this program's code and constants. Those that are still in use come back from the page cache
/// as they are touched; those that only start-up and configuration needed - most of them - do not.
fn forget_code() -> rustix::io::Result<()> {
    let start = (&raw const __executable_start).addr();
    let end = (&raw const etext).addr() & !(PAGE_BYTES - 1);
    // SAFETY: what lies between the two symbols is mapped from the program's file and never written to: relocated data
    // lies behind the code. Dropping such a page only means that it is read again.
    unsafe {
        madvise(
            start as *mut c_void,
            end.saturating_sub(start),
            Advice::LinuxDontNeed,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_is_let_go_of_comes_back() {
        for _ in 0..2 {
            forget_code().unwrap();
            assert_eq!(format!("{:?}", [1, 2]), "[1, 2]");
        }
    }
}
