//! The proxy's program. See `meltemi_proxy::applets` for its commands.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<ExitCode> {
    meltemi_proxy::applets::run(std::env::args_os())
}
