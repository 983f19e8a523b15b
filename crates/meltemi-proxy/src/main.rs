//! The proxy's program. See `meltemi_proxy::applets` for its commands.
#![allow(unsafe_code, reason = "something must run before the allocator")]

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: meltemi_proxy::memory::Allocator = meltemi_proxy::memory::Allocator;

/// Runs before the allocator's own start, which has no priority and so comes after those that have one. A sidecar's few
/// megabytes lie scattered over the allocator's arena, and with huge pages each byte that is touched makes 2 MiB resident.
// SAFETY: the section holds addresses of functions to call at the start of the process, and this is one; it calls nothing
// that needs the runtime.
#[used]
#[unsafe(link_section = ".init_array.00101")]
static BEFORE_THE_ALLOCATOR: extern "C" fn() = use_small_pages;

extern "C" fn use_small_pages() {
    // Where it is refused, memory is what that costs.
    nix::sys::prctl::set_thp_disable(true).ok();
}

fn main() -> anyhow::Result<ExitCode> {
    meltemi_proxy::applets::run(std::env::args_os())
}
