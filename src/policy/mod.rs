//! Composition: [`Policy`], and the tuples that are stacks.

mod admit;
mod budget;
mod cached;
mod chaos;
mod failover;
mod fallback;
mod health;
mod hedge;
mod latency;
mod order;
mod retry;
mod stack;
mod timeout;

pub use admit::Gated;
pub use budget::RetryBudget;
pub use chaos::{Answer, Chaos, Fail, Fault, Inject};
pub use failover::Failover;
pub use fallback::{Always, Fallback, Instead, Replace};
pub use hedge::Hedge;
pub use retry::Retry;
pub use timeout::Timeout;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::call::Call;
use crate::error::Error;
use crate::sync::Mutex;
use order::Errors;

/// Runs calls under a policy: a limit, a breaker, a retry loop, a timeout, or a stack of them.
///
/// A tuple of policies is a policy, **outermost first**; tuples nest, `()` does nothing, `Option<P>` switches a policy
/// off, and `&P`, `Arc<P>` and `Box<P>` are what they point to. Gates of your own enter through [`Gated`].
///
/// # Which goes outside which
///
/// A good start, to take parts away from:
///
/// ```text
/// ( fallback,          answers when all the rest could not
///   total timeout,     bounds all that is inside, retries and their delays too
///   retry,             makes again all that is inside
///   hedge,             copies a slow attempt; inside the retry, or it would copy whole series of them
///   failover,          asks another alternate
///   load shed,         } look at every attempt:
///   breaker,           } what refuses without asking anybody stands outside
///   bulkhead,          } what waits or takes something,
///   rate limit,        } and the limit that gives nothing back is last
///   attempt timeout,   bounds one attempt
///   chaos )            stands for the dependency
/// ```
///
/// The mistakes that are made most, and what they do:
///
/// | mistake | what happens | instead |
/// |---|---|---|
/// | only a timeout outside the retry | one hanging attempt uses up the time of all | one outside and one inside |
/// | only a timeout inside the retry | three attempts and their delays take three times as long and more | the same |
/// | a breaker outside the retry | it hears of one failure where three happened, and the retry hammers a dead server in between | inside |
/// | a retry around a retry | three times three attempts, when the server can bear them least | one, where most is known; the others return |
/// | a bulkhead outside the retry | a place stays taken while the retry sleeps | inside, unless it is to bound the work as a whole |
/// | a rate limit outside the retry | the retries pass it for nothing | inside |
/// | a rate limit outside a breaker or a bulkhead | tokens are spent on calls that are then refused | inside |
/// | a rate limit outside a cache | hits use up the quota of misses | inside the cache, where only misses come |
/// | a hedge outside a limit, without a budget | the copies use up the quota exactly when all is slow | a budget, and the limit inside |
/// | a hedge around what must not run twice | it runs twice | [`Call::once`] |
/// | a fallback inside the retry or the breaker | they never hear a failure: this does not compile, see below | outermost |
/// | a failover outside the retry | a dead primary is retried, with delays, before the secondary is asked | inside, unless failures mostly pass |
/// | one breaker for several alternates | it opens for all when one is down | the failover remembers each by itself |
/// | a judge at one gate only | the breaker counts 404 as failures although the retry knows better | the same judge at each |
///
/// # What does not compile
///
/// A retry, failover, breaker or throttle that hears only errors, around a fallback that answers every one of them: it
/// would never do anything. It is found when the call is compiled (`cargo build`, not `cargo check`). Only what is
/// never right is refused; a retry around a retry, say, is right where the inner one repeats lost connections at once
/// and the outer one waits for a server to come back.
///
/// ```compile_fail,E0080
/// # use std::time::Duration;
/// use floodwall::{Constant, Fallback, Policy, Retry};
///
/// let stack = (Retry::new(Constant::new(Duration::ZERO)), Fallback::with(0));
/// let _ = floodwall::block_on(stack.call(|| async { "x".parse::<u8>() }));
/// ```
///
/// # Errors
///
/// Errors stay flat: however deep the stack, a call ends in `Result<T, Error<E>>` with your own `E`.
///
/// # Cancel safety
///
/// A call may be dropped at any await point. Permits are given back, waiters leave their line, and the operation is
/// dropped where it stands.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use floodwall::{Bulkhead, Error, Exponential, Policy, Retry, Timeout, TokenBucket};
///
/// # floodwall::block_on(async {
/// let upstream = (
///     Timeout::new(Duration::from_secs(2)),
///     Retry::new(Exponential::new(Duration::from_millis(1)).attempts(3)),
///     Bulkhead::new(64),
///     TokenBucket::per_second(500),
/// );
/// let answer = upstream.call(|| async { "42".parse::<u8>() }).await;
/// assert_eq!(answer, Ok(42));
/// # });
/// ```
///
/// A policy of your own is one method:
///
/// ```
/// use floodwall::{Call, Error, Policy};
///
/// struct Logged;
/// impl<T: Send, E: Send> Policy<T, E> for Logged {
///     async fn around<F, Fut>(&self, call: Call, next: F) -> Result<T, Error<E>>
///     where
///         F: Fn(Call) -> Fut + Send + Sync,
///         Fut: Future<Output = Result<T, Error<E>>> + Send,
///     {
///         let result = next(call).await;
///         println!("attempt {}: ok {}", call.attempt, result.is_ok());
///         result
///     }
/// }
/// assert_eq!(floodwall::block_on((Logged,).call(|| async { Ok::<_, ()>(1) })), Ok(1));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a policy for calls that give `Result<{T}, {E}>`",
    note = "put a gate of your own into a stack as `Gated(gate)`",
    note = "a judge or fallback must fit the call's types: write them out, as in `|error: &Error<MyError>| ..`"
)]
pub trait Policy<T: Send, E: Send>: Send + Sync {
    /// How it deals with errors, for the check of what does not compile. Leave it as it is.
    #[doc(hidden)]
    const ERRORS: Errors = Errors::GIVES;

