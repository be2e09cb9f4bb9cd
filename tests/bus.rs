//! Several caches over one store, which tell each other what has changed, over a bus that is late, repeats itself, loses
//! messages and goes away.
#![cfg(not(floodwall_loom))]

#[path = "support/stepped.rs"]
mod stepped;
mod support;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use floodwall::cache::Invalidation;
use floodwall::store::{Bus, CachedStore, LocalBus, Message, Store, Subscription, Write};
use floodwall::{Cache, Clock, block_on};
use proptest::prelude::*;
use stepped::{Mood, Stepped};
use support::{poll, secs};

/// A network whose messages move only when a test moves them.
#[derive(Clone, Default)]
struct Network(Arc<Mutex<Wires>>);

#[derive(Default)]
struct Wires {
    is_down: bool,
    sent: Vec<Message<u64>>,
    lines: Vec<Line>,
}

/// To one subscriber.
#[derive(Default)]
struct Line {
    on_the_way: Vec<Message<u64>>,
    arrived: VecDeque<Message<u64>>,
    is_lost: bool,
}

struct Plug(Network, usize);

impl Bus<u64> for Network {
    type Error = ();
    type Subscription = Plug;

    async fn publish(&self, message: &Message<u64>) -> Result<(), ()> {
        let mut wires = self.0.lock().unwrap();
        if wires.is_down {
            return Err(());
        }
        wires.sent.push(message.clone());
        wires.lines.iter_mut().for_each(|line| line.on_the_way.push(message.clone()));
        Ok(())
    }

    async fn subscribe(&self) -> Result<Plug, ()> {
        let mut wires = self.0.lock().unwrap();
        if wires.is_down {
            return Err(());
        }
        wires.lines.push(Line::default());
        Ok(Plug(self.clone(), wires.lines.len() - 1))
    }
}

impl Subscription<u64> for Plug {
    async fn next(&mut self) -> Option<Message<u64>> {
        poll_fn(|_| {
            let line = &mut self.0.0.lock().unwrap().lines[self.1];
            match line.arrived.pop_front() {
                Some(message) => Poll::Ready(Some(message)),
                None if line.is_lost => Poll::Ready(None),
                None => Poll::Pending,
            }
        })
        .await
    }
}

type Node = CachedStore<u64, u64, Arc<Stepped>, Network>;
type Task<T> = Pin<Box<dyn Future<Output = T>>>;

/// An instance, and what listens for it.
struct Instance {
    node: Node,
    listen: Task<Result<(), ()>>,
    line: usize,
}

impl Instance {
    fn new(strategy: usize, store: &Arc<Stepped>, network: &Network, clock: &Clock) -> Self {
        let make = [
            CachedStore::write_through,
            CachedStore::write_around,
            CachedStore::<u64, u64, Arc<Stepped>>::invalidating,
        ][strategy];
        let cache = Cache::builder(3).clock(clock.clone()).build();
        let node = make(cache, store.clone()).bus(network.clone());
        let (listen, line) = Self::listen(&node, network);
        Self { node, listen, line }
    }

    fn listen(node: &Node, network: &Network) -> (Task<Result<(), ()>>, usize) {
        let node = node.clone();
        let mut listen: Task<_> = Box::pin(async move { node.listen().await });
        assert!(poll(&mut listen).is_pending());
        (listen, network.0.lock().unwrap().lines.len() - 1)
    }

    fn hears(&mut self, network: &Network) {
        if poll(&mut self.listen).is_ready() {
            (self.listen, self.line) = Self::listen(&self.node, network);
        }
    }

    fn held(&self, key: u64) -> Option<Option<u64>> {
        self.node.cache().peek(&key)
    }
}

fn instances<const N: usize>(steps: usize) -> ([Instance; N], Arc<Stepped>, Network) {
    let (store, network, clock) = (Stepped::new(steps), Network::default(), Clock::manual());
    ([(); N].map(|()| Instance::new(0, &store, &network, &clock)), store, network)
}

