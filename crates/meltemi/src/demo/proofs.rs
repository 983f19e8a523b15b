//! The claims of the tour, each with its proof.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};

use super::lab::{Lab, Mode};
use super::tour::Evidence;

pub(super) struct Proof {
    pub(super) title: &'static str,
    pub(super) run: fn(&Lab) -> Evidence,
}

pub(super) const ALL: &[Proof] = &[
    Proof {
        title: "The page is served by four applications that call each other",
        run: page,
    },
    Proof {
        title: "Every pod has an identity, and both ends prove theirs",
        run: identities,
    },
    Proof {
        title: "On the wire there is nothing to read (STRICT)",
        run: encrypted,
    },
    Proof {
        title: "The same bytes are there to read when the mode is DISABLE",
        run: readable,
    },
    Proof {
        title: "A client without a sidecar is refused (STRICT)",
        run: refused,
    },
    Proof {
        title: "A canary gets 10 % of the requests",
        run: canary,
    },
    Proof {
        title: "The user jason is routed to v2 by a header",
        run: by_header,
    },
];

/// What each request of the capture proofs carries, to be looked for on the wire.
const MARKER: &str = "meltemi-marker-7f3a9c51";

const REQUESTS: u32 = 1000;

fn page(lab: &Lab) -> Evidence {
    let html = lab.exec_ok(
        "deploy/productpage-v1",
        "productpage",
        &["curl", "-sS", "http://productpage:9080/productpage"],
    )?;
    for part in ["Book Details", "Book Reviews"] {
        ensure!(html.contains(part), "the page lacks \"{part}\"");
    }
    Ok(vec![
        "productpage -> details, reviews -> ratings: 200, with details and reviews on the page"
            .to_owned(),
    ])
}

fn identities(lab: &Lab) -> Evidence {
    lab.set_mode(Mode::Strict)?;
    lab.call_reviews(&[])?;
    let report = lab.meltemi_json(&[
        "authn",
        "tls-check",
        "productpage-v1",
        "reviews.default.svc.cluster.local",
        "-o",
        "json",
    ])?;
    let text = report.to_string();
    let mut lines = Vec::new();
    for end in ["bookinfo-productpage", "bookinfo-reviews"] {
        let id = format!("spiffe://cluster.local/ns/default/sa/{end}");
        ensure!(text.contains(&id), "{id} took part in no handshake: {text}");
        lines.push(id);
    }
    let verdict = lab.meltemi(&[
        "authn",
        "tls-check",
        "productpage-v1",
        "reviews.default.svc.cluster.local",
    ])?;
    let mode = verdict
        .lines()
        .find(|line| line.starts_with("MODE:"))
        .context("tls-check gives no verdict")?;
    ensure!(mode == "MODE: mTLS (STRICT)", "tls-check says \"{mode}\"");
    lines.push(mode.to_owned());
    Ok(lines)
}

fn encrypted(lab: &Lab) -> Evidence {
    lab.set_mode(Mode::Strict)?;
    let seen = lab.capture_while_calling(MARKER)?;
    ensure!(seen.packets > 0, "no packet was captured on the link");
    ensure!(!seen.found, "\"{MARKER}\" crossed the link in clear");
    Ok(vec![format!(
        "{} packets, {} bytes on the link of reviews: the marker is not among them",
        seen.packets, seen.bytes
    )])
}

fn readable(lab: &Lab) -> Evidence {
    lab.set_mode(Mode::Disable)?;
    let seen = lab.capture_while_calling(MARKER);
    lab.set_mode(Mode::Strict)?;
    let seen = seen?;
    ensure!(
        seen.found,
        "the capture sees nothing: {} packets without the marker",
        seen.packets
    );
    Ok(vec![format!(
        "{} packets: the marker is read off the link, so the capture does see what crosses it",
        seen.packets
    )])
}

fn refused(lab: &Lab) -> Evidence {
    lab.set_mode(Mode::Strict)?;
    let (status, output) = lab.exec(
        "deploy/curl",
        "outside",
        "curl",
        &[
            "curl",
            "-sS",
            "-m",
            "5",
            "http://reviews.default:9080/reviews/0",
        ],
    )?;
    match status {
        52 | 56 => Ok(vec![format!(
            "curl ends with status {status}: {}",
            output.lines().next().unwrap_or_default()
        )]),
        0 => bail!("the plaintext client got an answer: {output}"),
        other => bail!("curl ended with {other} and not with a reset: {output}"),
    }
}

fn canary(lab: &Lab) -> Evidence {
    lab.apply_samples(&[
        "destination-rule-all-mtls.yaml",
        "virtual-service-reviews-90-10.yaml",
    ])?;
    let counts = lab.count_reviews(REQUESTS, &[])?;
    let percent =
        |version: &str| f64::from(*counts.get(version).unwrap_or(&0)) * 100.0 / f64::from(REQUESTS);
    let (v1, v2) = (percent("v1"), percent("v2"));
    ensure!(
        (86.0..=94.0).contains(&v1) && (v1 + v2 - 100.0).abs() < 0.01,
        "v1 got {v1:.1} %, v2 {v2:.1} %"
    );
    Ok(vec![format!(
        "{REQUESTS} requests, all answered: v1 {v1:.1} %, v2 {v2:.1} %"
    )])
}

fn by_header(lab: &Lab) -> Evidence {
    lab.apply_samples(&["virtual-service-reviews-test-v2.yaml"])?;
    let jason = lab.count_reviews(100, &["end-user: jason"])?;
    let others = lab.count_reviews(100, &[])?;
    let only = |counts: &BTreeMap<String, u32>, version: &str| counts.get(version) == Some(&100);
    ensure!(only(&jason, "v2"), "jason's requests went to {jason:?}");
    ensure!(
        only(&others, "v1"),
        "the others' requests went to {others:?}"
    );
    Ok(vec![
        "end-user: jason -> v2 for 100 of 100; everybody else -> v1 for 100 of 100".to_owned(),
    ])
}
