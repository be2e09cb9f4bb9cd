use std::time::Duration;

use floodwall::{Blocking, Bulkhead, Timeout};

fn guard<P: Blocking<u64, ()>>(policy: P) -> bool {
    policy.call_blocking(|| Ok(1)).is_ok()
}

fn main() {
    guard((Timeout::new(Duration::from_secs(1)), Bulkhead::new(1)));
}