impl Network {
    fn with<T>(&self, change: impl FnOnce(&mut Wires) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    /// Brings an instance all that is on its way.
    fn deliver(&self, instance: &mut Instance) {
        self.with(|wires| {
            let line = &mut wires.lines[instance.line];
            line.arrived.extend(line.on_the_way.drain(..));
        });
        instance.hears(self);
    }
}

#[test]
fn what_one_instance_writes_the_others_load_anew() {
    let ([one, mut other], _, network) = instances(1);
    block_on(one.node.save(&1, &10)).unwrap();
    assert_eq!(block_on(other.node.load(&1)), Ok(Some(10)));
    network.deliver(&mut other);
    assert_eq!(
        other.held(1),
        None,
        "the message came after the load, and says no more than that it was written"
    );
    for (number, key) in [1, 2].into_iter().enumerate() {
        assert_eq!(block_on(other.node.load(&key)), Ok([Some(10), None][number]));
    }
    block_on(one.node.write_many(&[Write::save(&2, &20), Write::remove(&1)])).unwrap();
    assert_eq!((other.held(1), other.held(2)), (Some(Some(10)), Some(None)), "as long as it has not heard");
    network.deliver(&mut other);
    assert_eq!((other.held(1), other.held(2)), (None, None));
    assert_eq!(block_on(other.node.load_many(&[&1, &2])).unwrap(), [Ok(None), Ok(Some(20))]);
}

#[test]
fn one_does_not_heed_its_own_messages_and_tells_of_nothing_that_failed() {
    let ([mut one], store, network) = instances(1);
    block_on(one.node.save(&1, &10)).unwrap();
    network.deliver(&mut one);
    assert_eq!(one.held(1), Some(Some(10)));
    store.set(Mood::Down);
    block_on(one.node.save(&1, &11)).unwrap_err();
    assert_eq!(network.with(|wires| wires.sent.len()), 1);
}

#[test]
fn times_of_one_origin_rise_also_while_the_clock_stands_still() {
    let ([one, other], _, network) = instances(0);
    for _ in 0..3 {
        block_on(one.node.save(&1, &10)).unwrap();
    }
    block_on(other.node.remove(&2)).unwrap();
    let sent = network.with(|wires| wires.sent.clone());
    assert!(
        sent.windows(2).all(|two| two[0].origin != two[1].origin || two[0].time < two[1].time),
        "{sent:?}"
    );
    assert_ne!(sent[0].origin, sent[3].origin);
    assert_eq!(sent[3].what, Invalidation::Key(2));
}

/// Trap 33, its second half.
#[test]
fn a_message_that_is_older_than_the_last_write_here_does_not_undo_it() {
    let ([mut one, other], _, network) = instances(1);
    block_on(other.node.save(&1, &10)).unwrap();
    block_on(other.node.save(&2, &20)).unwrap();
    // The second one comes, the first one is late.
    let late = network.with(|wires| wires.lines[one.line].on_the_way.remove(0));
    network.deliver(&mut one);
    block_on(one.node.save(&1, &11)).unwrap();
    for _ in 0..2 {
        network.with(|wires| wires.lines[one.line].arrived.push_back(late.clone()));
        one.hears(&network);
        assert_eq!(one.held(1), Some(Some(11)));
    }
    // A newer one does.
    block_on(other.node.save(&1, &12)).unwrap();
    network.deliver(&mut one);
    assert_eq!(one.held(1), None);
    block_on(one.node.save(&1, &11)).unwrap();
    // One that is late and newer is heeded, and so is one that has overtaken nothing.
    block_on(other.node.save(&1, &13)).unwrap();
    block_on(other.node.save(&2, &23)).unwrap();
    let second = network.with(|wires| {
        let on_the_way = &mut wires.lines[one.line].on_the_way;
        let first = on_the_way.iter().position(|message| message.origin == late.origin);
        on_the_way.remove(first.unwrap())
    });
    network.deliver(&mut one);
    assert_eq!(one.held(1), Some(Some(11)));
    let late = second;
    network.with(|wires| wires.lines[one.line].arrived.push_back(late));
    one.hears(&network);
    assert_eq!((one.held(1), block_on(one.node.load(&1))), (None, Ok(Some(13))));
}

#[test]
fn a_write_that_meets_one_of_another_instance_is_not_kept_since_nobody_knows_which_was_last() {
    // Before it has its effect in the store, after that, and when it has ended.
    for polls in 1..=3 {
        let ([mut one], store, network) = instances(1);
        let node = one.node.clone();
        let mut save = Box::pin(node.save(&1, &10));
        let is_pending = (0..polls).all(|_| poll(&mut save).is_pending());
        assert_eq!(is_pending, polls < 3);
        store.rows.lock().unwrap().insert(1, 20);
        let foreign = Message::new(Invalidation::Key(1), 5, 99);
        network.with(|wires| wires.lines[one.line].arrived.push_back(foreign));
        one.hears(&network);
        if is_pending {
            block_on(save).unwrap();
        }
        assert_eq!(one.held(1), None, "after {polls} polls");
        assert_eq!(block_on(node.load(&1)).unwrap(), store.row(1));
    }
}

#[test]
fn a_lost_connection_empties_the_cache_and_so_does_the_next_one() {
    let ([mut one], store, network) = instances(0);
    block_on(one.node.save(&1, &10)).unwrap();
    network.with(|wires| wires.lines[one.line].is_lost = true);
    let mut lost = std::mem::replace(&mut one.listen, Box::pin(std::future::pending()));
    assert_eq!(poll(&mut lost), Poll::Ready(Ok(())));
    assert_eq!(one.held(1), None);
    // Meanwhile it goes on, without being told.
    assert_eq!(block_on(one.node.load(&1)), Ok(Some(10)));
    store.rows.lock().unwrap().insert(1, 11);
    network.with(|wires| wires.is_down = true);
    assert_eq!(block_on(one.node.listen()), Err(()));
    network.with(|wires| wires.is_down = false);
    one.hears(&network);
    let (_listen, _) = Instance::listen(&one.node, &network);
    assert_eq!((one.held(1), block_on(one.node.load(&1))), (None, Ok(Some(11))));
}

#[test]
fn a_write_that_is_on_its_way_when_the_connection_is_lost_is_not_kept() {
    let ([mut one], store, network) = instances(1);
    let node = one.node.clone();
    let mut save = Box::pin(node.save(&1, &10));
    assert!(poll(&mut save).is_pending() && poll(&mut save).is_pending());
    store.rows.lock().unwrap().insert(1, 20);
    network.with(|wires| wires.lines[one.line].is_lost = true);
    one.hears(&network);
    block_on(save).unwrap();
    assert_eq!((one.held(1), block_on(node.load(&1))), (None, Ok(Some(20))));
}

#[test]
fn a_listener_that_is_dropped_leaves_an_empty_cache() {
    let ([one], ..) = instances(0);
    block_on(one.node.save(&1, &10)).unwrap();
    drop(one.listen);
    assert!(one.node.cache().is_empty());
}

#[test]
fn what_the_bus_does_not_take_is_sent_later_and_very_much_of_it_as_one() {
    let ([one, mut other], _, network) = instances(0);
    network.with(|wires| wires.is_down = true);
    for key in [1, 2, 1] {
        block_on(one.node.save(&key, &10)).unwrap();
    }
    assert_eq!((one.node.unsent(), network.with(|wires| wires.sent.len())), (2, 0));
    network.with(|wires| wires.is_down = false);
    block_on(one.node.save(&3, &10)).unwrap();
    assert_eq!((one.node.unsent(), network.with(|wires| wires.sent.len())), (0, 3));
    // Or by a flush, or a listener that begins.
    for flushed in [true, false] {
        network.with(|wires| wires.is_down = true);
        block_on(one.node.save(&3, &10)).unwrap();
        network.with(|wires| wires.is_down = false);
        if flushed {
            block_on(one.node.flush()).unwrap();
        } else {
            let (_listen, _) = Instance::listen(&one.node, &network);
        }
        assert_eq!(one.node.unsent(), 0);
    }

    network.deliver(&mut other);
    block_on(other.node.save(&77, &1)).unwrap();
    network.with(|wires| wires.is_down = true);
    for key in 0..2_000 {
        block_on(one.node.save(&(1_000_000 + key), &key)).unwrap();
    }
    assert!(one.node.unsent() <= 1_000);
    network.with(|wires| wires.is_down = false);
    block_on(one.node.flush()).unwrap();
    assert_eq!(network.with(|wires| wires.sent.last().unwrap().what), Invalidation::Everything);
    assert_eq!(other.held(77), Some(Some(1)));
    network.deliver(&mut other);
    assert!(other.node.cache().is_empty());
}

#[test]
fn a_write_whose_caller_went_away_is_told_to_the_others_by_who_listens() {
    let ([mut one, mut other], store, network) = instances(2);
    assert_eq!(block_on(other.node.load(&1)), Ok(None));
    let mut save = Box::pin(one.node.save(&1, &10));
    assert!(poll(&mut save).is_pending() && poll(&mut save).is_pending() && poll(&mut save).is_pending());
    drop(save);
    assert_eq!(store.row(1), Some(10), "it has been made, and nobody comes to the key here again");
    for _ in 0..10 {
        one.hears(&network);
    }
    network.deliver(&mut other);
    assert_eq!(block_on(other.node.load(&1)), Ok(Some(10)));
}

#[test]
fn what_was_changed_past_all_of_them_is_told_by_hand() {
    let ([one, mut other], store, network) = instances(0);
    for what in [Invalidation::Key(1), Invalidation::Everything] {
        block_on(one.node.load(&1)).unwrap();
        block_on(other.node.load(&1)).unwrap();
        *store.rows.lock().unwrap().entry(1).or_insert(0) += 1;
        block_on(one.node.invalidate(what));
        network.deliver(&mut other);
        assert_eq!(block_on(one.node.load(&1)), Ok(store.row(1)));
        assert_eq!(block_on(other.node.load(&1)), Ok(store.row(1)));
    }
}

#[test]
#[should_panic = "bus: to be set before there are clones"]
fn a_bus_comes_before_clones() {
    let cached = CachedStore::write_through(Cache::new(1), Stepped::new(0));
    let _clone = cached.clone();
    drop(cached.bus(Network::default()));
}

#[test]
fn a_local_bus_tells_who_was_too_slow_that_it_has_lost_messages() {
    let bus = LocalBus::new();
    let mut slow = block_on(bus.subscribe()).unwrap();
    let message = |time| Message::new(Invalidation::Key(7), time, 1);
    for time in 0..10_000 {
        block_on(bus.publish(&message(time))).unwrap();
    }
    let mut late = block_on(bus.subscribe()).unwrap();
    assert_eq!(block_on(slow.next()), Some(message(0)));
    for time in 10_000..10_002 {
        block_on(bus.publish(&message(time))).unwrap();
    }
    assert_eq!((block_on(slow.next()), block_on(slow.next())), (None, None));
    assert_eq!(block_on(late.next()), Some(message(10_000)));
    drop(slow);
    // Who waits is woken.
    let mut next = Box::pin(async move { (late.next().await, late.next().await) });
    assert!(poll(&mut next).is_pending());
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| block_on(next));
        block_on(bus.publish(&message(10_002))).unwrap();
        assert_eq!(waits.join().unwrap(), (Some(message(10_001)), Some(message(10_002))));
    });
}

