//! What users write, compiled and run: spawned stacks, borrowed locals, moved bodies, `?` into other errors.
#![cfg(not(floodwall_loom))]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use floodwall::{
    Acquire, AdaptiveThrottle, Blocking, Bulkhead, Call, Chaos, CircuitBreaker, Constant, Error, Exponential,
    Failover, Fallback, Gate, Gated, LatencyShed, LoadShed, Once, Outcome, OwnedPermit, Permit, Policy,
    Reason, Rejected, Retry, State, Ticket, TimedOut, Timeout, TokenBucket, block_on,
};

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn upstream() -> impl Policy<u64, std::io::Error> + Clone + 'static {
    Arc::new((
        Timeout::new(millis(2000)),
        Retry::new(Exponential::new(millis(1)).attempts(4)),
        CircuitBreaker::builder().build(),
        Bulkhead::new(64),
        TokenBucket::per_second(500),
        Timeout::new(millis(400)),
    ))
}

async fn fetch(id: u64) -> std::io::Result<u64> {
    tokio::task::yield_now().await;
    Ok(id * 2)
}

/// A handler that is generic over its stack spawns a call.
fn handle<P>(policy: P, id: u64) -> tokio::task::JoinHandle<Result<u64, Error<std::io::Error>>>
where
    P: Policy<u64, std::io::Error> + Clone + 'static,
{
    tokio::spawn(async move { policy.call(|| fetch(id)).await })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generic_handler_spawns_its_stack() {
    let stack = upstream();
    let calls: Vec<_> = (0..20).map(|id| handle(stack.clone(), id)).collect();
    for (id, call) in (0..).zip(calls) {
        assert_eq!(call.await.unwrap().unwrap(), id * 2);
    }
}

#[tokio::test]
async fn closures_borrow_locals() {
    let stack = (Retry::new(Constant::new(Duration::ZERO)), Bulkhead::new(1));
    let name = String::from("wall");
    let length = stack.call(|| async { Ok::<_, ()>(name.len()) }).await;
    assert_eq!(length, Ok(4));
    assert_eq!(name, "wall");
}

#[tokio::test]
async fn async_closures_are_operations() {
    let stack = (Bulkhead::new(1), Timeout::new(millis(100)));
    let factor = 3;
    assert_eq!(stack.call(async || Ok::<_, ()>(7 * factor)).await, Ok(21));
    let call = Call::new().cost(2);
    assert_eq!(stack.call_with(call, async |call: Call| Ok::<_, ()>(call.cost)).await, Ok(2));
}

#[tokio::test]
async fn a_call_made_once_moves_its_body_or_borrows_a_connection() {
    let stack = (Timeout::new(millis(100)), Bulkhead::new(1), TokenBucket::per_second(10));
    let body = vec![1, 2, 3];
    assert_eq!(stack.call_once(|| async move { Ok::<_, ()>(body.into_iter().sum::<i32>()) }).await, Ok(6));

    let mut connection = String::new();
    let written = stack
        .call_once(|| async {
            connection.push_str("hello");
            Ok::<_, ()>(connection.len())
        })
        .await;
    assert_eq!(written, Ok(5));
    assert_eq!(connection, "hello");
}

#[tokio::test]
async fn errors_flow_into_anyhow_and_into_an_enum() {
    async fn in_anyhow(stack: &impl Policy<u64, std::num::ParseIntError>) -> anyhow::Result<u64> {
        Ok(stack.call(|| async { "x".parse() }).await?)
    }
    assert!(in_anyhow(&()).await.unwrap_err().to_string().contains("invalid digit"));

    async fn anyhow_inside(stack: &impl Policy<u64, anyhow::Error>) -> anyhow::Result<u64> {
        stack.call(|| async { Err(anyhow::anyhow!("inside")) }).await.map_err(Error::lift)
    }
    assert_eq!(anyhow_inside(&()).await.unwrap_err().to_string(), "inside");

    #[derive(Debug)]
    enum AppError {
        Parse,
        Busy(Rejected),
        Slow(TimedOut),
    }
    impl From<std::num::ParseIntError> for AppError {
        fn from(_: std::num::ParseIntError) -> Self {
            AppError::Parse
        }
    }
    impl From<Rejected> for AppError {
        fn from(rejected: Rejected) -> Self {
            AppError::Busy(rejected)
        }
    }
    impl From<TimedOut> for AppError {
        fn from(timed_out: TimedOut) -> Self {
            AppError::Slow(timed_out)
        }
    }
    async fn in_enum(stack: &impl Policy<u64, std::num::ParseIntError>) -> Result<u64, AppError> {
        let number = stack.call(|| async { "x".parse() }).await.map_err(Error::lift::<AppError>)?;
        Ok(number + 1)
    }
    assert!(matches!(in_enum(&()).await, Err(AppError::Parse)));
    let full = Bulkhead::new(1);
    let _permit = full.try_acquire().unwrap();
    assert!(matches!(in_enum(&full).await, Err(AppError::Busy(r)) if r.reason() == Reason::BulkheadFull));
    let pending =
        Timeout::new(millis(1)).call(std::future::pending::<Result<(), std::num::ParseIntError>>).await;
    assert!(matches!(pending.map_err(Error::lift), Err(AppError::Slow(t)) if t.after() == millis(1)));
}

/// A stack has a type that can be written down.
struct Client {
    stack: (Timeout, Option<Retry>, Arc<CircuitBreaker>, Arc<dyn Gate>),
}

impl Client {
    async fn get(&self, id: u64) -> Result<u64, Error<std::io::Error>> {
        self.stack.call(|| fetch(id)).await
    }
}

#[tokio::test]
async fn a_stack_lives_in_a_field() {
    let breaker = Arc::new(CircuitBreaker::builder().build());
    let client =
        Client { stack: (Timeout::new(millis(500)), None, breaker.clone(), Arc::new(Bulkhead::new(2))) };
    assert_eq!(client.get(4).await.unwrap(), 8);
    assert_eq!(breaker.state(), State::Closed);
}

struct Maintenance(AtomicBool);

impl Gate for Maintenance {
    fn try_acquire_for(&self, _: Call) -> Result<Permit<'_>, Rejected> {
        if self.0.load(Ordering::Relaxed) {
            return Err(Rejected::new("maintenance", Reason::Closed));
        }
        Ok(Permit::free())
    }
}

