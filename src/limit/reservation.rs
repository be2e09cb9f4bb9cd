//! Tokens of a bucket taken for later: [`Reservation`].

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Poll, Waker, ready};
use std::time::Duration;

use super::line::wake;
use super::token_bucket::{Refusal, TokenBucket};
use crate::call::Call;
use crate::clock::NEVER;
use crate::error::{Reason, Rejected, saturating_nanos};
use crate::gate::Permit;

/// Tokens that were taken.
#[derive(Debug)]
pub(super) struct Taken {
    /// What the word became.
    pub(super) next: u64,
    /// In how many nanoseconds they are there.
    pub(super) wait: u64,
    /// In units.
    pub(super) cost: u64,
    /// Which of the bucket's rates they are counted in.
    pub(super) version: u64,
}

impl TokenBucket {
    /// Takes the call's tokens for later: at most `limit` from now, and before the call's deadline.
    ///
    /// Use it to run work at its time by other means, or to take tokens of several limits before waiting for any.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use floodwall::{Call, Clock, TokenBucket};
    ///
    /// let bucket = TokenBucket::per_second(1).clock(Clock::manual());
    /// let first = bucket.reserve(Call::new(), Duration::ZERO)?;
    /// let second = bucket.reserve(Call::new(), Duration::from_secs(5))?;
    /// assert_eq!(second.wait(), Duration::from_secs(1));
    /// drop(first); // gives its token back
    /// assert_eq!(second.wait(), Duration::ZERO);
    /// # Ok::<(), floodwall::Rejected>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the tokens are not there in time, or too many wait already. Nothing is taken then.
    pub fn reserve(&self, call: Call, limit: Duration) -> Result<Reservation<'_>, Rejected> {
        match self.take(call, 0, None) {
            Ok(taken) => Ok(Reservation { bucket: self, call, until: NEVER, taken, place: Place::Ready }),
            Err(Refusal { reason: Reason::RateLimited, .. }) if !limit.is_zero() => {
                self.reserve_at(call, limit, self.clock.nanos())
            }
            Err(refusal) => Err(self.rejected(refusal)),
        }
    }

    /// Takes tokens for later at a time that was read outside every lock, since a clock may be the user's.
    pub(super) fn reserve_at(
        &self,
        call: Call,
        limit: Duration,
        now: u64,
    ) -> Result<Reservation<'_>, Rejected> {
        let limit = saturating_nanos(limit);
        self.start_if_cold(&self.shared.read(), now);
        let mut line = self.line().lock();
        if line.is_full() {
            // Not waited for, they may still be there.
            let taken = self.take(call, 0, Some(now)).map_err(|refusal| self.rejected(refusal))?;
            return Ok(Reservation { bucket: self, call, until: NEVER, taken, place: Place::Ready });
        }
        let taken = self.take(call, limit, Some(now)).map_err(|refusal| self.rejected(refusal))?;
        let until = now.saturating_add(limit);
        let place =
            if taken.wait > 0 { Place::InLine(line.join(taken.next, taken.cost)) } else { Place::Ready };
        Ok(Reservation { bucket: self, call, until, taken, place })
    }
}

/// Tokens taken for later; made by [`TokenBucket::reserve`]. Dropped unused, it gives them back, and those behind it
/// move up.
#[derive(Debug)]
#[must_use = "gives its tokens back when it is dropped"]
pub struct Reservation<'a> {
    pub(super) bucket: &'a TokenBucket,
    pub(super) call: Call,
    /// How long it is willing to wait.
    pub(super) until: u64,
    pub(super) taken: Taken,
    pub(super) place: Place,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Ready,
    InLine(usize),
    /// The tokens were used, or given back.
    Gone,
}

impl<'a> Reservation<'a> {
    /// Returns how long until the tokens are there; less than before if others gave up.
    pub fn wait(&self) -> Duration {
        let now = self.bucket.clock.nanos();
        Duration::from_nanos(self.ready_at(now, None).saturating_sub(now))
    }