#[derive(Clone, Debug)]
enum Step {
    Save(usize, u64),
    Remove(usize, u64),
    Both(usize),
    Load(usize, u64),
    Poll(usize),
    /// One that runs goes on until it waits for others.
    Finish(usize),
    Drop(usize),
    Evict(usize, u64),
    /// A message of those that are on the way to an instance: it comes, it comes and comes again later, it is lost.
    Deliver(usize, usize),
    Repeat(usize, usize),
    Lose(usize, usize),
    Disconnect(usize),
    Down(bool),
    Advance,
}

fn step() -> impl Strategy<Value = Step> {
    let (node, key, any) = (|| 0usize..3, || 0u64..2, || 0usize..10);
    prop_oneof![
        6 => (node(), key()).prop_map(|(node, key)| Step::Save(node, key)),
        2 => (node(), key()).prop_map(|(node, key)| Step::Remove(node, key)),
        2 => node().prop_map(Step::Both),
        8 => (node(), key()).prop_map(|(node, key)| Step::Load(node, key)),
        10 => any().prop_map(Step::Poll),
        12 => any().prop_map(Step::Finish),
        1 => any().prop_map(Step::Drop),
        2 => (node(), key()).prop_map(|(node, key)| Step::Evict(node, key)),
        8 => (node(), any()).prop_map(|(node, any)| Step::Deliver(node, any)),
        3 => (node(), any()).prop_map(|(node, any)| Step::Repeat(node, any)),
        2 => (node(), any()).prop_map(|(node, any)| Step::Lose(node, any)),
        1 => node().prop_map(Step::Disconnect),
        1 => any().prop_map(|any| Step::Down(any < 3)),
        1 => Just(Step::Advance),
    ]
}

