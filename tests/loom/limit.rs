//! What limits admit while the clock moves, and what waits at them.

use super::*;

/// Returns how many calls `gate` admits of two on each of two threads, while the clock moves by each of `moves`.
fn admitted_while_the_clock_moves(gate: impl Gate + 'static, clock: &Clock, moves: &[Duration]) -> u64 {
    let (gate, admitted) = (Arc::new(gate), Arc::new(AtomicU64::new(0)));
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (gate, admitted) = (gate.clone(), admitted.clone());
            thread::spawn(move || {
                for _ in 0..2 {
                    if gate.try_acquire().is_ok() {
                        admitted.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        })
        .collect();
    moves.iter().for_each(|by| clock.advance(*by));
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    admitted.load(Ordering::SeqCst)
}

/// Trap R1.
#[test]
fn a_bucket_admits_no_more_than_has_flowed_in_while_the_clock_moves() {
    model(|| {
        let clock = Clock::manual();
        let bucket = TokenBucket::per_second(1).burst(1).clock(clock.clone());
        let admitted = admitted_while_the_clock_moves(bucket, &clock, &[SECOND]);
        assert!((1..=2).contains(&admitted), "{admitted} of 1 and 1");
    });
}

/// Trap R16. What flows in while threads ask is there for each of them: with two words, a thread that had moved the time
/// and not yet the count would hide it.
#[test]
fn a_thread_that_is_stopped_halfway_hides_no_tokens() {
    model(|| {
        let clock = Clock::manual();
        let bucket = Arc::new(TokenBucket::per_second(1).burst(2).clock(clock.clone()));
        assert!(bucket.try_acquire_for(Call::new().cost(2)).is_ok());
        clock.advance(2 * SECOND);
        let other = {
            let bucket = bucket.clone();
            thread::spawn(move || bucket.try_acquire().is_ok())
        };
        assert!(bucket.try_acquire().is_ok());
        assert!(other.join().unwrap());
        assert!(bucket.try_acquire().is_err());
    });
}

#[test]
fn a_fixed_window_admits_its_quota_once_while_the_clock_moves() {
    model(|| {
        let clock = Clock::manual();
        let window = FixedWindow::per_second(1).clock(clock.clone());
        let admitted = admitted_while_the_clock_moves(window, &clock, &[SECOND]);
        assert!((1..=2).contains(&admitted), "{admitted} of 1 and 1");
    });
}

#[test]
fn a_window_from_first_use_starts_once_while_the_clock_moves() {
    model(|| {
        let clock = Clock::manual();
        let window = FixedWindow::per_second(1).from_first_use().clock(clock.clone());
        let admitted = admitted_while_the_clock_moves(window, &clock, &[SECOND]);
        assert!((1..=2).contains(&admitted), "{admitted} of 1 and 1");
    });
}

/// At the start of a window all that the one before admitted counts: a call that a late thread still adds to it after
/// another has weighed it would be one too many.
#[test]
fn a_counter_weighs_the_window_before_as_it_ended() {
    for taken_before in [0, 1] {
        model(move || {
            let clock = Clock::manual();
            let counter = SlidingCounter::per_second(2).clock(clock.clone());
            if taken_before == 1 {
                counter.try_acquire().unwrap().success();
            }
            let admitted = taken_before + admitted_while_the_clock_moves(counter, &clock, &[SECOND]);
            assert_eq!(admitted, 2);
        });
    }
}

/// Trap R1.
#[test]
fn a_counter_admits_what_its_formula_allows_while_windows_pass() {
    model(|| {
        let clock = Clock::manual();
        let counter = SlidingCounter::per_second(1).clock(clock.clone());
        // One window counts until the second one after it; the windows are 0, 1 and 2.
        let admitted = admitted_while_the_clock_moves(counter, &clock, &[SECOND, SECOND]);
        assert!((1..=2).contains(&admitted), "{admitted} of 1, 0 and 1");
    });
}

/// Trap R7.
#[test]
fn a_bucket_gives_cancelled_tokens_back_once() {
    model(|| {
        let clock = Clock::manual();
        let bucket = Arc::new(TokenBucket::per_second(1).burst(2).clock(clock));
        assert!(bucket.try_acquire_for(Call::new().cost(2)).is_ok());
        let mut waiter = Box::pin(OwnedPermit::acquire(bucket.clone()));
        assert!(poll(&mut waiter).is_pending());
        let other = {
            let bucket = bucket.clone();
            thread::spawn(move || assert!(bucket.try_acquire().is_err()))
        };
        drop(waiter);
        other.join().unwrap();
        assert_eq!(bucket.try_acquire().unwrap_err().retry_after(), Some(SECOND));
    });
}

/// Trap R12.
#[test]
fn a_rate_that_changes_while_threads_take_loses_and_mints_nothing() {
    model(|| {
        let clock = Clock::manual();
        let bucket = Arc::new(TokenBucket::per_second(4).burst(2).clock(clock));
        let admitted = Arc::new(AtomicU64::new(0));
        let takes = {
            let (bucket, admitted) = (bucket.clone(), admitted.clone());
            thread::spawn(move || {
                for _ in 0..2 {
                    if bucket.try_acquire().is_ok() {
                        admitted.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        };
        bucket.set_rate(3, SECOND, 2, Carry::AsIs).unwrap();
        takes.join().unwrap();
        assert_eq!(admitted.load(Ordering::SeqCst), 2);
        assert_eq!(bucket.available(), 0);
        // Nobody gave out more than there was: the next token is a whole one away.
        let wait = bucket.try_acquire().unwrap_err().retry_after().unwrap();
        assert!(wait >= SECOND / 3 && wait <= SECOND / 3 + Duration::from_nanos(4), "{wait:?}");
    });
}

#[test]
fn a_pause_holds_back_a_thread_that_takes_and_gives_back_meanwhile() {
    model(|| {
        let clock = Clock::manual();
        let bucket = Arc::new(TokenBucket::per_second(4).burst(2).clock(clock.clone()));
        let takes = {
            let bucket = bucket.clone();
            thread::spawn(move || match bucket.try_acquire() {
                Ok(mut permit) => permit.settle(0),
                Err(rejected) => assert_eq!(rejected.retry_after(), Some(SECOND)),
            })
        };
        bucket.pause_until(clock.now() + SECOND);
        assert_eq!(bucket.try_acquire().unwrap_err().retry_after(), Some(SECOND));
        takes.join().unwrap();
        assert_eq!(bucket.try_acquire().unwrap_err().retry_after(), Some(SECOND));
        clock.advance(SECOND);
        assert!(bucket.try_acquire().is_ok() && bucket.try_acquire().is_err());
    });
}

/// Trap R7.
#[test]
fn a_waiter_that_leaves_wakes_the_next_while_the_clock_moves() {
    model(|| {
        let clock = Clock::manual();
        let bucket = Arc::new(TokenBucket::per_second(1).clock(clock.clone()));
        assert!(bucket.try_acquire().is_ok());
        let mut first = Box::pin(OwnedPermit::acquire(bucket.clone()));
        assert!(poll(&mut first).is_pending());
        let second = {
            let bucket = bucket.clone();
            thread::spawn(move || bucket.acquire_blocking().unwrap().success())
        };
        clock.advance(SECOND);
        drop(first);
        // The second joined before the first one left, or after: its time is one second or two.
        clock.advance(SECOND);
        second.join().unwrap();
        assert_eq!(bucket.waiting(), 0);
    });
}
