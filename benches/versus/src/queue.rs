//! How long does an item take from the threads or tasks that push it to those that pop it?
//!
//! Each operation moves 20,000 numbers through a bounded channel, from as many producers to as many consumers, whose
//! threads are started for it; tasks run on two threads of tokio. Every consumer checks what it got, so a channel that
//! loses or doubles an item ends the run. Consumers stop when the channel is closed, or by an item that says so.
//!
//! "processor time" is what producer and consumer use of it for an item, however long they wait: alone, and beside four
//! threads that are busy. One that spins while it waits takes a multiple there.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use floodwall::{Priorities, Queue};
use tokio::runtime::{Builder, Runtime};

use crate::harness::Case;

const ITEMS: u64 = 20_000;

/// The item that tells a consumer to stop.
const STOP: u64 = u64::MAX;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(2).build().unwrap());

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, capacity, ends) in [
        ("threads, 64, 1 to 1", 64, 1),
        ("threads, 64, 2 to 2", 64, 2),
        ("threads, 64, 4 to 4", 64, 4),
        ("threads, 1024, 1 to 1", 1024, 1),
        ("threads, 1024, 2 to 2", 1024, 2),
        ("threads, 1024, 4 to 4", 1024, 4),
    ] {
        cases.push(threads(name, capacity, ends));
    }
    for (name, capacity, ends) in [
        ("tasks, 64, 1 to 1", 64, 1),
        ("tasks, 64, 2 to 2", 64, 2),
        ("tasks, 64, 4 to 4", 64, 4),
        ("tasks, 1024, 1 to 1", 1024, 1),
        ("tasks, 1024, 2 to 2", 1024, 2),
        ("tasks, 1024, 4 to 4", 1024, 4),
    ] {
        cases.push(tasks(name, capacity, ends));
    }
    cases.push(alone());
    cases.push(processor());
    cases
}

/// What one thread pays for a push and a pop, without anybody beside it.
fn alone() -> Case {
    let (kanal_in, kanal_out) = kanal::bounded(64);
    let (flume_in, flume_out) = flume::bounded(64);
    let (async_in, async_out) = async_channel::bounded(64);
    let (crossbeam_in, crossbeam_out) = crossbeam_channel::bounded(64);
    let both = |queue: &Queue<u64>| {
        queue.try_push(7).unwrap();
        queue.try_pop().unwrap()
    };
    Case::new("one thread, push and pop")
        .peer("floodwall", Queue::new(64), both)
        .peer("floodwall, weights", Queue::new(64).max_weight(64), both)
        .peer("floodwall, priorities", Queue::new(64).priorities(Priorities::default()), both)
        .peer("kanal", (kanal_in, kanal_out), |ends| {
            assert!(ends.0.try_send(7).unwrap());
            ends.1.try_recv().unwrap()
        })
        .peer("flume", (flume_in, flume_out), |ends| {
            ends.0.try_send(7).unwrap();
            ends.1.try_recv().unwrap()
        })
        .peer("async-channel", (async_in, async_out), |ends| {
            ends.0.try_send(7).unwrap();
            ends.1.try_recv().unwrap()
        })
        .peer("crossbeam", (crossbeam_in, crossbeam_out), |ends| {
            ends.0.try_send(7).unwrap();
            ends.1.try_recv().unwrap()
        })
}

/// Both ends of a channel, for threads.
trait Channel: Clone + Send + Sync + 'static {
    fn push(&self, item: u64);

    /// The next item; none once it has ended.
    fn pop(&self) -> Option<u64>;

    /// Ends it for so many consumers, once all is pushed. By items that say so where closing loses what is inside (kanal),
    /// or comes when the last sender goes (flume, crossbeam).
    fn end(&self, consumers: u64) {
        (0..consumers).for_each(|_| self.push(STOP));
    }
}

/// Both ends of a channel, for tasks.
trait AsyncChannel: Channel {
    fn push_async(&self, item: u64) -> impl Future<Output = ()> + Send;

    fn pop_async(&self) -> impl Future<Output = Option<u64>> + Send;
}

fn unless_stop(item: u64) -> Option<u64> {
    (item != STOP).then_some(item)
}

impl Channel for Arc<Queue<u64>> {
    fn push(&self, item: u64) {
        self.push_blocking(item).unwrap();
    }

    fn pop(&self) -> Option<u64> {
        self.pop_blocking().ok()
    }

