use std::sync::Arc;

use super::*;
use meltemi_proto::google::protobuf::Any;
use meltemi_proto::type_url::{CLUSTER, ENDPOINT};

fn interest(type_url: &str, wildcard: bool, names: &[(&str, u64)]) -> Interest {
    let names: BTreeMap<_, _> = names
        .iter()
        .map(|(name, times)| (Arc::from(*name), *times))
        .collect();
    let names = Arc::new(names);
    [(TypeKey::new(type_url), Wanted { wildcard, names })].into()
}

fn wire(type_url: &str, name: &str) -> WireResource {
    WireResource {
        name: name.into(),
        version: "1".into(),
        resource: Some(Any {
            type_url: type_url.into(),
            value: Vec::new(),
        }),
        ..Default::default()
    }
}

fn accept(state: &mut State, type_url: &str, names: &[&str]) {
    let versions = names.iter().map(|n| ((*n).into(), "1".into())).collect();
    let answer = state.judge(&TypeKey::new(type_url), "n".into(), versions, &[], &[]);
    assert_eq!(answer.error_detail, None);
}

#[test]
fn asks_once_again_when_told_to_and_no_more_when_not() {
    let mut state = State::default();
    let first = state.requests(&interest(ENDPOINT, false, &[("a", 1), ("b", 1)]));
    assert_eq!(first[0].resource_names_subscribe, ["a", "b"]);
    assert!(
        state
            .requests(&interest(ENDPOINT, false, &[("a", 1), ("b", 1)]))
            .is_empty()
    );
    let again = state.requests(&interest(ENDPOINT, false, &[("a", 2)]));
    assert_eq!(again[0].resource_names_subscribe, ["a"]);
    assert_eq!(again[0].resource_names_unsubscribe, ["b"]);
}

#[test]
fn a_type_without_names_is_not_asked_for() {
    let mut state = State::default();
    assert!(state.requests(&interest(ENDPOINT, false, &[])).is_empty());
    let later = state.requests(&interest(ENDPOINT, false, &[("a", 1)]));
    assert_eq!(later[0].resource_names_subscribe, ["a"]);
}

#[test]
fn a_new_connection_names_the_versions_held() {
    let mut state = State::default();
    let wanted = interest(ENDPOINT, false, &[("a", 1), ("b", 1)]);
    state.requests(&wanted);
    accept(&mut state, ENDPOINT, &["a", "b"]);
    let wanted = interest(ENDPOINT, false, &[("a", 1)]);
    state.requests(&wanted);
    state.reconnect();
    let request = &state.requests(&wanted)[0];
    assert_eq!(request.resource_names_subscribe, ["a"]);
    let held = [("a".to_owned(), "1".to_owned())].into();
    assert_eq!(
        request.initial_resource_versions, held,
        "b was unsubscribed"
    );
}

#[test]
fn a_rejected_resource_is_named_and_asked_for_again() {
    let mut state = State::default();
    let wanted = interest(CLUSTER, true, &[]);
    assert_eq!(state.requests(&wanted)[0].resource_names_subscribe, ["*"]);
    accept(&mut state, CLUSTER, &["a"]);
    let rejected = |name: &str| Rejection {
        name: name.into(),
        reason: "lb_policy: unknown".into(),
    };
    let versions = ["a", "b", "c"].map(|n| (n.into(), "2".into())).into();
    let key = TypeKey::new(CLUSTER);
    let rejections = [rejected("a"), rejected("c")];
    let nack = state.judge(&key, "n".into(), versions, &[], &rejections);
    let detail = nack.error_detail.unwrap();
    assert_eq!(
        detail.message,
        "a: lb_policy: unknown\nc: lb_policy: unknown"
    );
    state.reconnect();
    let held = &state.requests(&wanted)[0].initial_resource_versions;
    let expected = [("a", "?"), ("b", "2")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    assert_eq!(*held, expected.into());
}

#[test]
fn what_is_malformed_is_rejected_and_what_is_not_subscribed_dropped() {
    let wanted = interest(CLUSTER, false, &[("a", 1), ("b", 1), ("c", 1)]);
    let response = DeltaDiscoveryResponse {
        type_url: CLUSTER.into(),
        resources: vec![
            wire(CLUSTER, "a"),
            wire(CLUSTER, "a"),
            wire(ENDPOINT, "b"),
            WireResource {
                name: "c".into(),
                ..Default::default()
            },
            wire(CLUSTER, "unwanted"),
        ],
        removed_resources: vec!["b".into(), "unwanted".into()],
        ..Default::default()
    };
    let received = State::default().receive(&wanted, response);
    let names: Vec<_> = received.added.iter().map(|r| &*r.name).collect();
    assert_eq!(names, ["a"]);
    assert_eq!(received.removed, ["b"]);
    let malformed: Vec<_> = received.malformed.iter().map(|r| &*r.name).collect();
    assert_eq!(malformed, ["a", "b", "c"]);
}

#[test]
fn a_nack_is_bounded() {
    let rejected: Vec<_> = (0..2000)
        .map(|i| Rejection {
            name: format!("cluster-{i}"),
            reason: "name: ναι".into(),
        })
        .collect();
    let detail = nack(&rejected).unwrap().message;
    assert!(detail.len() <= crate::limits::DETAIL_LIMIT_BYTES + 4);
    assert!(detail.ends_with(" ..."));
}

#[test]
fn aliases_that_were_asked_for_are_delivered_under_their_own_names() {
    let interest = interest(
        type_url::VIRTUAL_HOST,
        false,
        &[("80/a", 1), ("80/gone", 1)],
    );
    let resource = |name: &str, aliases: &[&str], found: bool| {
        let whole = wire(type_url::VIRTUAL_HOST, name);
        WireResource {
            aliases: aliases.iter().map(|a| (*a).to_owned()).collect(),
            resource: whole.resource.filter(|_| found),
            ..whole
        }
    };
    let response = DeltaDiscoveryResponse {
        type_url: type_url::VIRTUAL_HOST.to_owned(),
        resources: vec![
            resource("80/a.default:80", &["80/a", "80/b"], true),
            resource("80/gone", &["80/gone"], false),
        ],
        ..DeltaDiscoveryResponse::default()
    };
    let received = State::default().receive(&interest, response);
    let added: Vec<&str> = received.added.iter().map(|r| &*r.name).collect();
    assert_eq!(added, ["80/a"]);
    assert!(received.removed.contains(&"80/gone".to_owned()));
    assert_eq!(received.malformed, []);
}
