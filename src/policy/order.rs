//! What a type tells about errors, so that an order of policies that cannot work does not compile: [`Errors`].

use crate::judge::Hears;

/// How a policy deals with errors, as far as its type tells.
///
/// Only what is never right is refused, since there is no way round a compile error: a policy that does nothing but hear
/// errors, around something that gives none. All else is advice, in the documentation of [`Policy`](super::Policy).
#[derive(Clone, Copy, Debug)]
pub struct Errors {
    /// It is of no use where nothing further in gives an error.
    needs: bool,
    /// It lets errors out that did not come from further in: rejections, timeouts. Where that is not known, it does.
    gives: bool,
    /// It lets no error out at all.
    stops: bool,
}

impl Errors {
    /// What is not known, and what rejects calls or ends them.
    pub(crate) const GIVES: Self = Self { needs: false, gives: true, stops: false };
    /// What rejects calls after it heard errors.
    pub(crate) const NEEDS_AND_GIVES: Self = Self { needs: true, gives: true, stops: false };
    /// What hands on all that it gets.
    pub(crate) const PASSES: Self = Self { needs: false, gives: false, stops: false };

    /// What acts on the errors that `hears` names, and gives none of its own.
    pub(crate) const fn acting_on(hears: Hears) -> Self {
        Self { needs: !matches!(hears, Hears::Values), ..Self::PASSES }
    }

    /// What puts a value in place of every error. Where there are none it is of no use either, and does no harm.
    pub(crate) const STOPS: Self = Self { stops: true, ..Self::PASSES };

    /// This policy around another.
    pub(crate) const fn around(self, inner: Self) -> Self {
        assert!(
            !(self.needs && inner.stops),
            "a retry, failover or breaker outside a fallback that answers every error never hears one: \
             put the fallback outermost"
        );
        Self {
            needs: inner.needs || self.needs && !inner.gives,
            gives: self.gives || inner.gives && !self.stops,
            stops: self.stops || inner.stops && !self.gives,
        }
    }
}

#[cfg(all(test, not(floodwall_loom)))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        Blocking, Bulkhead, CircuitBreaker, Constant, Error, Failover, Fallback, Policy, Retry, Timeout,
    };

    /// The two traits say the same.
    fn stops<P: Policy<u8, ()> + Blocking<u8, ()>>(_: &P) -> bool {
        let (policy, blocking) = (<P as Policy<u8, ()>>::ERRORS, <P as Blocking<u8, ()>>::ERRORS);
        assert_eq!(
            (policy.needs, policy.gives, policy.stops),
            (blocking.needs, blocking.gives, blocking.stops)
        );
        policy.stops
    }

    fn retry() -> Retry {
        Retry::new(Constant::new(Duration::ZERO))
    }

    #[test]
    fn what_stops_every_error_is_known_by_its_type() {
        let with = || Fallback::with(0);
        assert!(stops(&with()) && stops(&((), with())) && stops(&(with(), retry())));
        assert!(stops(&((with(), Bulkhead::new(1)), CircuitBreaker::builder().build())));
        assert!(stops(&std::sync::Arc::new(with())) && stops(&&Box::new(with())));
        assert!(!stops(&(Bulkhead::new(1), with())) && !stops(&Some(with())) && !stops(&()));
        assert!(!stops(&with().when(|_: &Error<()>| true)) && !stops(&retry()));
        assert!(!stops(&Fallback::from_fn(|result: Result<u8, Error<()>>| result)));
    }

    /// The same at run time.
    fn refused(outer: Errors, inner: Errors) -> bool {
        std::panic::catch_unwind(|| outer.around(inner)).is_err()
    }

    #[test]
    fn what_needs_errors_does_not_stand_around_what_stops_them() {
        type Calls<P> = (P,);
        const fn of<P: Policy<u8, ()>>() -> Errors {
            <Calls<P> as Policy<u8, ()>>::ERRORS
        }
        let with = of::<Fallback<crate::Instead<u8>>>();
        for needs in
            [of::<Retry>(), of::<Failover>(), of::<CircuitBreaker>(), of::<&crate::AdaptiveThrottle>()]
        {
            assert!(refused(needs, with) && refused(needs, of::<()>().around(with)));
            assert!(refused(needs.around(of::<()>()), with), "also as the innermost of a stack");
            assert!(!refused(with, needs) && !refused(needs, needs) && !refused(needs, of::<()>()));
            for gives in [of::<Bulkhead>(), of::<Timeout>()] {
                assert!(!refused(needs, gives.around(with)) && !refused(needs.around(gives), with));
            }
        }
        assert!(refused(of::<Retry>().around(of::<Failover>()), with));
        assert!(!refused(with, with) && !refused(of::<Bulkhead>(), with));
    }

    #[test]
    #[should_panic(expected = "never hears one: put the fallback outermost")]
    fn the_message_says_what_to_do() {
        let _ = Errors::acting_on(Hears::SomeErrors).around(Errors::STOPS);
    }
}
