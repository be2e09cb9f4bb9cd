//! A model of the short lock: of its own file, with loom's atomics in it.

use std::sync::Arc;

use loom::thread;

use super::model;

#[path = "../../src/short.rs"]
mod lock;

use lock::Short;

#[test]
fn what_one_holder_did_is_seen_by_the_next() {
    model(|| {
        let sum = Arc::new(Short::new(0));
        let other = {
            let sum = sum.clone();
            thread::spawn(move || *sum.lock() += 1)
        };
        *sum.lock() += 2;
        other.join().unwrap();
        assert_eq!(*sum.lock(), 3);
    });
}
