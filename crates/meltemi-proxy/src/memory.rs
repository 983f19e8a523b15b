//! The allocator, and memory that is given back once start-up, or a large configuration, is over.
#![allow(
    unsafe_code,
    reason = "the allocator is a C library, and the kernel is told of addresses"
)]

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::c_void;

use mimalloc::MiMalloc;
use rustix::mm::{Advice, madvise};

const PAGE_BYTES: usize = 4096;

// `mimalloc.h`; the crate declares them behind a feature that brings another dependency, or not at all.
unsafe extern "C" {
    fn mi_collect(force: bool);
    fn mi_malloc(size: usize) -> *mut c_void;
    fn mi_zalloc(size: usize) -> *mut c_void;
    fn mi_realloc(block: *mut c_void, size: usize) -> *mut c_void;
}

/// mimalloc, asked for an alignment only where that says something: blocks lie at multiples of a word anyway. Asked for one,
/// it takes its slow path for most sizes above 1 KiB, and a larger block.
#[derive(Debug)]
pub struct Allocator;

/// Whether every block has this alignment.
fn is_every_blocks(align: usize) -> bool {
    align <= size_of::<usize>()
}

// SAFETY: every call goes on to mimalloc, which frees and grows its blocks by their address, whichever function made them.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_every_blocks(layout.align()) {
            // SAFETY: any size is allowed.
            unsafe { mi_malloc(layout.size()).cast() }
        } else {
            // SAFETY: the caller's promise is passed on.
            unsafe { MiMalloc.alloc(layout) }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_every_blocks(layout.align()) {
            // SAFETY: any size is allowed.
            unsafe { mi_zalloc(layout.size()).cast() }
        } else {
            // SAFETY: the caller's promise is passed on.
            unsafe { MiMalloc.alloc_zeroed(layout) }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { MiMalloc.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if is_every_blocks(layout.align()) {
            // SAFETY: the block is one of mimalloc's, by the caller's promise.
            unsafe { mi_realloc(block.cast(), size).cast() }
        } else {
            // SAFETY: the caller's promise is passed on.
            unsafe { MiMalloc.realloc(block, layout, size) }
        }
    }
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
    fn blocks_of_every_size_are_aligned_and_grow() {
        for align in [1, 8, 16, 64, 4096] {
            for size in [1, 8, 24, 1_000, 1_281, 20_000, 300_000] {
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: each block is written within its size, and freed as what it was last.
                unsafe {
                    let block = Allocator.alloc(layout);
                    assert_eq!(block.addr() % align, 0, "{layout:?}");
                    block.write_bytes(7, size);
                    let grown = Allocator.realloc(block, layout, size * 3);
                    assert_eq!(grown.addr() % align, 0, "{layout:?}");
                    assert_eq!(*grown.add(size - 1), 7);
                    Allocator.dealloc(grown, Layout::from_size_align(size * 3, align).unwrap());
                    let zeroed = Allocator.alloc_zeroed(layout);
                    assert!((0..size).all(|at| *zeroed.add(at) == 0));
                    Allocator.dealloc(zeroed, layout);
                }
            }
        }
    }

    #[test]
    fn code_that_is_let_go_of_comes_back() {
        for _ in 0..2 {
            forget_code().unwrap();
            assert_eq!(format!("{:?}", [1, 2]), "[1, 2]");
        }
    }
}