    fn end(&self, _: u64) {
        self.close();
    }
}

impl AsyncChannel for Arc<Queue<u64>> {
    async fn push_async(&self, item: u64) {
        Queue::push(self, item).await.unwrap();
    }

    async fn pop_async(&self) -> Option<u64> {
        Queue::pop(self).await.ok()
    }
}

impl Channel for (kanal::Sender<u64>, kanal::Receiver<u64>) {
    fn push(&self, item: u64) {
        self.0.send(item).unwrap();
    }

    fn pop(&self) -> Option<u64> {
        unless_stop(self.1.recv().unwrap())
    }
}

impl AsyncChannel for (kanal::Sender<u64>, kanal::Receiver<u64>) {
    async fn push_async(&self, item: u64) {
        self.0.as_async().send(item).await.unwrap();
    }

    async fn pop_async(&self) -> Option<u64> {
        unless_stop(self.1.as_async().recv().await.unwrap())
    }
}

impl Channel for (flume::Sender<u64>, flume::Receiver<u64>) {
    fn push(&self, item: u64) {
        self.0.send(item).unwrap();
    }

    fn pop(&self) -> Option<u64> {
        unless_stop(self.1.recv().unwrap())
    }
}

impl AsyncChannel for (flume::Sender<u64>, flume::Receiver<u64>) {
    async fn push_async(&self, item: u64) {
        self.0.send_async(item).await.unwrap();
    }

    async fn pop_async(&self) -> Option<u64> {
        unless_stop(self.1.recv_async().await.unwrap())
    }
}

impl Channel for (async_channel::Sender<u64>, async_channel::Receiver<u64>) {
    fn push(&self, item: u64) {
        self.0.send_blocking(item).unwrap();
    }

    fn pop(&self) -> Option<u64> {
        self.1.recv_blocking().ok()
    }

    fn end(&self, _: u64) {
        self.0.close();
    }
}

impl AsyncChannel for (async_channel::Sender<u64>, async_channel::Receiver<u64>) {
    async fn push_async(&self, item: u64) {
        self.0.send(item).await.unwrap();
    }

    async fn pop_async(&self) -> Option<u64> {
        self.1.recv().await.ok()
    }
}

impl Channel for (crossbeam_channel::Sender<u64>, crossbeam_channel::Receiver<u64>) {
    fn push(&self, item: u64) {
        self.0.send(item).unwrap();
    }

    fn pop(&self) -> Option<u64> {
        unless_stop(self.1.recv().unwrap())
    }
}

fn ours(capacity: usize) -> Arc<Queue<u64>> {
    Arc::new(Queue::new(capacity))
}

fn ours_by_weight(capacity: usize) -> Arc<Queue<u64>> {
    Arc::new(Queue::new(capacity).max_weight(capacity as u64))
}

fn ours_by_priority(capacity: usize) -> Arc<Queue<u64>> {
    Arc::new(Queue::new(capacity).priorities(Priorities::default()))
}

/// Moves `items` items between threads; returns what these used of the processor.
fn between_threads(channel: &impl Channel, items: u64, ends: u64) -> Duration {
    thread::scope(|scope| {
        let consumers: Vec<_> = (0..ends)
            .map(|_| {
                scope.spawn(|| {
                    let mut sum = 0;
                    while let Some(item) = channel.pop() {
                        sum += item;
                    }
                    (sum, processor_time())
                })
            })
            .collect();
        let producers: Vec<_> = (0..ends)
            .map(|producer| {
                scope.spawn(move || {
                    (producer..items).step_by(ends as usize).for_each(|item| channel.push(item));
                    processor_time()
                })
            })
            .collect();
        let mut took: Duration = producers.into_iter().map(|producer| producer.join().unwrap()).sum();
        channel.end(ends);
        let mut sum = 0;
        for consumer in consumers {
            let (part, time) = consumer.join().unwrap();
            sum += part;
            took += time;
        }
        assert_eq!(sum, items * (items - 1) / 2);
        took
    })
}