type Writes = Vec<(u64, Option<u64>)>;

/// An operation, and for a read: of which key by which node, and the place in the store's log that it must not be behind.
struct Running {
    future: Task<Option<Option<u64>>>,
    read: Option<(u64, usize)>,
    write: Option<(usize, Writes)>,
}

struct World {
    store: Arc<Stepped>,
    network: Network,
    clock: Clock,
    instances: [Instance; 3],
    running: Vec<Running>,
    /// By node and key, the place in the store's log of the last write that was acknowledged.
    floor: [[usize; 2]; 3],
    /// Whether messages to a node were lost that it does not know of yet.
    lost: [bool; 3],
    count: u64,
}

impl World {
    fn new(strategy: usize) -> Self {
        let (store, network, clock) = (Stepped::shared(1), Network::default(), Clock::manual());
        let instances = [(); 3].map(|()| Instance::new(strategy, &store, &network, &clock));
        let (running, floor, lost) = (Vec::new(), [[0; 2]; 3], [false; 3]);
        Self { store, network, clock, instances, running, floor, lost, count: 0 }
    }

    /// The last place in the log where a key became a value; 0 is before the first.
    fn place(&self, key: u64, value: Option<u64>) -> usize {
        let log = self.store.log.lock().unwrap();
        let found = log.iter().rposition(|write| write.0 == key && write.1 == value);
        found.map_or_else(
            || if value.is_none() { 0 } else { panic!("{value:?} was never written") },
            |place| place + 1,
        )
    }

