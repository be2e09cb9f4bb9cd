use std::time::Duration;

use floodwall::{Blocking, Bulkhead, Hedge};

fn guard<P: Blocking<u64, ()>>(policy: P) -> bool {
    policy.call_blocking(|| Ok(1)).is_ok()
}

fn main() {
    guard((Hedge::after(Duration::from_millis(50)), Bulkhead::new(1)));
}
