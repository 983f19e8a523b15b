use super::*;
use meltemi_proto::google::protobuf::Any;
use meltemi_proto::google::rpc::Status as RpcStatus;
use meltemi_proto::type_url::{CLUSTER, ENDPOINT, LISTENER, ROUTE};

fn with(snapshot: Snapshot, type_url: &str, resources: &[(&str, &str)]) -> Snapshot {
    let made = resources.iter().map(|(name, content)| {
        let body = Any {
            type_url: type_url.into(),
            value: (*content).into(),
        };
        Arc::new(Resource::new(*name, body))
    });
    snapshot.with_resources(type_url, made)
}

fn request(type_url: &str, names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: type_url.into(),
        resource_names: names.iter().map(|n| (*n).to_owned()).collect(),
        response_nonce: nonce.into(),
        ..Default::default()
    }
}

/// The next response as `(type, contents, nonce)`.
fn next(session: &mut SotwSession, snapshot: &Snapshot) -> Option<(String, String, String)> {
    let (response, _) = session.next_response(snapshot)?;
    let (_, short) = response.type_url.rsplit_once('.').unwrap();
    let text = |any: &Any| String::from_utf8(any.value.clone()).unwrap();
    let contents: Vec<String> = response.resources.iter().map(text).collect();
    Some((short.to_owned(), contents.join(" "), response.nonce))
}

fn seen(response: Option<(String, String, String)>) -> (String, String) {
    let (kind, contents, _) = response.unwrap();
    (kind, contents)
}

fn pair(kind: &str, contents: &str) -> (String, String) {
    (kind.into(), contents.into())
}

#[test]
fn every_response_holds_the_whole_type() {
    let mut session = SotwSession::default();
    session.on_request(request(CLUSTER, &[], "")).unwrap();
    let first = with(Snapshot::new("1"), CLUSTER, &[("a", "a1"), ("b", "b1")]);
    assert_eq!(seen(next(&mut session, &first)), pair("Cluster", "a1 b1"));
    let second = with(Snapshot::new("2"), CLUSTER, &[("a", "a2"), ("b", "b1")]);
    assert_eq!(next(&mut session, &second), None, "waits for the ACK");
    let acked = session.on_request(request(CLUSTER, &[], "1")).unwrap();
    assert!(matches!(acked, Some(Event::Acked { .. })));
    assert_eq!(seen(next(&mut session, &second)), pair("Cluster", "a2 b1"));
    session.on_request(request(CLUSTER, &[], "2")).unwrap();
    assert_eq!(next(&mut session, &second), None);
    // Another snapshot with the same content is no change.
    let third = with(Snapshot::new("3"), CLUSTER, &[("a", "a2"), ("b", "b1")]);
    assert_eq!(next(&mut session, &third), None);
}

#[test]
fn a_nack_is_reported_once_and_not_answered() {
    let mut session = SotwSession::default();
    session.on_request(request(CLUSTER, &[], "")).unwrap();
    let current = with(Snapshot::new("1"), CLUSTER, &[("a", "bad")]);
    next(&mut session, &current).unwrap();
    let mut nack = request(CLUSTER, &[], "1");
    nack.error_detail = Some(RpcStatus {
        message: "a: bad".into(),
        ..Default::default()
    });
    let event = session.on_request(nack.clone()).unwrap();
    assert!(matches!(event, Some(Event::Nacked { detail, .. }) if detail == "a: bad"));
    assert_eq!(session.on_request(nack).unwrap(), None);
    assert_eq!(next(&mut session, &current), None);
}

#[test]
fn added_names_are_answered_and_stale_nonces_ignored() {
    let mut session = SotwSession::default();
    let current = with(Snapshot::new("1"), ENDPOINT, &[("a", "a"), ("b", "b")]);
    session.on_request(request(ENDPOINT, &["a"], "")).unwrap();
    assert_eq!(
        seen(next(&mut session, &current)),
        pair("ClusterLoadAssignment", "a")
    );
    session
        .on_request(request(ENDPOINT, &["a", "b"], "0"))
        .unwrap();
    assert_eq!(next(&mut session, &current), None, "stale");
    session
        .on_request(request(ENDPOINT, &["a", "b"], "1"))
        .unwrap();
    assert_eq!(
        seen(next(&mut session, &current)),
        pair("ClusterLoadAssignment", "a b")
    );
    session.on_request(request(ENDPOINT, &[], "2")).unwrap();
    let changed = with(Snapshot::new("2"), ENDPOINT, &[("a", "a2")]);
    assert_eq!(next(&mut session, &changed), None, "no names: unsubscribed");
}

#[test]
fn the_nonce_of_an_earlier_stream_does_not_silence_the_type() {
    let mut session = SotwSession::default();
    session.on_request(request(CLUSTER, &[], "77")).unwrap();
    let current = with(Snapshot::new("1"), CLUSTER, &[("a", "a")]);
    assert_eq!(seen(next(&mut session, &current)), pair("Cluster", "a"));
}

#[test]
fn what_warms_is_sent_again_after_what_changed() {
    let check = |changing: &str, waiting: &str, short: &str, short_waiting: &str| {
        let mut session = SotwSession::default();
        let snapshot = |content| {
            let snapshot = with(Snapshot::new("v"), changing, &[("a", content)]);
            with(snapshot, waiting, &[("a", "same")])
        };
        let first = snapshot("1");
        session.on_request(request(changing, &[], "")).unwrap();
        let (_, _, nonce) = next(&mut session, &first).unwrap();
        session.on_request(request(changing, &[], &nonce)).unwrap();
        session.on_request(request(waiting, &["a"], "")).unwrap();
        let (_, _, nonce) = next(&mut session, &first).unwrap();
        session
            .on_request(request(waiting, &["a"], &nonce))
            .unwrap();
        let second = snapshot("2");
        assert_eq!(seen(next(&mut session, &second)), pair(short, "2"));
        assert_eq!(
            seen(next(&mut session, &second)),
            pair(short_waiting, "same")
        );
        assert_eq!(next(&mut session, &second), None);
    };
    check(CLUSTER, ENDPOINT, "Cluster", "ClusterLoadAssignment");
    check(LISTENER, ROUTE, "Listener", "RouteConfiguration");
}
