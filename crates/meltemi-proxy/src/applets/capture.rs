use std::io::Write as _;

use meltemi_capture::Args;

/// Applies capture rules as `istio-iptables` flags say.
pub(super) fn apply(args: &Args) -> anyhow::Result<()> {
    if args.cleanup_only {
        return remove(args.dry_run);
    }
    let settings = args.settings()?;
    if args.dry_run {
        return print(&meltemi_capture::ruleset(&settings));
    }
    meltemi_capture::apply(&settings)?;
    tracing::info!("capture rules are in place");
    Ok(())
}

pub(super) fn remove(dry_run: bool) -> anyhow::Result<()> {
    if dry_run {
        return print(&meltemi_capture::removal());
    }
    meltemi_capture::remove()?;
    tracing::info!("capture rules are gone");
    Ok(())
}

fn print(rules: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(rules.as_bytes())?;
    Ok(out.flush()?)
}