    fn write(&mut self, node: usize, writes: Writes) {
        let (cached, own) = (self.instances[node].node.clone(), writes.clone());
        let future = Box::pin(async move {
            match own[..] {
                [(key, Some(value))] => cached.save(&key, &value).await.unwrap(),
                [(key, None)] => cached.remove(&key).await.unwrap(),
                _ => {
                    let writes: Vec<_> =
                        own.iter().map(|(key, value)| Write::save(key, value.as_ref().unwrap())).collect();
                    cached.write_many(&writes).await.unwrap().into_iter().for_each(Result::unwrap);
                }
            }
            None
        });
        self.running.push(Running { future, read: None, write: Some((node, writes)) });
    }

    fn poll(&mut self, place: usize) {
        let Poll::Ready(value) = poll(&mut self.running[place].future) else { return };
        let Running { read, write, .. } = self.running.remove(place);
        if let Some((node, writes)) = write {
            for (key, value) in writes {
                let place = self.place(key, value);
                let floor = &mut self.floor[node][key as usize];
                *floor = place.max(*floor);
            }
        }
        if let Some((key, floor)) = read {
            let place = self.place(key, value.unwrap());
            assert!(place >= floor, "{key}: {value:?}, of place {place}, is older than {floor}");
        }
    }

    fn take(&mut self, step: Step) {
        self.count += 1;
        let value = Some(self.count);
        match step {
            Step::Save(node, key) => self.write(node, vec![(key, value)]),
            Step::Remove(node, key) => self.write(node, vec![(key, None)]),
            Step::Both(node) => self.write(node, vec![(0, value), (1, value)]),
            Step::Load(node, key) => {
                let cached = self.instances[node].node.clone();
                let future = Box::pin(async move { Some(cached.load(&key).await.unwrap()) });
                let read = Some((key, self.floor[node][key as usize]));
                self.running.push(Running { future, read, write: None });
            }
            Step::Poll(any) if !self.running.is_empty() => self.poll(any % self.running.len()),
            Step::Finish(any) if !self.running.is_empty() => {
                let (place, before) = (any % self.running.len(), self.running.len());
                for _ in 0..20 {
                    if self.running.len() == before {
                        self.poll(place);
                    }
                }
            }
            Step::Drop(any) if !self.running.is_empty() => {
                drop(self.running.remove(any % self.running.len()))
            }
            Step::Evict(node, key) => drop(self.instances[node].node.cache().remove(&key)),
            Step::Deliver(node, any) => {
                self.message(node, any, |line, message| line.arrived.push_back(message))
            }
            Step::Repeat(node, any) => self.message(node, any, |line, message| {
                line.on_the_way.push(message.clone());
                line.arrived.push_back(message);
            }),
            Step::Lose(node, any) => {
                let mut lost = false;
                self.message(node, any, |_, _| lost = true);
                self.lost[node] |= lost;
            }
            Step::Disconnect(node) => self.disconnect(node),
            Step::Down(is_down) => self.network.with(|wires| wires.is_down = is_down),
            Step::Advance => self.clock.advance(secs(1)),
            _ => {}
        }
    }

