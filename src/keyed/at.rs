//! The gate of one key in a stack: [`At`].

use std::sync::Arc;
use std::time::Duration;

use crate::acquire::Acquire;
use crate::call::Call;
use crate::error::Rejected;
use crate::event::Outcome;
use crate::gate::{Gate, Permit, Residual, Ticket};

/// The gate of one key, for the calls of a stack; made by [`Keyed::at`](crate::Keyed::at).
///
/// If there was no room for the key, its calls are rejected. Make it for a call, rather than keep it: while it is there,
/// the key is not forgotten.
#[derive(Debug)]
pub struct At<G>(pub(super) Result<Arc<G>, Rejected>);

impl<G> Clone for At<G> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<G: Gate> Gate for At<G> {
    fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        match &self.0 {
            Ok(gate) => gate.try_acquire_for(call),
            Err(rejected) => Err(*rejected),
        }
    }

    fn release(&self, ticket: Ticket, outcome: Outcome) {
        if let Ok(gate) = &self.0 {
            gate.release(ticket, outcome);
        }
    }

    fn settle(&self, ticket: &mut Ticket, actual: u32) {
        if let Ok(gate) = &self.0 {
            gate.settle(ticket, actual);
        }
    }

    fn residual(&self) -> Option<Residual> {
        self.0.as_ref().ok().and_then(|gate| gate.residual())
    }
}

impl<G: Acquire> Acquire for At<G> {
    async fn acquire_within(&self, call: Call, limit: Duration) -> Result<Permit<'_>, Rejected> {
        match &self.0 {
            Ok(gate) => gate.acquire_within(call, limit).await,
            Err(rejected) => Err(*rejected),
        }
    }
}