    /// Waits until the tokens are there, and turns them into a permit.
    ///
    /// # Errors
    ///
    /// If they come later than it was willing to wait, because the bucket was paused, charged or slowed down meanwhile.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the tokens back.
    pub async fn ready(mut self) -> Result<Permit<'a>, Rejected> {
        self.turn().await?;
        Ok(self.into_permit())
    }

    /// Waits until the tokens are there, and does not use them yet: dropped, it still gives them back.
    pub(super) async fn turn(&mut self) -> Result<(), Rejected> {
        let mut sleep = pin!(None);
        let mut armed_for = None;
        poll_fn(|context| {
            let (bucket, now) = (self.bucket, self.bucket.clock.nanos());
            let ready_at = self.ready_at(now, Some(context.waker()));
            if now < ready_at {
                let late = Duration::from_nanos(ready_at - now);
                if ready_at > self.until {
                    return Poll::Ready(
                        Err(Rejected::new(bucket.hook.name, Reason::RateLimited).after(late)),
                    );
                }
                if ready_at >= self.call.deadline {
                    return Poll::Ready(Err(
                        Rejected::new(bucket.hook.name, Reason::DeadlineExceeded).after(late)
                    ));
                }
                if armed_for != Some(ready_at) {
                    armed_for = Some(ready_at);
                    sleep.set(Some(bucket.clock.sleep_until_nanos(ready_at)));
                }
                ready!(sleep.as_mut().as_pin_mut().expect("set just now").poll(context));
            }
            self.leave_line();
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Leaves the line and keeps the tokens, in the state that changes while it waited have left them in.
    fn leave_line(&mut self) {
        if let Place::InLine(key) = self.place {
            let mut line = self.bucket.line().lock();
            let waiter = line.get_mut(key);
            let version = self.bucket.shared.version();
            self.taken = Taken { next: waiter.next, cost: waiter.cost, wait: 0, version };
            let waker = waiter.forget();
            line.leave(key);
            self.place = Place::Ready;
            drop(line);
            drop(waker);
        }
    }

    /// Takes the tokens as a permit, whether or not their time has come: for those who see to that themselves.
    pub fn into_permit(mut self) -> Permit<'a> {
        self.leave_line();
        self.place = Place::Gone;
        self.bucket.permit(self.call)
    }

    /// Returns when the tokens are there, and leaves word whom to wake if that changes.
    fn ready_at(&self, now: u64, waker: Option<&Waker>) -> u64 {
        let Place::InLine(key) = self.place else { return 0 };
        let waker = waker.cloned();
        let mut line = self.bucket.line().lock();
        let waiter = line.get_mut(key);
        let rate = self.bucket.shared.rate();
        let ready_at = rate.time_of(waiter.next.saturating_sub(rate.burst), now);
        let old_waker = waker.and_then(|waker| waiter.remember(waker));
        drop(line);
        drop(old_waker);
        ready_at
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let Self { bucket, taken, place, .. } = self;
        if let Place::Gone = place {
            return;
        }
        let now = bucket.clock.nanos();
        let mut line = bucket.line().lock();
        let rate = bucket.shared.rate();
        let mut waker = None;
        let (next, cost) = match *place {
            // A rate that has changed counts differently: rather nothing back than too much.
            Place::Ready if taken.version != bucket.shared.version() => return,
            Place::Ready | Place::Gone => (taken.next, taken.cost),
            Place::InLine(key) => {
                let waiter = line.get_mut(key);
                waker = waiter.forget();
                (waiter.next, waiter.cost)
            }
        };
        // What has flowed past by now was lost to the full bucket, and must not be given a second time.
        let back = cost.min(next.saturating_sub(rate.flowed(now).units));
        let first = match *place {
            Place::InLine(key) => line.behind(key),
            _ => line.first().map(|waiter| waiter.next),
        };
        let back = bucket.spared(&rate, now, back, first);
        bucket.shared.adjust(|full_at| full_at.saturating_sub(back));
        let woken = match *place {
            Place::InLine(key) => line.give_up(key, back),
            _ => line.change_all(|waiter| waiter.next = waiter.next.saturating_sub(back)),
        };
        wake(line, woken);
        drop(waker);
    }
}
