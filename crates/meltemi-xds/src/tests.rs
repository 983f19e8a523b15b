//! Our client against our server over memory pipes, on a paused clock.

mod harness;
mod schedule;

use std::time::Duration;

use meltemi_proto::type_url::{CLUSTER, ENDPOINT, LISTENER, ROUTE};

use crate::Event;
use harness::{Mesh, contents, snapshot};

#[tokio::test(start_paused = true)]
async fn what_is_published_arrives_and_is_acknowledged() {
    let mut mesh = Mesh::start();
    mesh.client.subscribe_all(CLUSTER);
    mesh.client.subscribe(ENDPOINT, ["a", "missing"]);
    mesh.publish(snapshot(&[
        (CLUSTER, "a", 1),
        (CLUSTER, "b", 1),
        (ENDPOINT, "a", 1),
        (ENDPOINT, "b", 1),
    ]));
    let expected = contents(&[(CLUSTER, "a", 1), (CLUSTER, "b", 1), (ENDPOINT, "a", 1)]);
    mesh.until_applied(&expected).await;
    assert_eq!(mesh.app.absent(ENDPOINT), ["missing"]);

    mesh.publish(snapshot(&[
        (CLUSTER, "b", 2),
        (ENDPOINT, "a", 1),
        (ENDPOINT, "missing", 1),
    ]));
    let expected = contents(&[
        (CLUSTER, "b", 2),
        (ENDPOINT, "a", 1),
        (ENDPOINT, "missing", 1),
    ]);
    mesh.until_applied(&expected).await;
    assert!(
        mesh.events
            .take()
            .iter()
            .all(|e| !matches!(e, Event::Nacked { .. }))
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_before_the_first_snapshot() {
    let mut mesh = Mesh::start();
    mesh.client.subscribe_all(LISTENER);
    mesh.until_connected(1).await;
    assert!(mesh.quiet_for(Duration::from_secs(5)).await);
    mesh.publish(snapshot(&[(LISTENER, "l", 1)]));
    mesh.until_applied(&contents(&[(LISTENER, "l", 1)])).await;
}

#[tokio::test(start_paused = true)]
async fn a_rejected_resource_is_named_and_the_others_apply() {
    let mut mesh = Mesh::start();
    mesh.client.subscribe_all(CLUSTER);
    mesh.publish(snapshot(&[(CLUSTER, "a", 1), (CLUSTER, "b", 1)]));
    mesh.until_applied(&contents(&[(CLUSTER, "a", 1), (CLUSTER, "b", 1)]))
        .await;
    mesh.app.reject = [("a".to_owned(), 2)].into();
    mesh.publish(snapshot(&[(CLUSTER, "a", 2), (CLUSTER, "b", 2)]));
    mesh.until_applied(&contents(&[(CLUSTER, "a", 1), (CLUSTER, "b", 2)]))
        .await;
    let detail = mesh.until_nacked().await;
    assert_eq!(detail, "a: generation: rejected");
    assert!(
        mesh.quiet_for(Duration::from_secs(60)).await,
        "no resend of a NACKed version"
    );
    mesh.publish(snapshot(&[(CLUSTER, "a", 3), (CLUSTER, "b", 2)]));
    mesh.until_applied(&contents(&[(CLUSTER, "a", 3), (CLUSTER, "b", 2)]))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_reconnecting_client_gets_only_what_it_missed() {
    let mut mesh = Mesh::start();
    mesh.client.subscribe_all(CLUSTER);
    mesh.client.subscribe(ROUTE, ["r"]);
    mesh.publish(snapshot(&[
        (CLUSTER, "a", 1),
        (CLUSTER, "b", 1),
        (CLUSTER, "c", 1),
        (ROUTE, "r", 1),
    ]));
    mesh.until_applied(&contents(&[
        (CLUSTER, "a", 1),
        (CLUSTER, "b", 1),
        (CLUSTER, "c", 1),
        (ROUTE, "r", 1),
    ]))
    .await;
    mesh.app.log.clear();
    mesh.drop_connections();
    mesh.publish(snapshot(&[
        (CLUSTER, "a", 1),
        (CLUSTER, "b", 2),
        (ROUTE, "r", 1),
    ]));
    mesh.until_applied(&contents(&[
        (CLUSTER, "a", 1),
        (CLUSTER, "b", 2),
        (ROUTE, "r", 1),
    ]))
    .await;
    mesh.until_connected(2).await;
    assert!(mesh.quiet_for(Duration::from_secs(5)).await);
    let mut delivered = mesh.app.log.clone();
    delivered.sort();
    assert_eq!(delivered, ["+b", "-c"]);
    assert!(mesh.events.take().contains(&Event::Disconnected));
}

#[tokio::test(start_paused = true)]
async fn a_name_subscribed_again_is_sent_again() {
    let mut mesh = Mesh::start();
    mesh.client.subscribe(ENDPOINT, ["a"]);
    mesh.publish(snapshot(&[(ENDPOINT, "a", 1)]));
    mesh.until_applied(&contents(&[(ENDPOINT, "a", 1)])).await;
    mesh.app.log.clear();
    mesh.client.subscribe(ENDPOINT, ["a"]);
    mesh.step().await;
    assert_eq!(mesh.app.log, ["+a"]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_application_gets_the_last_state_not_every_one() {
    let mut mesh = Mesh::start();
    mesh.client.subscribe_all(CLUSTER);
    mesh.publish(snapshot(&[(CLUSTER, "a", 1)]));
    let held = mesh.updates.next().await.unwrap();
    for generation in 2..100 {
        mesh.publish(snapshot(&[(CLUSTER, "a", generation)]));
    }
    held.accept();
    mesh.until_applied(&contents(&[(CLUSTER, "a", 99)])).await;
    assert_eq!(
        mesh.app.log,
        ["+a"],
        "97 snapshots were merged into one push"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_client_keeps_trying_and_says_why() {
    let mut mesh = Mesh::refusing("not of this mesh");
    mesh.client.subscribe_all(CLUSTER);
    let mut state = mesh.updates.state();
    let refused = state
        .wait_for(|state| state.last_error.is_some())
        .await
        .unwrap()
        .last_error
        .clone();
    assert!(refused.unwrap().contains("not of this mesh"));
    mesh.admit();
    mesh.publish(snapshot(&[(CLUSTER, "a", 1)]));
    mesh.until_applied(&contents(&[(CLUSTER, "a", 1)])).await;
}
