use std::time::Duration;

use floodwall::{Bulkhead, Hedge, Policy};

fn main() {
    let stack = (Bulkhead::new(1), Hedge::after(Duration::from_millis(50)));
    let body = vec![1, 2, 3];
    let _ = stack.call_once(|| async move { Ok::<_, ()>(body) });
}
