use hickory_proto::op::Query;

use super::*;

fn zone() -> Zone {
    let web = "web-0.web.default.svc.cluster.local".to_owned();
    Zone {
        addresses: BTreeMap::from([
            (
                "reviews.default.svc.cluster.local".to_owned(),
                BTreeSet::from([Ipv4Addr::new(10, 96, 0, 20)]),
            ),
            (web.clone(), BTreeSet::from([Ipv4Addr::new(10, 244, 0, 7)])),
        ]),
        services: BTreeMap::from([(
            "_http._tcp.web.default.svc.cluster.local".to_owned(),
            BTreeSet::from([Target {
                host: web,
                port: 80,
            }]),
        )]),
        names: BTreeMap::from([(
            Ipv4Addr::new(10, 96, 0, 20),
            "reviews.default.svc.cluster.local".to_owned(),
        )]),
        aliases: BTreeMap::from(
            [
                (
                    "opinions.default.svc.cluster.local",
                    "reviews.default.svc.cluster.local",
                ),
                ("a.default.svc.cluster.local", "b.default.svc.cluster.local"),
                ("b.default.svc.cluster.local", "a.default.svc.cluster.local"),
            ]
            .map(|(alias, target)| (alias.to_owned(), target.to_owned())),
        ),
    }
}

/// Asks over the wire format; answers the code and the records as text.
fn check(name: &str, kind: RecordType, code: ResponseCode, expected: &[&str]) {
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    let query = Message::from_vec(&query.to_vec().unwrap()).unwrap();
    let reply = Message::from_vec(&zone().answer(&query).to_vec().unwrap()).unwrap();
    assert_eq!(reply.metadata.id, query.metadata.id);
    assert_eq!(reply.metadata.response_code, code, "{name}");
    let answers: Vec<String> = reply
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect();
    assert_eq!(answers, expected, "{name}");
    assert_eq!(reply.authorities.is_empty(), !expected.is_empty(), "{name}");
}

#[test]
fn answers_for_services_and_pods() {
    check(
        "Reviews.default.svc.cluster.local.",
        RecordType::A,
        ResponseCode::NoError,
        &["10.96.0.20"],
    );
    check(
        "web-0.web.default.svc.cluster.local.",
        RecordType::A,
        ResponseCode::NoError,
        &["10.244.0.7"],
    );
    check(
        "_http._tcp.web.default.svc.cluster.local.",
        RecordType::SRV,
        ResponseCode::NoError,
        &["0 100 80 web-0.web.default.svc.cluster.local."],
    );
    check(
        "20.0.96.10.in-addr.arpa.",
        RecordType::PTR,
        ResponseCode::NoError,
        &["reviews.default.svc.cluster.local."],
    );
}

#[test]
fn tells_no_such_record_from_no_such_name() {
    check(
        "reviews.default.svc.cluster.local.",
        RecordType::AAAA,
        ResponseCode::NoError,
        &[],
    );
    check(
        "default.svc.cluster.local.",
        RecordType::A,
        ResponseCode::NoError,
        &[],
    );
    check(
        "reviewz.default.svc.cluster.local.",
        RecordType::A,
        ResponseCode::NXDomain,
        &[],
    );
    check(
        "reviews.default.svc.cluster.local.cluster.local.",
        RecordType::A,
        ResponseCode::NXDomain,
        &[],
    );
    check("example.com.", RecordType::A, ResponseCode::NXDomain, &[]);
}

#[test]
fn an_external_name_is_an_alias() {
    check(
        "opinions.default.svc.cluster.local.",
        RecordType::A,
        ResponseCode::NoError,
        &["reviews.default.svc.cluster.local.", "10.96.0.20"],
    );
    let (steps, _) = zone().resolve("a.default.svc.cluster.local");
    assert_eq!(steps.len(), ALIAS_LIMIT, "a circle ends");
}