#[derive(Default)]
struct Seen(AtomicU32, AtomicU32);

impl Gate for Seen {
    fn try_acquire_for(&self, call: Call) -> Result<Permit<'_>, Rejected> {
        Ok(Permit::new(self, Ticket::new(u64::from(self.0.fetch_add(1, Ordering::Relaxed)), call)))
    }

    fn release(&self, ticket: Ticket, outcome: Outcome) {
        assert!(ticket.word() < u64::from(self.0.load(Ordering::Relaxed)));
        self.1.fetch_add(u32::from(outcome == Outcome::Success), Ordering::Relaxed);
    }
}

struct CountCalls<'a>(&'a AtomicU32);

impl<T: Send, E: Send> Policy<T, E> for CountCalls<'_> {
    async fn around<F, Fut>(&self, call: Call, next: F) -> Result<T, Error<E>>
    where
        F: Fn(Call) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Error<E>>> + Send,
    {
        self.0.fetch_add(1, Ordering::Relaxed);
        next(call).await
    }
}

impl Once for CountCalls<'_> {}

#[tokio::test]
async fn gates_and_policies_of_ones_own_join_a_stack() {
    let (count, seen) = (AtomicU32::new(0), Seen::default());
    let stack = (CountCalls(&count), Gated(Maintenance(AtomicBool::new(false))), Gated(&seen));
    assert_eq!(stack.call_once(|| async { Ok::<_, ()>(1) }).await, Ok(1));
    let shared: Arc<dyn Gate> = Arc::new(Maintenance(AtomicBool::new(true)));
    let closed = (&stack, shared).call(|| async { Ok::<_, ()>(1) }).await;
    assert_eq!(closed, Err(Error::Rejected(Rejected::new("maintenance", Reason::Closed))));
    assert_eq!(count.load(Ordering::Relaxed), 2);
    assert_eq!(seen.0.load(Ordering::Relaxed), 2);
    assert_eq!(seen.1.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_owned_permit_crosses_a_spawn() {
    let bulkhead = Arc::new(Bulkhead::new(1));
    let permit = OwnedPermit::acquire(bulkhead.clone()).await.unwrap();
    assert_eq!(bulkhead.running(), 1);
    tokio::spawn(async move { permit.success() }).await.unwrap();
    assert_eq!(bulkhead.running(), 0);
}

#[test]
fn threads_use_the_same_stack() {
    let stack = (
        Fallback::with(0),
        Retry::new(Constant::new(Duration::ZERO).attempts(2)),
        Bulkhead::new(2),
        TokenBucket::per_second(100),
    );
    let mut attempts = 0;
    let answer = stack.call_blocking(|| {
        attempts += 1;
        if attempts == 1 { Err("first") } else { Ok(attempts) }
    });
    assert_eq!(answer, Ok(2));
    assert_eq!(stack.call_blocking(|| Err::<i32, _>("always")), Ok(0));
    let wait = (Bulkhead::new(1).wait_up_to(millis(1)),);
    assert_eq!(wait.call_blocking(|| Ok::<_, ()>(1)), Ok(1));
}

#[test]
fn tuples_nest_and_hold_eight() {
    let inner = ((), Bulkhead::new(1));
    let stack = ((), (), (), (), (), inner, Some(Bulkhead::new(1)), None::<Bulkhead>);
    assert_eq!(block_on(stack.call(|| async { Ok::<_, ()>(8) })), Ok(8));
    assert_eq!(stack.call_blocking(|| Ok::<_, ()>(8)), Ok(8));
    let reference = &&stack;
    assert_eq!(block_on(reference.call(|| async { Ok::<_, ()>(8) })), Ok(8));
}

#[test]
fn a_static_bulkhead_and_a_static_bucket_compile() {
    static SLOTS: Bulkhead = Bulkhead::new(2);
    static MAIL: TokenBucket = TokenBucket::per_second(5).burst(20);
    let stack = (&SLOTS, &MAIL);
    assert_eq!(stack.call_blocking(|| Ok::<_, ()>(SLOTS.running())), Ok(1));
    assert_eq!(MAIL.available(), 19);
}

#[test]
fn everything_is_send_sync_and_debug() {
    fn check<T: Send + Sync + std::fmt::Debug>() {}
    check::<TokenBucket>();
    check::<Bulkhead>();
    check::<CircuitBreaker>();
    check::<Retry>();
    check::<Timeout>();
    check::<Fallback<u8>>();
    check::<Failover>();
    check::<Chaos<floodwall::chaos::Fault>>();
    check::<AdaptiveThrottle>();
    check::<LoadShed>();
    check::<LatencyShed>();
    check::<Permit<'_>>();
    check::<OwnedPermit>();
    check::<Error<std::io::Error>>();
    check::<floodwall::Clock>();
}
