//! How long does an item take from the threads or tasks that push it to those that pop it?
//!
//! Each operation moves 20,000 numbers through a bounded channel, from as many producers to as many consumers, whose
//! threads are started for it; tasks run on two threads of tokio. Every consumer checks what it got, so a channel that
//! loses or doubles an item ends the run. Consumers stop when the channel is closed.

use std::future::Future;
use std::sync::{Arc, LazyLock};
use std::thread;

use floodwall::{Priorities, Queue};
use tokio::runtime::{Builder, Runtime};

use crate::harness::Case;

const ITEMS: u64 = 20_000;

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

/// Moves the items between threads; `end` drops what keeps the channel open.
fn between_threads<P, C>(ends: u64, push: P, pop: C, end: impl FnOnce())
where
    P: Fn(u64) + Sync,
    C: Fn() -> Option<u64> + Sync,
{
    let sum: u64 = thread::scope(|scope| {
        let consumers: Vec<_> = (0..ends)
            .map(|_| {
                scope.spawn(|| {
                    let mut sum = 0;
                    while let Some(item) = pop() {
                        sum += item;
                    }
                    sum
                })
            })
            .collect();
        let push = &push;
        let producers: Vec<_> = (0..ends)
            .map(|producer| scope.spawn(move || (producer..ITEMS).step_by(ends as usize).for_each(push)))
            .collect();
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        end();
        consumers.into_iter().map(|consumer| consumer.join().unwrap()).sum()
    });
    assert_eq!(sum, ITEMS * (ITEMS - 1) / 2);
}

fn threads(name: &'static str, capacity: usize, ends: u64) -> Case {
    let ours = move |queue: &Queue<u64>| {
        between_threads(
            ends,
            |item| queue.push_blocking(item).unwrap(),
            || queue.pop_blocking().ok(),
            || queue.close(),
        );
    };
    Case::new(name)
        .peer_in_bulk("floodwall", ITEMS, move || ours(&Queue::new(capacity)))
        .peer_in_bulk("floodwall, weights", ITEMS, move || {
            ours(&Queue::new(capacity).max_weight(capacity as u64))
        })
        .peer_in_bulk("floodwall, priorities", ITEMS, move || {
            ours(&Queue::new(capacity).priorities(Priorities::default()))
        })
        .peer_in_bulk("kanal", ITEMS, move || {
            let (sender, receiver) = kanal::bounded(capacity);
            with_stop(ends, |item| sender.send(item).unwrap(), || receiver.recv().unwrap());
        })
        .peer_in_bulk("flume", ITEMS, move || {
            let (sender, receiver) = flume::bounded(capacity);
            with_stop(ends, |item| sender.send(item).unwrap(), || receiver.recv().unwrap());
        })
        .peer_in_bulk("crossbeam", ITEMS, move || {
            let (sender, receiver) = crossbeam_channel::bounded(capacity);
            with_stop(ends, |item| sender.send(item).unwrap(), || receiver.recv().unwrap());
        })
        .peer_in_bulk("async-channel", ITEMS, move || {
            let (sender, receiver) = async_channel::bounded(capacity);
            between_threads(
                ends,
                |item| sender.send_blocking(item).unwrap(),
                || receiver.recv_blocking().ok(),
                || {
                    let _ = sender.close();
                },
            );
        })
}

/// For channels whose closing loses what is inside (kanal), or that close when the last sender goes (flume, crossbeam): an
/// item that says stop, for each consumer.
fn with_stop(ends: u64, push: impl Fn(u64) + Sync, pop: impl Fn() -> u64 + Sync) {
    let stop = || (0..ends).for_each(|_| push(u64::MAX));
    between_threads(ends, &push, || Some(pop()).filter(|item| *item != u64::MAX), stop);
}

/// Moves the items between tasks.
fn between_tasks<P, C, PF, CF>(ends: u64, push: P, pop: C, end: impl FnOnce())
where
    P: Fn(u64) -> PF + Clone + Send + 'static,
    PF: Future<Output = ()> + Send,
    C: Fn() -> CF + Clone + Send + 'static,
    CF: Future<Output = Option<u64>> + Send,
{
    let consumers: Vec<_> = (0..ends)
        .map(|_| {
            let pop = pop.clone();
            RUNTIME.spawn(async move {
                let mut sum = 0;
                while let Some(item) = pop().await {
                    sum += item;
                }
                sum
            })
        })
        .collect();
    let producers: Vec<_> = (0..ends)
        .map(|producer| {
            let push = push.clone();
            RUNTIME.spawn(async move {
                for item in (producer..ITEMS).step_by(ends as usize) {
                    push(item).await;
                }
            })
        })
        .collect();
    RUNTIME.block_on(async move {
        for producer in producers {
            producer.await.unwrap();
        }
        end();
        let mut sum = 0;
        for consumer in consumers {
            sum += consumer.await.unwrap();
        }
        assert_eq!(sum, ITEMS * (ITEMS - 1) / 2);
    });
}

fn tasks(name: &'static str, capacity: usize, ends: u64) -> Case {
    let ours = move |queue: Queue<u64>| {
        let queue = Arc::new(queue);
        let (pushes, pops) = (queue.clone(), queue.clone());
        between_tasks(
            ends,
            move |item| {
                let queue = pushes.clone();
                async move { queue.push(item).await.unwrap() }
            },
            move || {
                let queue = pops.clone();
                async move { queue.pop().await.ok() }
            },
            || queue.close(),
        );
    };
    let case = Case::new(name)
        .peer_in_bulk("floodwall", ITEMS, move || ours(Queue::new(capacity)))
        .peer_in_bulk("floodwall, weights", ITEMS, move || {
            ours(Queue::new(capacity).max_weight(capacity as u64));
        })
        .peer_in_bulk("floodwall, priorities", ITEMS, move || {
            ours(Queue::new(capacity).priorities(Priorities::default()));
        })
        .peer_in_bulk("kanal", ITEMS, move || {
            let (sender, receiver) = kanal::bounded_async(capacity);
            let stops = sender.clone_sync();
            let pushes = Arc::new(sender);
            let pops = Arc::new(receiver);
            between_tasks(
                ends,
                move |item| {
                    let sender = pushes.clone();
                    async move { sender.send(item).await.unwrap() }
                },
                move || {
                    let receiver = pops.clone();
                    async move { receiver.recv().await.ok().filter(|item| *item != u64::MAX) }
                },
                || (0..ends).for_each(|_| stops.send(u64::MAX).unwrap()),
            );
        })
        .peer_in_bulk("flume", ITEMS, move || {
            let (sender, receiver) = flume::bounded(capacity);
            let pops = Arc::new(receiver);
            let pushes = Arc::new(sender);
            let stops = pushes.clone();
            between_tasks(
                ends,
                move |item| {
                    let sender = pushes.clone();
                    async move { sender.send_async(item).await.unwrap() }
                },
                move || {
                    let receiver = pops.clone();
                    async move { receiver.recv_async().await.ok().filter(|item| *item != u64::MAX) }
                },
                || (0..ends).for_each(|_| stops.send(u64::MAX).unwrap()),
            );
        })
        .peer_in_bulk("async-channel", ITEMS, move || {
            let (sender, receiver) = async_channel::bounded(capacity);
            let (pushes, pops) = (Arc::new(sender.clone()), Arc::new(receiver));
            between_tasks(
                ends,
                move |item| {
                    let sender = pushes.clone();
                    async move { sender.send(item).await.unwrap() }
                },
                move || {
                    let receiver = pops.clone();
                    async move { receiver.recv().await.ok() }
                },
                || {
                    let _ = sender.close();
                },
            );
        });
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
