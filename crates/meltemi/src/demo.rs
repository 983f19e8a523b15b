//! `meltemi demo`: a mesh comes up, and every claim about it is proved in front of the reader.
//!
//! The tour types the commands a user would type and reads what they print; it knows nothing that a user could not know.

mod lab;
mod proofs;
mod tour;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;

use lab::Lab;
use tour::Tour;

/// Brings up the bookinfo sample in a lab and proves each claim: identities, encryption, refusal, canary, routing.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  meltemi demo              # the tour, then the page stays open until Ctrl-C\n  \
                        meltemi demo --once       # ends after the tour; status 0 only if every proof held"
)]
pub(crate) struct Options {
    /// End after the tour instead of keeping the page open.
    #[arg(long)]
    once: bool,
    /// The address of this machine at which the page is served.
    #[arg(long, default_value = "127.0.0.1:9080")]
    page: String,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let mut tour = Tour::new();
    tour.say("A service mesh on this machine: four applications, a sidecar beside each, one control plane.");
    let lab = Lab::start(&mut tour)?;
    let page = lab.open_page(&options.page)?;
    for proof in proofs::ALL {
        tour.prove(proof.title, || (proof.run)(&lab));
    }
    let held = tour.finish(start.elapsed());
    if !options.once && std::io::stdin().is_terminal() {
        tour.say(&format!(
            "Open http://{}/productpage in a browser. Enter or Ctrl-C ends the lab.",
            page.address
        ));
        std::io::stdin().read_line(&mut String::new())?;
    }
    drop(page);
    lab.down()?;
    Ok(if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