    fn message(&mut self, node: usize, any: usize, becomes: impl FnOnce(&mut Line, Message<u64>)) {
        let instance = &mut self.instances[node];
        self.network.with(|wires| {
            let line = &mut wires.lines[instance.line];
            if !line.on_the_way.is_empty() {
                let message = line.on_the_way.remove(any % line.on_the_way.len());
                becomes(line, message);
            }
        });
        instance.hears(&self.network);
    }

    fn disconnect(&mut self, node: usize) {
        self.network.with(|wires| {
            wires.is_down = false;
            wires.lines[self.instances[node].line].is_lost = true;
        });
        self.instances[node].hears(&self.network);
        self.lost[node] = false;
    }

    fn end(&mut self) {
        self.network.with(|wires| wires.is_down = false);
        let mut rest = 30;
        while rest > 0 {
            // Those who listen bring to its end what was dropped.
            rest -= usize::from(self.running.is_empty());
            (0..self.running.len()).rev().for_each(|place| self.poll(place));
            self.instances.iter_mut().for_each(|instance| instance.hears(&self.network));
        }
        for node in 0..3 {
            // In the end a bus says that it has lost something.
            if self.lost[node] {
                self.disconnect(node);
            }
            block_on(self.instances[node].node.flush()).unwrap();
            assert_eq!(self.instances[node].node.unsent(), 0);
        }
        for instance in &mut self.instances {
            self.network.deliver(instance);
            for key in 0..2 {
                let held = instance.held(key);
                assert!(
                    held.is_none() || held == Some(self.store.row(key)),
                    "{held:?} of {:?}",
                    self.store.row(key)
                );
                assert_eq!(block_on(instance.node.load(&key)), Ok(self.store.row(key)));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    /// Trap 33: three instances, messages lost, repeated and in another order, connections lost. In the end all caches hold
    /// what the store holds, and on the way nobody reads what is older than what it has written.
    #[test]
    fn three_instances_converge(steps in prop::collection::vec(step(), 1..200), strategy in 0usize..3) {
        let mut world = World::new(strategy);
        for step in steps {
            world.take(step);
        }
        world.end();
    }
}
