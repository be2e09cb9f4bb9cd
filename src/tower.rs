//! Any stack as a tower layer: [`PolicyLayer`].
//!
//! [`PolicyLayer::new`] is for stacks that run a call at most once: it needs nothing of the request but `Send`, so
//! streaming bodies pass. [`PolicyLayer::repeating`] is for stacks that retry: it is told how to copy a request.
//!
//! `poll_ready` is the inner service's, and the service that was made ready is the one that is called; for a further
//! attempt a clone of it is made ready first. The policies' state is shared by all clones of the layer and of its
//! services.

use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use crate::sync::Mutex;
use crate::{Call, Error, Once, Policy, Reason, Rejected};

/// Puts a stack of policies around any service that can be cloned.
///
/// The service's errors become [`Error<S::Error>`](Error), so that a handler further out can tell what ran and failed
/// from what never ran. With axum, turn them into answers with its `HandleErrorLayer`. A tower layer further out that
/// boxes errors takes them after `.map_err(Error::lift::<BoxError>)`.
///
/// # Cost
///
/// One allocation per call, for the boxed future that tower's trait asks for.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
/// use floodwall::tower::PolicyLayer;
/// use floodwall::{Bulkhead, Error, TokenBucket};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # floodwall::block_on(async {
/// let greeter = ServiceBuilder::new()
///     .layer(PolicyLayer::new((Bulkhead::new(64), TokenBucket::per_second(1))))
///     .service(service_fn(|name: &'static str| async move { Ok::<_, Infallible>(format!("hello {name}")) }));
/// assert_eq!(greeter.clone().oneshot("wall").await.unwrap(), "hello wall");
/// assert!(matches!(greeter.oneshot("again").await, Err(Error::Rejected(_))));
/// # });
/// ```
pub struct PolicyLayer<P, C = Never> {
    policy: Arc<P>,
    copy: C,
}

/// Marks a layer whose stack makes each call at most once.
#[derive(Clone, Copy, Debug)]
pub struct Never;

impl<P: Once> PolicyLayer<P> {
    /// A layer for a stack that runs each call at most once.
    pub fn new(policy: P) -> Self {
        Self { policy: Arc::new(policy), copy: Never }
    }
}

impl<P, C> PolicyLayer<P, C> {
    /// A layer for a stack that may run a call again. `copy` copies a request for a further attempt, or returns `None`
    /// for a request that must not be sent twice: such a call is not repeated, see [`Call::once`]. It is asked before
    /// the first attempt, and should answer alike for one request: if it refuses only later, the call ends as rejected
    /// by "tower", and the error of the attempt before is lost.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::tower::PolicyLayer;
    /// use floodwall::{Exponential, Retry};
    /// # struct Request { method: &'static str, path: String }
    ///
    /// let retry = Retry::new(Exponential::new(Duration::from_millis(50)));
    /// let layer = PolicyLayer::repeating((retry,), |request: &Request| {
    ///     (request.method == "GET").then(|| Request { method: "GET", path: request.path.clone() })
    /// });
    /// # let _ = layer;
    /// ```
    pub fn repeating<R>(policy: P, copy: C) -> Self
    where
        C: Fn(&R) -> Option<R>,
    {
        Self { policy: Arc::new(policy), copy }
    }
}

impl<P, C: Clone> Clone for PolicyLayer<P, C> {
    fn clone(&self) -> Self {
        Self { policy: self.policy.clone(), copy: self.copy.clone() }
    }
}

impl<P: fmt::Debug, C> fmt::Debug for PolicyLayer<P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyLayer").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl<S, P, C: Clone> Layer<S> for PolicyLayer<P, C> {
    type Service = PolicyService<S, P, C>;

    fn layer(&self, service: S) -> Self::Service {
        PolicyService { service, layer: self.clone() }
    }
}

/// A service under a stack of policies; made by [`PolicyLayer`].
pub struct PolicyService<S, P, C = Never> {
    service: S,
    layer: PolicyLayer<P, C>,
}

impl<S: fmt::Debug, P: fmt::Debug, C> fmt::Debug for PolicyService<S, P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyService").field("service", &self.service).field("layer", &self.layer).finish()
    }
}

impl<S: Clone, P, C: Clone> Clone for PolicyService<S, P, C> {
    fn clone(&self) -> Self {
        Self { service: self.service.clone(), layer: self.layer.clone() }
    }
}

/// The service that was made ready; a clone, which is not, stays behind for the next call.
fn take_ready<S: Clone>(service: &mut S) -> S {
    let next = service.clone();
    mem::replace(service, next)
}

/// The future of one call.
pub type PolicyFuture<T, E> = Pin<Box<dyn Future<Output = Result<T, Error<E>>> + Send>>;

impl<S, P, R> Service<R> for PolicyService<S, P, Never>
where
    S: Service<R> + Clone + Send + 'static,
    S::Response: Send,
    S::Error: Send,
    S::Future: Send,
    P: Policy<S::Response, S::Error> + Once + 'static,
    R: Send + 'static,
{
    type Response = S::Response;
    type Error = Error<S::Error>;
    type Future = PolicyFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(context).map_err(Error::Inner)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let mut service = take_ready(&mut self.service);
        let policy = self.layer.policy.clone();
        Box::pin(async move { policy.call_once(move || service.call(request)).await })
    }
}

impl<S, P, C, R> Service<R> for PolicyService<S, P, C>
where
    S: Service<R> + Clone + Send + 'static,
    S::Response: Send,
    S::Error: Send,
    S::Future: Send,
    P: Policy<S::Response, S::Error> + 'static,
    C: Fn(&R) -> Option<R> + Clone + Send + Sync + 'static,
    R: Send + 'static,
{
    type Response = S::Response;
    type Error = Error<S::Error>;
    type Future = PolicyFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(context).map_err(Error::Inner)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let ready = take_ready(&mut self.service);
        let spare = self.service.clone();
        let PolicyLayer { policy, copy } = self.layer.clone();
        Box::pin(async move {
            let (call, attempts) = match copy(&request) {
                Some(first) => {
                    (Call::new(), Attempts { first: Some((ready, first)), spare, original: Some(request) })
                }
                None => {
                    (Call::new().once(), Attempts { first: Some((ready, request)), spare, original: None })
                }
            };
            let (attempts, copy) = (&Mutex::new(attempts), &copy);
            policy.around(call, move |_| attempt(attempts, copy)).await
        })
    }
}

/// What the attempts of one call share.
struct Attempts<S, R> {
    /// The first attempt's: the service that was made ready, and a request.
    first: Option<(S, R)>,
    /// Cloned for each further attempt.
    spare: S,
    /// Copied for each further attempt, if the request can be.
    original: Option<R>,
}

async fn attempt<S, R, C>(attempts: &Mutex<Attempts<S, R>>, copy: &C) -> Result<S::Response, Error<S::Error>>
where
    S: Service<R> + Clone,
    C: Fn(&R) -> Option<R>,
{
    let (mut service, request, is_ready) = {
        // Cloning and copying are the user's code, under a lock that belongs to this call alone: nothing of theirs
        // can wait for it. It is there because a request need not be `Sync`.
        let mut attempts = attempts.lock();
        match attempts.first.take() {
            Some((service, request)) => (service, request, true),
            None => match attempts.original.as_ref().and_then(copy) {
                Some(request) => (attempts.spare.clone(), request, false),
                None => return Err(Rejected::new("tower", Reason::Closed).into()),
            },
        }
    };
    if !is_ready {
        poll_fn(|context| service.poll_ready(context)).await.map_err(Error::Inner)?;
    }
    service.call(request).await.map_err(Error::Inner)
}
