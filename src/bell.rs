//! Tells those who wait that something has changed: [`Bell`].
//!
//! Who waits reads the number of rings, looks at what it waits for, and then waits for another number: a ring between
//! the look and the wait is not missed.

use std::future::poll_fn;
use std::mem;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::clock::{Clock, NEVER};
use crate::sync::Mutex;

#[derive(Debug, Default)]
pub(crate) struct Bell {
    listeners: Mutex<Listeners>,
}

#[derive(Debug, Default)]
struct Listeners {
    rings: u64,
    /// How many have ever listened: the next one's number.
    numbers: u64,
    waiting: Vec<(u64, Waker)>,
}

impl Bell {
    /// Returns how often it has rung.
    pub(crate) fn rings(&self) -> u64 {
        self.listeners.lock().rings
    }

    pub(crate) fn ring(&self) {
        let waiting = {
            let mut listeners = self.listeners.lock();
            listeners.rings += 1;
            mem::take(&mut listeners.waiting)
        };
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Waits until it has rung since it had rung `heard` times, or until the time is `at`.
    pub(crate) async fn wait(&self, heard: u64, clock: &Clock, at: u64) {
        let mut listener = Listener { bell: self, heard, number: None };
        let mut sleep = pin!((at != NEVER).then(|| clock.sleep_until_nanos(at)));
        poll_fn(|context| match (listener.poll(context), sleep.as_mut().as_pin_mut()) {
            (Poll::Pending, Some(sleep)) => sleep.poll(context),
            (heard, _) => heard,
        })
        .await;
    }
}

struct Listener<'a> {
    bell: &'a Bell,
    heard: u64,
    /// Since it listens.
    number: Option<u64>,
}

impl Listener<'_> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let waker = context.waker().clone();
        let mut listeners = self.bell.listeners.lock();
        if listeners.rings != self.heard {
            return Poll::Ready(());
        }
        let number = match self.number {
            Some(number) => number,
            None => {
                listeners.numbers += 1;
                *self.number.insert(listeners.numbers)
            }
        };
        // Wakers are user code, also when they are dropped: after the lock is released.
        let old = match listeners.waiting.iter_mut().find(|listener| listener.0 == number) {
            Some(listener) => Some(mem::replace(&mut listener.1, waker)),
            None => {
                listeners.waiting.push((number, waker));
                None
            }
        };
        drop(listeners);
        drop(old);
        Poll::Pending
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut listeners = self.bell.listeners.lock();
        let place = listeners.waiting.iter().position(|listener| listener.0 == number);
        let gone = place.map(|place| listeners.waiting.swap_remove(place));
        drop(listeners);
        drop(gone);
    }
}

#[cfg(all(test, not(floodwall_loom)))]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_ring_between_the_look_and_the_wait_is_heard() {
        let (bell, clock) = (Bell::default(), Clock::manual());
        let heard = bell.rings();
        bell.ring();
        let mut wait = pin!(bell.wait(heard, &clock, NEVER));
        assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    }

    #[test]
    fn who_stops_listening_leaves_nothing_behind_and_time_ends_a_wait() {
        let (bell, clock) = (Bell::default(), Clock::manual());
        let mut context = Context::from_waker(Waker::noop());
        {
            let mut wait = pin!(bell.wait(0, &clock, NEVER));
            assert!(wait.as_mut().poll(&mut context).is_pending());
            assert!(wait.as_mut().poll(&mut context).is_pending());
            assert_eq!(bell.listeners.lock().waiting.len(), 1);
        }
        assert_eq!(bell.listeners.lock().waiting.len(), 0);
        let mut wait = pin!(bell.wait(0, &clock, clock.after(Duration::from_secs(1))));
        assert!(wait.as_mut().poll(&mut context).is_pending());
        clock.advance(Duration::from_secs(1));
        assert!(wait.as_mut().poll(&mut context).is_ready());
    }
}
