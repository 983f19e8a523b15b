use super::*;

fn table() -> ArcSwap<ListenerTable> {
    ArcSwap::from_pointee(ListenerTable::new([]))
}

fn known(names: &[&str]) -> Answers {
    let listeners = names.iter().map(|name| ((*name).into(), Usage::new(0)));
    Answers {
        listeners: listeners.collect(),
        ..Answers::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_use_waits_for_its_answer_and_no_longer_than_the_limit() {
    let demand = Demand::default();
    let started = Instant::now();
    let to = "10.0.0.1:80".parse().unwrap();
    let refused = demand.listener(&table(), to).await.unwrap_err();
    assert_eq!((refused, started.elapsed()), (Unanswered, WAIT_LIMIT));
    assert_eq!(demand.counts.timeouts.load(Ordering::Relaxed), 1);

    let demand = Arc::new(demand);
    let first = tokio::spawn({
        let demand = demand.clone();
        async move { demand.listener(&table(), to).await.map(|(found, _)| found) }
    });
    let wishes = demand.wishes(&mut Allowance::default()).await;
    let names: Vec<&str> = wishes.iter().map(Wish::name).collect();
    assert_eq!(names, ["0.0.0.0_80", "10.0.0.1_80"]);
    // Half an answer decides nothing: the address's own listener could still come.
    demand.publish(known(&["0.0.0.0_80"]));
    tokio::task::yield_now().await;
    assert!(!first.is_finished());
    demand.publish(known(&["0.0.0.0_80", "10.0.0.1_80"]));
    assert!(first.await.unwrap().unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn those_who_want_the_same_share_one_wish() {
    let demand = Arc::new(Demand::default());
    let to: SocketAddr = "10.0.0.1:80".parse().unwrap();
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let demand = demand.clone();
            tokio::spawn(async move { demand.listener(&table(), to).await.is_ok() })
        })
        .collect();
    tokio::task::yield_now().await;
    assert_eq!(demand.wishes(&mut Allowance::default()).await.len(), 2);
    demand.publish(known(&["0.0.0.0_80", "10.0.0.1_80"]));
    for waited in waiting {
        assert!(waited.await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn wishes_are_bounded_and_granted_at_a_rate() {
    let demand = Demand::default();
    let wish = |i: usize| Wish::Host(format!("80/{i}"));
    for i in 0..QUEUE_LIMIT {
        demand.wish(vec![wish(i)]).unwrap();
    }
    assert_eq!(demand.wish(vec![wish(QUEUE_LIMIT)]), Err(Unanswered));
    assert_eq!(demand.counts.refused.load(Ordering::Relaxed), 1);

    let mut allowance = Allowance::default();
    assert_eq!(demand.wishes(&mut allowance).await.len(), BURST as usize);
    demand
        .wish((0..PER_SECOND as usize).map(wish).collect())
        .unwrap();
    let started = Instant::now();
    let mut granted = 0;
    while granted < PER_SECOND as usize {
        granted += demand.wishes(&mut allowance).await.len();
    }
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(900), "{took:?}");
}