    /// Runs `next` under this policy. Implement this; call [`call`](Policy::call).
    ///
    /// `next` may be called any number of times, with the call as it is or tightened.
    fn around<F, Fut>(&self, call: Call, next: F) -> impl Future<Output = Result<T, Error<E>>> + Send
    where
        F: Fn(Call) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Error<E>>> + Send;

    /// Runs `op` under this policy.
    ///
    /// # Errors
    ///
    /// How the call ended badly: see [`Error`].
    fn call<F, Fut>(&self, op: F) -> impl Future<Output = Result<T, Error<E>>> + Send
    where
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        self.around(Call::new(), move |_| lifted(op()))
    }

    /// Runs `op` under this policy, for a call with a deadline, a cost or a priority. `op` sees what is left of it.
    ///
    /// # Errors
    ///
    /// How the call ended badly: see [`Error`].
    fn call_with<F, Fut>(&self, call: Call, op: F) -> impl Future<Output = Result<T, Error<E>>> + Send
    where
        F: Fn(Call) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        self.around(call, move |call| lifted(op(call)))
    }

    /// Runs `op`, which can run only once: it moves a body, or borrows a connection mutably.
    ///
    /// # Errors
    ///
    /// How the call ended badly: see [`Error`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Policy, Timeout};
    ///
    /// let body = String::from("moved, not cloned");
    /// let timeout = Timeout::new(Duration::from_secs(1));
    /// let sent = timeout.call_once(|| async move { Ok::<_, ()>(body.len()) });
    /// assert_eq!(floodwall::block_on(sent), Ok(17));
    /// ```
    fn call_once<F, Fut>(&self, op: F) -> impl Future<Output = Result<T, Error<E>>> + Send
    where
        Self: Once,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        self.call_once_with(Call::new(), |_| op())
    }

    /// Runs `op`, which can run only once, for a call with a deadline, a cost or a priority.
    ///
    /// # Errors
    ///
    /// How the call ended badly: see [`Error`].
    fn call_once_with<F, Fut>(&self, call: Call, op: F) -> impl Future<Output = Result<T, Error<E>>> + Send
    where
        Self: Once,
        F: FnOnce(Call) -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let op = Mutex::new(Some(op));
        self.around(call.once(), move |call| {
            let op = op.lock().take().expect("a policy that implements Once called twice");
            lifted(op(call))
        })
    }
}

