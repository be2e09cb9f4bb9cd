//! How many connections all keys may have together: [`Places`], and who of them has to go for another: [`Common`].

use std::sync::{Arc, Weak};

use super::room::{Placed, Room};
use crate::bell::Bell;
use crate::clock::{Clock, NEVER};
use crate::pool::Manager;
use crate::semaphore::Semaphore;
use crate::sync::{AtomicU64, Mutex, Ordering};

/// Places for connections. One is taken before a connection is made, and free when it is gone.
#[derive(Debug)]
pub(super) struct Places {
    max: usize,
    taken: Mutex<usize>,
    /// How many look for one.
    wanted: AtomicU64,
    /// Rings when somebody looks for one, and there may be one.
    bell: Bell,
}

/// One place; free when it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Places>);

/// Somebody looks for a place.
struct Wanted<'a>(&'a Places);

impl Places {
    pub(super) fn new(max: usize) -> Self {
        Self { max, taken: Mutex::new(0), wanted: AtomicU64::new(0), bell: Bell::default() }
    }

    pub(super) const fn max(&self) -> usize {
        self.max
    }

    pub(super) fn taken(&self) -> usize {
        *self.taken.lock()
    }

    fn try_take(self: &Arc<Self>) -> Option<Place> {
        let mut taken = self.taken.lock();
        if *taken >= self.max {
            return None;
        }
        *taken += 1;
        Some(Place(self.clone()))
    }

    /// Tells those who look for a place that there may be one, or an idle connection that has one.
    ///
    /// Relaxed: who looks says so before it looks, under the lock under which that was changed which it looks for. Either
    /// it finds the change, or whoever made it finds that it looks.
    pub(super) fn tell(&self) {
        if self.wanted.load(Ordering::Relaxed) > 0 {
            self.bell.ring();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.taken.lock() -= 1;
        self.0.tell();
    }
}

impl<'a> Wanted<'a> {
    fn new(places: &'a Places) -> Self {
        places.wanted.fetch_add(1, Ordering::Relaxed);
        Self(places)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.wanted.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the keys share.
pub(super) struct Common<M: Manager> {
    pub(super) places: Arc<Places>,
    /// Those who have a connection, or are let in to get one. They are never more than there are places, and so each
    /// finds one: free, or of a connection that nobody uses.
    pub(super) users: Semaphore,
    rooms: Mutex<Rooms<M>>,
}

struct Rooms<M: Manager> {
    all: Vec<Weak<Room<M>>>,
    /// When there are so many, those are left out that are gone.
    look_at: usize,
}

impl<M: Manager> Common<M> {
    const FEW: usize = 64;

    pub(super) fn new(max: usize) -> Self {
        Self {
            places: Arc::new(Places::new(max)),
            users: Semaphore::new(max as u64, usize::MAX),
            rooms: Mutex::new(Rooms { all: Vec::new(), look_at: Self::FEW }),
        }
    }

    pub(super) fn add(&self, room: &Arc<Room<M>>) {
        let mut rooms = self.rooms.lock();
        if rooms.all.len() >= rooms.look_at {
            rooms.all.retain(|room| room.strong_count() > 0);
            rooms.look_at = (2 * rooms.all.len()).max(Self::FEW);
        }
        rooms.all.push(Arc::downgrade(room));
    }

    pub(super) fn rooms(&self) -> Vec<Arc<Room<M>>> {
        self.rooms.lock().all.iter().filter_map(Weak::upgrade).collect()
    }

    /// Takes a place: a free one, or that of the connection of any key that was idle for longest.
    pub(super) async fn place(&self, clock: &Clock) -> Place {
        if let Some(place) = self.places.try_take() {
            return place;
        }
        let _wanted = Wanted::new(&self.places);
        loop {
            let heard = self.places.bell.rings();
            if let Some(place) = self.places.try_take() {
                return place;
            }
            if let Some(place) = self.place_of_idle().await {
                return place;
            }
            self.places.bell.wait(heard, clock, NEVER).await;
        }
    }

    /// Closes the connection that was idle for longest.
    async fn place_of_idle(&self) -> Option<Place> {
        let rooms = self.rooms();
        let oldest = rooms.iter().filter_map(|room| Some((room.pool.idle_since()?, room)));
        let oldest = oldest.min_by_key(|(since, _)| *since).map(|(_, room)| room);
        let Some(Placed { connection, place }) = oldest.and_then(|room| room.pool.take_oldest()) else {
            // What is made or closed in a pool where nobody waits is driven by nobody.
            rooms.iter().for_each(|room| room.pool.give_up_resting());
            return None;
        };
        let room = oldest?.clone();
        drop(rooms);
        room.pool.manager().close_inner(connection).await;
        Some(place)
    }
}
