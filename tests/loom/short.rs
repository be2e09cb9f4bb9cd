//! A model of the short lock: of its own file, with loom's atomics in it.

use std::sync::Arc;

use loom::thread;

use super::model;

#[path = "../../src/short.rs"]
#[allow(unreachable_pub, reason = "it is written for another crate")]
mod lock;

use lock::Short;

/// A third one makes those who wait be more than one; each may be the next.
#[test]
fn what_one_holder_did_is_seen_by_the_next() {
    model(|| {
        let sum = Arc::new(Short::new(0));
        let others: Vec<_> = [1, 2]
            .map(|number| {
                let sum = sum.clone();
                thread::spawn(move || *sum.lock() += number)
            })
            .into();
        let seen = *sum.lock();
        assert!(seen <= 3);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(*sum.lock(), 3);
    });
}
