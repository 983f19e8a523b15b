use super::*;
use meltemi_proto::google::protobuf::Any;
use meltemi_proto::google::rpc::Status as RpcStatus;
use meltemi_proto::type_url::{CLUSTER, ENDPOINT, LISTENER};

fn resource(type_url: &str, name: &str, content: &str) -> Arc<Resource> {
    let body = Any {
        type_url: type_url.into(),
        value: content.into(),
    };
    Arc::new(Resource::new(name, body))
}

fn with(snapshot: Snapshot, type_url: &str, resources: &[(&str, &str)]) -> Snapshot {
    let made = resources.iter().map(|(n, c)| resource(type_url, n, c));
    snapshot.with_resources(type_url, made)
}

fn snapshot(type_url: &str, resources: &[(&str, &str)]) -> Snapshot {
    with(Snapshot::new("v"), type_url, resources)
}

fn subscribe(type_url: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.into(),
        resource_names_subscribe: names.iter().map(|n| (*n).to_owned()).collect(),
        ..Default::default()
    }
}

/// A session whose client sees responses as `type +added -removed`.
#[derive(Default)]
struct Client {
    session: DeltaSession,
    nonces: HashMap<String, String>,
}

impl Client {
    fn request(&mut self, request: DeltaDiscoveryRequest) -> Option<Event> {
        self.session.on_request(request).unwrap()
    }

    fn next(&mut self, snapshot: &Snapshot) -> Option<String> {
        let (response, _) = self.session.next_response(snapshot)?;
        let (_, short) = response.type_url.rsplit_once('.').unwrap();
        let mut seen = short.to_owned();
        for r in &response.resources {
            seen.push_str(&format!(" +{}", r.name));
        }
        for name in &response.removed_resources {
            seen.push_str(&format!(" -{name}"));
        }
        self.nonces.insert(response.type_url, response.nonce);
        Some(seen)
    }

