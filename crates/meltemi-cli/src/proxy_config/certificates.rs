use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;
use x509_parser::pem::Pem;

use super::dump::text;
use crate::table::Table;

pub(super) fn table(secrets: &[&Value], now: Timestamp) -> String {
    let header = [
        "RESOURCE NAME",
        "TYPE",
        "STATUS",
        "VALID CERT",
        "SERIAL NUMBER",
        "NOT AFTER",
        "NOT BEFORE",
    ];
    let mut table = Table::new(header);
    let mut rows: Vec<Vec<String>> = secrets
        .iter()
        .flat_map(|secret| rows(secret, now))
        .collect();
    rows.sort();
    for row in rows {
        table.row(row);
    }
    table.render()
}

/// A row for the leaf of a certificate, and one for each root of a bundle.
fn rows(secret: &Value, now: Timestamp) -> Vec<Vec<String>> {
    let name = text(secret, "/name");
    let chain = data(&secret["secret"]["tlsCertificate"]["certificateChain"]);
    let trusted = data(&secret["secret"]["validationContext"]["trustedCa"]);
    let (kind, certificates) = match (chain, trusted) {
        (Some(pem), _) => (
            "Cert Chain",
            certificates(&pem).into_iter().take(1).collect(),
        ),
        (None, Some(pem)) => ("CA", certificates(&pem)),
        (None, None) => ("", Vec::new()),
    };
    if certificates.is_empty() {
        let row = [name, kind, "WARMING", "false", "", "", ""];
        return vec![row.map(str::to_owned).to_vec()];
    }
    let row = |certificate: Certificate| {
        let valid = certificate.not_before <= now && now < certificate.not_after;
        vec![
            name.to_owned(),
            kind.to_owned(),
            "ACTIVE".to_owned(),
            valid.to_string(),
            certificate.serial,
            certificate.not_after.to_string(),
            certificate.not_before.to_string(),
        ]
    };
    certificates.into_iter().map(row).collect()
}

/// The bytes of a DataSource: base64 or text.
fn data(source: &Value) -> Option<Vec<u8>> {
    if let Some(text) = source.get("inlineString").and_then(Value::as_str) {
        return Some(text.as_bytes().to_vec());
    }
    STANDARD.decode(source.get("inlineBytes")?.as_str()?).ok()
}

pub(crate) struct Certificate {
    serial: String,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

/// The certificates of a PEM text that can be read.
pub(crate) fn certificates(pem: &[u8]) -> Vec<Certificate> {
    let blocks = Pem::iter_from_buffer(pem).filter_map(Result::ok);
    blocks.filter_map(|block| certificate(&block)).collect()
}

fn certificate(block: &Pem) -> Option<Certificate> {
    let certificate = block.parse_x509().ok()?;
    let validity = certificate.validity();
    let time = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    Some(Certificate {
        serial: certificate
            .raw_serial()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        not_before: time(validity.not_before)?,
        not_after: time(validity.not_after)?,
    })
}
