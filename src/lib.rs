#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

// In layers: a module imports only from those above it here, and primitives never import each other
// (`tests/tidy.rs` checks it).
mod error;
mod event;

mod answer;
mod hash;
mod lanes;
mod park;
mod places;
mod prefetch;
mod rng;
mod shards;
#[cfg(not(floodwall_loom))]
mod short;
// The lock has a model of its own. Others take it for a plain one: what is looked at again and again has too many orders.
#[cfg(floodwall_loom)]
mod short {
    pub(crate) use crate::sync::{Mutex as Short, MutexGuard as ShortGuard};
}
mod slab;
mod sync;

mod backoff;
mod clock;
mod histogram;
mod window;

mod bell;
mod call;
mod discipline;
mod judge;
mod setters;
mod wait;

mod gate;
mod semaphore;

mod acquire;

mod flight;

mod breaker;
mod bulkhead;
pub mod cache;
mod concurrency;
mod limit;
pub mod pool;
mod queue;
pub mod shard;
mod shed;
mod throttle;

mod waiting_room;
mod workers;

pub mod headers;

mod keyed;

mod keyed_pool;

mod policy;

pub mod store;

#[cfg(feature = "tower")]
#[cfg_attr(docsrs, doc(cfg(feature = "tower")))]
pub mod tower;

#[cfg(doc)]
#[doc = include_str!("design.md")]
pub mod design {}

// Words: how a call can end, what primitives say, what a call asks for.
pub use call::Call;
pub use error::{BadSetting, Error, Reason, Rejected, TimedOut};
pub use event::{DropReason, Event, GiveUp, Observer, Outcome, State};

// Ground.
pub use hash::stable_hash;
pub use park::block_on;

// Time.
pub use backoff::{Backoff, Constant, Delays, Exponential, Jitter};
pub use clock::{Clock, Sleep, TimeSource};
pub use histogram::Histogram;

// Admission.
pub use acquire::{Acquire, WaitUpTo};
pub use gate::{Gate, OwnedPermit, Permit, Residual, Ticket};
pub use judge::{AnyError, Judge, Judged, When};

// Primitives.
pub use breaker::{BreakerMode, BreakerThresholds, CallCounts, CircuitBreaker, CircuitBreakerBuilder};
pub use bulkhead::Bulkhead;
pub use cache::{Cache, CacheBuilder};
pub use concurrency::AdaptiveConcurrency;
pub use discipline::Priorities;
pub use flight::{FlightAt, OwnErrors, SharedErrors, Sharing, SingleFlight};
pub use limit::{
    AdaptiveRate, AllOf, BucketAt, Carry, FixedWindow, PriorityBucket, Quota, Reservation, SlidingCounter,
    SlidingLog, TokenBucket, TokenBuckets,
};
pub use pool::{Checkout, Manager, Pool, PoolBuilder};
pub use queue::{Overflow, Pop, PopError, Push, PushError, Queue, QueueStats, Unpushed};
#[cfg(feature = "stream")]
#[cfg_attr(docsrs, doc(cfg(feature = "stream")))]
pub use queue::{QueueSink, QueueStream};
pub use shard::Sharder;
pub use shed::{LatencyShed, LoadShed};
pub use throttle::AdaptiveThrottle;
pub use waiting_room::{Waiting, WaitingRoom};
pub use workers::{Job, JobError, Shutdown, Work, Workers, WorkersBuilder, WorkersStats};

// A primitive for each key.
pub use keyed::{At, Keyed};
pub use keyed_pool::{KeyedCheckout, KeyedPool, KeyedPoolStatus};

// Composition.
pub use policy::{
    Always, Blocking, Chaos, Failover, Fallback, Gated, Hedge, Instead, Once, Policy, Replace, Retry,
    RetryBudget, Timeout,
};

// The system of record.
pub use store::{CachedStore, Store, WriteBehind, WriteBehindBuilder};

pub mod chaos {
    //! What a [`Chaos`](crate::Chaos) can inject.

    pub use crate::policy::{Answer, Fail, Fault, Inject};
}