    fn answer(&mut self, type_url: &str, error: Option<&str>) -> Option<Event> {
        let nonce = self.nonces[type_url].clone();
        self.request(DeltaDiscoveryRequest {
            type_url: type_url.into(),
            response_nonce: nonce,
            error_detail: error.map(|message| RpcStatus {
                message: message.into(),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    /// Takes everything there is, with an ACK each.
    fn drain(&mut self, snapshot: &Snapshot) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(response) = self.next(snapshot) {
            seen.push(response);
            for type_url in self.nonces.keys().cloned().collect::<Vec<_>>() {
                self.answer(&type_url, None);
            }
        }
        seen
    }
}

#[test]
fn only_what_changed_is_sent() {
    let mut client = Client::default();
    client.request(subscribe(CLUSTER, &[]));
    let first = snapshot(CLUSTER, &[("a", "1"), ("b", "1")]);
    assert_eq!(client.drain(&first), ["Cluster +a +b"]);
    let second = snapshot(CLUSTER, &[("a", "1"), ("b", "2"), ("c", "1")]);
    assert_eq!(client.drain(&second), ["Cluster +b +c"]);
    let third = snapshot(CLUSTER, &[("c", "1")]);
    assert_eq!(client.drain(&third), ["Cluster -a -b"]);
}

#[test]
fn a_wildcard_is_answered_even_when_there_is_nothing() {
    let mut client = Client::default();
    client.request(subscribe(LISTENER, &["*"]));
    assert_eq!(client.drain(&Snapshot::new("v")), ["Listener"]);
}

#[test]
fn a_named_resource_that_does_not_exist_is_said_once_and_stays_subscribed() {
    let mut client = Client::default();
    client.request(subscribe(ENDPOINT, &["a", "b"]));
    let first = snapshot(ENDPOINT, &[("a", "1"), ("unwanted", "1")]);
    assert_eq!(client.drain(&first), ["ClusterLoadAssignment +a -b"]);
    let second = snapshot(ENDPOINT, &[("a", "1"), ("b", "1")]);
    assert_eq!(client.drain(&second), ["ClusterLoadAssignment +b"]);
}

#[test]
fn an_empty_subscription_of_a_type_by_name_is_no_wildcard() {
    let mut client = Client::default();
    client.request(subscribe(ENDPOINT, &[]));
    assert!(client.drain(&snapshot(ENDPOINT, &[("a", "1")])).is_empty());
}

#[test]
fn versions_of_an_earlier_stream_are_honoured() {
    let current = snapshot(CLUSTER, &[("same", "1"), ("changed", "2")]);
    let same = current.resources(CLUSTER).unwrap()["same"]
        .version
        .to_string();
    let mut client = Client::default();
    let mut request = subscribe(CLUSTER, &[]);
    request.initial_resource_versions = [
        ("same".to_owned(), same),
        ("changed".to_owned(), "old".to_owned()),
        ("gone".to_owned(), "old".to_owned()),
    ]
    .into();
    client.request(request);
    assert_eq!(client.drain(&current), ["Cluster +changed -gone"]);
}

#[test]
fn subscribing_again_sends_again() {
    let current = snapshot(ENDPOINT, &[("a", "1"), ("b", "1")]);
    let mut client = Client::default();
    client.request(subscribe(ENDPOINT, &["a", "b"]));
    client.drain(&current);
    client.request(subscribe(ENDPOINT, &["b"]));
    assert_eq!(client.drain(&current), ["ClusterLoadAssignment +b"]);
}

#[test]
fn a_changed_cluster_gets_its_endpoints_again() {
    let mut client = Client::default();
    client.request(subscribe(CLUSTER, &[]));
    client.request(subscribe(ENDPOINT, &["a", "b"]));
    let endpoints = [("a", "1"), ("b", "1")];
    let first = with(snapshot(CLUSTER, &endpoints), ENDPOINT, &endpoints);
    client.drain(&first);
    let second = with(
        snapshot(CLUSTER, &[("a", "2"), ("b", "1")]),
        ENDPOINT,
        &endpoints,
    );
    assert_eq!(
        client.drain(&second),
        ["Cluster +a", "ClusterLoadAssignment +a"]
    );
}

#[test]
fn endpoints_held_from_before_follow_a_cluster_sent_on_this_stream() {
    let current = with(
        snapshot(CLUSTER, &[("a", "1")]),
        ENDPOINT,
        &[("a", "1"), ("b", "1")],
    );
    let version = |n: &str| current.resources(ENDPOINT).unwrap()[n].version.to_string();
    let mut client = Client::default();
    client.request(subscribe(CLUSTER, &[]));
    client.drain(&current);
    let mut request = subscribe(ENDPOINT, &["a", "b"]);
    request.initial_resource_versions = [
        ("a".to_owned(), version("a")),
        ("b".to_owned(), version("b")),
    ]
    .into();
    client.request(request);
    assert_eq!(client.drain(&current), ["ClusterLoadAssignment +a"]);
}

#[test]
fn a_nack_is_reported_and_not_answered_until_the_resource_changes() {
    let mut client = Client::default();
    client.request(subscribe(CLUSTER, &[]));
    client
        .next(&snapshot(CLUSTER, &[("a", "bad"), ("b", "1")]))
        .unwrap();
    let event = client.answer(CLUSTER, Some("a: name: bad"));
    assert!(matches!(event, Some(Event::Nacked { detail, .. }) if detail == "a: name: bad"));
    assert!(
        client
            .drain(&snapshot(CLUSTER, &[("a", "bad"), ("b", "1")]))
            .is_empty()
    );
    let repaired = snapshot(CLUSTER, &[("a", "good"), ("b", "1")]);
    assert_eq!(client.drain(&repaired), ["Cluster +a"]);
}

#[test]
fn changes_merge_while_an_ack_is_awaited_and_a_stale_nonce_does_not_count() {
    let mut client = Client::default();
    client.request(subscribe(CLUSTER, &[]));
    client.next(&snapshot(CLUSTER, &[("a", "1")])).unwrap();
    let second = snapshot(CLUSTER, &[("a", "2")]);
    assert_eq!(client.next(&second), None);
    let stale = DeltaDiscoveryRequest {
        type_url: CLUSTER.into(),
        response_nonce: "0".into(),
        ..Default::default()
    };
    assert_eq!(client.request(stale), None);
    let third = snapshot(CLUSTER, &[("a", "3"), ("b", "1")]);
    assert_eq!(client.next(&third), None);
    assert!(matches!(
        client.answer(CLUSTER, None),
        Some(Event::Acked { .. })
    ));
    assert_eq!(client.drain(&third), ["Cluster +a +b"]);
}

#[test]
fn clusters_are_removed_after_listeners_stopped_naming_them() {
    let mut client = Client::default();
    client.request(subscribe(CLUSTER, &[]));
    client.request(subscribe(LISTENER, &[]));
    let first = with(
        snapshot(CLUSTER, &[("a", "1"), ("b", "1")]),
        LISTENER,
        &[("l", "to a")],
    );
    client.drain(&first);
    let second = with(
        snapshot(CLUSTER, &[("b", "1"), ("c", "1")]),
        LISTENER,
        &[("l", "to c")],
    );
    assert_eq!(
        client.drain(&second),
        ["Cluster +c", "Listener +l", "Cluster -a"]
    );
}

#[test]
fn a_large_push_is_split() {
    let content = "x".repeat(RESPONSE_TARGET_BYTES / 2);
    let names = ["a", "b", "c"].map(|name| (name, content.as_str()));
    let mut client = Client::default();
    client.request(subscribe(CLUSTER, &[]));
    let current = snapshot(CLUSTER, &names);
    assert_eq!(client.drain(&current), ["Cluster +a +b", "Cluster +c"]);
}

#[test]
fn unsubscribed_names_are_forgotten() {
    let mut client = Client::default();
    client.request(subscribe(ENDPOINT, &["a", "b"]));
    client.drain(&snapshot(ENDPOINT, &[("a", "1"), ("b", "1")]));
    client.request(DeltaDiscoveryRequest {
        type_url: ENDPOINT.into(),
        resource_names_unsubscribe: vec!["a".into()],
        ..Default::default()
    });
    assert!(client.drain(&snapshot(ENDPOINT, &[("b", "1")])).is_empty());
}

#[test]
fn types_and_names_are_bounded() {
    let mut session = DeltaSession::default();
    for i in 0..TYPES_PER_STREAM {
        session
            .on_request(subscribe(&format!("t/{i}"), &["a"]))
            .unwrap();
    }
    let refused = session
        .on_request(subscribe("t/one-more", &["a"]))
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    let names: Vec<String> = (0..=NAMES_PER_TYPE).map(|i| i.to_string()).collect();
    let mut request = subscribe("t/0", &[]);
    request.resource_names_subscribe = names;
    assert!(session.on_request(request).is_err());
}

#[test]
fn a_client_that_holds_everything_already_is_known_to_be_in_sync() {
    let current = snapshot(ENDPOINT, &[("a", "1")]);
    let version = current.resources(ENDPOINT).unwrap()["a"]
        .version
        .to_string();
    let mut client = Client::default();
    let mut request = subscribe(ENDPOINT, &["a"]);
    request.initial_resource_versions = [("a".to_owned(), version)].into();
    client.request(request);
    client.session.take_events();
    assert!(client.drain(&current).is_empty());
    let in_sync = Event::InSync {
        type_url: ENDPOINT.into(),
        version: "v".into(),
    };
    assert_eq!(client.session.take_events(), [in_sync]);
    // Once: what is sent later speaks for itself.
    assert_eq!(
        client.drain(&snapshot(ENDPOINT, &[("a", "2")])),
        ["ClusterLoadAssignment +a"]
    );
    assert!(client.session.take_events().is_empty());
}

#[test]
fn absence_is_told_only_by_a_snapshot_that_looked() {
    let mut client = Client::default();
    client.request(subscribe(LISTENER, &["a"]));
    assert_eq!(
        client.session.take_events(),
        [Event::Subscribed {
            type_url: LISTENER.into(),
            added: vec!["a".into()],
            dropped: Vec::new(),
            order: 1,
        }]
    );
    let empty = Arc::new(ResourceMap::new());
    let of = |order| {
        Snapshot::new("v")
            .with_type(LISTENER, Arc::clone(&empty))
            .answering(order)
    };
    assert!(client.drain(&of(0)).is_empty());
    assert_eq!(client.drain(&of(1)), ["Listener -a"]);
    // The same map, and yet an answer to the second name.
    client.request(subscribe(LISTENER, &["b"]));
    assert!(client.drain(&of(1)).is_empty());
    assert_eq!(client.drain(&of(2)), ["Listener -b"]);
    let appeared = snapshot(LISTENER, &[("a", "1")]).answering(2);
    assert_eq!(client.drain(&appeared), ["Listener +a"]);
}

/// What a client is in sync with is one map for all; a session keeps exceptions only while there are any.
#[test]
fn nothing_is_kept_of_a_client_that_is_in_sync() {
    let mut client = Client::default();
    let first = snapshot(CLUSTER, &[("a", "1"), ("b", "1"), ("c", "1")]);
    client.request(subscribe(CLUSTER, &[]));
    client.drain(&first);
    let held = |client: &Client| client.session.types[&TypeKey::new(CLUSTER)].held.len();
    assert_eq!(held(&client), 0);
    let second = snapshot(CLUSTER, &[("a", "1"), ("b", "2"), ("d", "1")]);
    assert_eq!(client.next(&second).unwrap(), "Cluster +b +d -c");
    assert_eq!(held(&client), 3);
    client.answer(CLUSTER, None);
    assert_eq!(client.drain(&second), Vec::<String>::new());
    assert_eq!(held(&client), 0);
    assert_eq!(client.drain(&first), ["Cluster +b +c -d"]);
}

/// A client that asked for names, and then for everything, holds the names alone.
#[test]
fn everything_is_more_than_the_names_before() {
    let all = snapshot(CLUSTER, &[("a", "1"), ("b", "1")]);
    let mut client = Client::default();
    client.request(subscribe(CLUSTER, &["a", "z"]));
    assert_eq!(client.drain(&all), ["Cluster +a -z"]);
    client.request(subscribe(CLUSTER, &["*"]));
    assert_eq!(client.drain(&all), ["Cluster +b"]);
    client.request(DeltaDiscoveryRequest {
        type_url: CLUSTER.into(),
        resource_names_unsubscribe: vec!["*".into()],
        ..Default::default()
    });
    let other = snapshot(CLUSTER, &[("a", "2"), ("b", "2"), ("z", "1")]);
    assert_eq!(client.drain(&other), ["Cluster +a +z"]);
    client.request(subscribe(CLUSTER, &["*"]));
    assert_eq!(client.drain(&other), ["Cluster +b"]);
}