/// Policies that run their call at most once, so that [`call_once`](Policy::call_once) can use them: gates,
/// [`Timeout`], [`Fallback`], [`Chaos`], and stacks of them; not [`Retry`], [`Hedge`] and [`Failover`].
///
/// ```compile_fail
/// # use std::time::Duration;
/// use floodwall::{Constant, Policy, Retry};
/// let body = String::from("moved");
/// let retry = Retry::new(Constant::new(Duration::ZERO));
/// let _ = retry.call_once(|| async move { Ok::<_, ()>(body) });
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` may run a call more than once",
    label = "a call that can be made only once cannot be repeated",
    note = "use `call` with an operation that can run again, or leave the retry or hedge out of this stack"
)]
pub trait Once {}

/// Policies whose promise also holds on a plain thread: no `Send` bounds, and `op` may borrow and change what it likes.
///
/// [`Timeout`] and [`Hedge`] are not: a thread cannot abandon a call that is running.
///
/// ```
/// use floodwall::{Blocking, Bulkhead, TokenBucket};
///
/// let stack = (Bulkhead::new(8), TokenBucket::per_second(100));
/// let mut reads = 0;
/// let size = stack.call_blocking(|| {
///     reads += 1;
///     std::fs::read("Cargo.toml").map(|bytes| bytes.len())
/// });
/// assert!(size.unwrap() > 0 && reads == 1);
/// ```
///
/// ```compile_fail
/// # use std::time::Duration;
/// use floodwall::{Blocking, Timeout};
/// let stack = (Timeout::new(Duration::from_secs(1)),);
/// let _ = stack.call_blocking(|| Ok::<_, ()>(1));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot guard a blocking call",
    label = "it would have to abandon a call in flight, which a thread cannot do",
    note = "take the timeout or hedge out of the stack and set a time limit in the driver, or use the async `call`"
)]
pub trait Blocking<T, E> {
    /// How it deals with errors: see `Policy::ERRORS`. Leave it as it is.
    #[doc(hidden)]
    const ERRORS: Errors = Errors::GIVES;

    /// Runs `next` under this policy. Implement this; call [`call_blocking`](Blocking::call_blocking).
    fn around_blocking<F>(&self, call: Call, next: F) -> Result<T, Error<E>>
    where
        F: FnMut(Call) -> Result<T, Error<E>>;

    /// Runs `op` under this policy, on this thread.
    ///
    /// # Errors
    ///
    /// How the call ended badly: see [`Error`].
    fn call_blocking<F>(&self, mut op: F) -> Result<T, Error<E>>
    where
        F: FnMut() -> Result<T, E>,
    {
        self.around_blocking(Call::new(), move |_| op().map_err(Error::Inner))
    }

    /// Runs `op` under this policy, on this thread, for a call with a deadline, a cost or a priority.
    ///
    /// The deadline bounds waits and retries; a call that runs is not interrupted.
    ///
    /// # Errors
    ///
    /// How the call ended badly: see [`Error`].
    fn call_blocking_with<F>(&self, call: Call, mut op: F) -> Result<T, Error<E>>
    where
        F: FnMut(Call) -> Result<T, E>,
    {
        self.around_blocking(call, move |call| op(call).map_err(Error::Inner))
    }
}

pin_project! {
    /// An operation whose error is lifted. Not an `async fn`, which would move the operation once more.
    struct Lifted<Fut> {
        #[pin]
        op: Fut,
    }
}

fn lifted<Fut>(op: Fut) -> Lifted<Fut> {
    Lifted { op }
}

impl<T, E, Fut: Future<Output = Result<T, E>>> Future for Lifted<Fut> {
    type Output = Result<T, Error<E>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().op.poll(context) {
            Poll::Ready(Ok(value)) => Poll::Ready(Ok(value)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(Error::Inner(error))),
            Poll::Pending => Poll::Pending,
        }
    }
}

macro_rules! delegate_policy {
    ($pointer:ty) => {
        impl<T: Send, E: Send, P: Policy<T, E> + ?Sized> Policy<T, E> for $pointer {
            const ERRORS: Errors = P::ERRORS;

            fn around<F, Fut>(&self, call: Call, next: F) -> impl Future<Output = Result<T, Error<E>>> + Send
            where
                F: Fn(Call) -> Fut + Send + Sync,
                Fut: Future<Output = Result<T, Error<E>>> + Send,
            {
                (**self).around(call, next)
            }
        }

        impl<P: Once + ?Sized> Once for $pointer {}

        impl<T, E, P: Blocking<T, E> + ?Sized> Blocking<T, E> for $pointer {
            const ERRORS: Errors = P::ERRORS;

            fn around_blocking<F>(&self, call: Call, next: F) -> Result<T, Error<E>>
            where
                F: FnMut(Call) -> Result<T, Error<E>>,
            {
                (**self).around_blocking(call, next)
            }
        }
    };
}
delegate_policy!(&P);
delegate_policy!(Arc<P>);
delegate_policy!(Box<P>);
