#![deny(unused_must_use)]

use floodwall::{Bulkhead, CircuitBreaker, Gate, Rejected};

fn main() -> Result<(), Rejected> {
    Bulkhead::new(1).try_acquire()?;
    CircuitBreaker::builder();
    Ok(())
}
