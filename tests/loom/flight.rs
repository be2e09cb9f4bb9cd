//! Runs that callers of one key share.

use super::*;

/// Whoever comes while a run is in progress waits for it or starts the next one; none is left waiting, and two never run
/// at a time.
#[test]
fn callers_of_one_key_share_runs_and_none_is_left_waiting() {
    model(|| {
        let flights = Arc::new(SingleFlight::<u8, u64>::new());
        let (runs, running) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let ask = {
            let flights = flights.clone();
            move || {
                let answer = flights.run_blocking(&1, || {
                    assert_eq!(running.fetch_add(1, Ordering::Relaxed), 0);
                    let number = runs.fetch_add(1, Ordering::Relaxed);
                    running.fetch_sub(1, Ordering::Relaxed);
                    if number == 0 { Err(()) } else { Ok(number) }
                });
                answer.ok()
            }
        };
        let threads: Vec<_> = (0..2).map(|_| thread::spawn(ask.clone())).collect();
        let mut answers: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        answers.push(ask());
        assert_eq!(answers.iter().filter(|answer| answer.is_none()).count(), 1);
        assert_eq!(flights.running(), 0);
    });
}

/// A leader is dropped, and the waiter after it too, while a thread comes: it gets the lead, whichever is first.
#[test]
fn a_lead_that_is_dropped_reaches_who_comes_meanwhile() {
    model(|| {
        let flights = Arc::new(SingleFlight::<u8, u64>::new());
        let asks = |flights: Arc<SingleFlight<u8, u64>>| {
            let mut asks: Pin<Box<dyn Future<Output = _> + Send>> =
                Box::pin(async move { flights.run(&1, std::future::pending::<Result<u64, ()>>).await });
            assert!(poll(&mut asks).is_pending());
            asks
        };
        let (leads, waits) = (asks(flights.clone()), asks(flights.clone()));
        let comes = {
            let flights = flights.clone();
            thread::spawn(move || flights.run_blocking(&1, || Ok::<_, ()>(7)).unwrap())
        };
        let leaves = thread::spawn(move || drop(waits));
        drop(leads);
        leaves.join().unwrap();
        assert_eq!(comes.join().unwrap(), 7);
        assert_eq!(flights.running(), 0);
    });
}

/// Who comes after a key was forgotten never gets what was read before: the run, a waiter that joins it, and the change
/// race. A value that the run reads before the change answers only those who came before it.
#[test]
fn who_comes_after_a_key_is_forgotten_gets_what_is_new() {
    model(|| {
        let flights = Arc::new(SingleFlight::<u8, u64>::new());
        let source = Arc::new(AtomicU64::new(1));
        let ask = {
            let (flights, source) = (flights.clone(), source.clone());
            move || flights.run_blocking(&1, || Ok::<_, ()>(source.load(Ordering::SeqCst))).unwrap()
        };
        let runs = thread::spawn(ask.clone());
        let other = thread::spawn(ask.clone());
        source.store(2, Ordering::SeqCst);
        flights.forget(&1);
        assert_eq!(ask(), 2);
        runs.join().unwrap();
        other.join().unwrap();
        assert_eq!(flights.running(), 0);
    });
}

/// A deadline that passes while the leader gives up: the waiter takes the lead or leaves it to nobody.
#[test]
fn a_deadline_that_races_a_dropped_leader_leaves_no_run_behind() {
    model(|| {
        let clock = Clock::manual();
        let flights = Arc::new(SingleFlight::<u8, u64>::new().clock(clock.clone()));
        let leads = {
            let flights = flights.clone();
            let mut leads =
                Box::pin(async move { flights.run(&1, std::future::pending::<Result<u64, ()>>).await });
            assert!(poll(&mut leads).is_pending());
            leads
        };
        let call = Call::new().deadline(clock.now() + SECOND);
        let drops = thread::spawn(move || drop(leads));
        let moves = thread::spawn(move || clock.advance(SECOND));
        if let Ok(answer) = flights.at(&1).call_blocking_with(call, |_| Ok::<_, ()>(3)) {
            assert_eq!(answer, 3);
        }
        drops.join().unwrap();
        moves.join().unwrap();
        assert_eq!(flights.running(), 0);
    });
}
