use std::time::Duration;

use floodwall::{Bulkhead, Constant, Policy, Retry};

fn main() {
    let stack = (Bulkhead::new(1), Retry::new(Constant::new(Duration::ZERO)));
    let body = vec![1, 2, 3];
    let _ = stack.call_once(|| async move { Ok::<_, ()>(body) });
}