/// What this thread has used of the processor since it was started.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to the value that is borrowed for it, and nothing else.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn threads(name: &'static str, capacity: usize, ends: u64) -> Case {
    fn run(channel: impl Channel, ends: u64) {
        between_threads(&channel, ITEMS, ends);
    }
    Case::new(name)
        .peer_in_bulk("floodwall", ITEMS, move || run(ours(capacity), ends))
        .peer_in_bulk("floodwall, weights", ITEMS, move || run(ours_by_weight(capacity), ends))
        .peer_in_bulk("floodwall, priorities", ITEMS, move || run(ours_by_priority(capacity), ends))
        .peer_in_bulk("kanal", ITEMS, move || run(kanal::bounded(capacity), ends))
        .peer_in_bulk("flume", ITEMS, move || run(flume::bounded(capacity), ends))
        .peer_in_bulk("crossbeam", ITEMS, move || run(crossbeam_channel::bounded(capacity), ends))
        .peer_in_bulk("async-channel", ITEMS, move || run(async_channel::bounded(capacity), ends))
}

fn processor() -> Case {
    /// Fewer, since a thread has to wait long for its turn.
    const ITEMS: u64 = 2_000;
    fn beside_busy(channel: impl Channel) -> Duration {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            (0..4).for_each(|_| {
                drop(scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        std::hint::spin_loop()
                    }
                }))
            });
            let took = between_threads(&channel, ITEMS, 1);
            is_over.store(true, Ordering::Relaxed);
            took
        })
    }
    Case::new("processor time, 64, 1 to 1")
        .peer_by_processor("floodwall", ITEMS, || between_threads(&ours(64), ITEMS, 1))
        .peer_by_processor("floodwall, beside four", ITEMS, || beside_busy(ours(64)))
        .peer_by_processor("kanal", ITEMS, || between_threads(&kanal::bounded(64), ITEMS, 1))
        .peer_by_processor("kanal, beside four", ITEMS, || beside_busy(kanal::bounded(64)))
        .peer_by_processor("async-channel", ITEMS, || between_threads(&async_channel::bounded(64), ITEMS, 1))
        .peer_by_processor("async-channel, beside four", ITEMS, || beside_busy(async_channel::bounded(64)))
}

/// Moves the items between tasks.
fn between_tasks(channel: impl AsyncChannel, ends: u64) {
    let consumers: Vec<_> = (0..ends)
        .map(|_| {
            let channel = channel.clone();
            RUNTIME.spawn(async move {
                let mut sum = 0;
                while let Some(item) = channel.pop_async().await {
                    sum += item;
                }
                sum
            })
        })
        .collect();
    let producers: Vec<_> = (0..ends)
        .map(|producer| {
            let channel = channel.clone();
            RUNTIME.spawn(async move {
                for item in (producer..ITEMS).step_by(ends as usize) {
                    channel.push_async(item).await;
                }
            })
        })
        .collect();
    RUNTIME.block_on(async move {
        for producer in producers {
            producer.await.unwrap();
        }
        channel.end(ends);
        let mut sum = 0;
        for consumer in consumers {
            sum += consumer.await.unwrap();
        }
        assert_eq!(sum, ITEMS * (ITEMS - 1) / 2);
    });
}

fn tasks(name: &'static str, capacity: usize, ends: u64) -> Case {
    let case = Case::new(name)
        .peer_in_bulk("floodwall", ITEMS, move || between_tasks(ours(capacity), ends))
        .peer_in_bulk("floodwall, weights", ITEMS, move || between_tasks(ours_by_weight(capacity), ends))
        .peer_in_bulk("floodwall, priorities", ITEMS, move || between_tasks(ours_by_priority(capacity), ends))
        .peer_in_bulk("kanal", ITEMS, move || between_tasks(kanal::bounded(capacity), ends))
        .peer_in_bulk("flume", ITEMS, move || between_tasks(flume::bounded(capacity), ends))
        .peer_in_bulk("async-channel", ITEMS, move || between_tasks(async_channel::bounded(capacity), ends));
    if ends == 1 { case.peer_in_bulk("tokio mpsc", ITEMS, move || mpsc(capacity)) } else { case }
}

/// tokio's channel has one consumer, which is not shared.
fn mpsc(capacity: usize) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(capacity);
    let consumer = RUNTIME.spawn(async move {
        let mut sum = 0;
        while let Some(item) = receiver.recv().await {
            sum += item;
        }
        sum
    });
    let producer = RUNTIME.spawn(async move {
        for item in 0..ITEMS {
            sender.send(item).await.unwrap();
        }
    });
    RUNTIME.block_on(async move {
        producer.await.unwrap();
        assert_eq!(consumer.await.unwrap(), ITEMS * (ITEMS - 1) / 2);
    });
}
