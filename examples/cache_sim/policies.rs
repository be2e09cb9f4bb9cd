//! Other caches' policies, in their plainest form: to compare with, not to copy from.

use std::collections::BinaryHeap;

use floodwall::cache::{Eviction, Simulator};

use crate::traces::{Request, Trace};

/// Hits of a policy with so much room.
pub(crate) type Run = fn(&Trace, u64) -> u64;

/// The name in the table, and whether it is one of ours.
pub(crate) const POLICIES: [(&str, Run); 10] = [
    ("floodwall", |trace, capacity| ours(trace, capacity, Eviction::Adaptive)),
    ("its Lru", |trace, capacity| ours(trace, capacity, Eviction::Lru)),
    ("LRU", |trace, capacity| run(trace, Queue::new(trace, capacity, true))),
    ("FIFO", |trace, capacity| run(trace, Queue::new(trace, capacity, false))),
    ("S3-FIFO", |trace, capacity| run(trace, S3Fifo::new(trace, capacity))),
    ("SIEVE", |trace, capacity| run(trace, Sieve::new(trace, capacity))),
    ("W-TinyLFU 1%", |trace, capacity| run(trace, WTinyLfu::new(trace, capacity, false))),
    ("W-TinyLFU climbing", |trace, capacity| run(trace, WTinyLfu::new(trace, capacity, true))),
    ("ARC-like", |trace, capacity| run(trace, Arc::new(trace, capacity))),
    ("Bélády", belady),
];

fn ours(trace: &Trace, capacity: u64, eviction: Eviction) -> u64 {
    let mut simulator = Simulator::new(eviction, capacity);
    trace.requests.iter().filter(|request| simulator.access(hash(request.key), request.weight)).count() as u64
}

trait Policy {
    /// Asks for a key, takes it in, and says whether it was there.
    fn access(&mut self, request: Request) -> bool;
}

fn run(trace: &Trace, mut policy: impl Policy) -> u64 {
    trace.requests.iter().filter(|&&request| policy.access(request)).count() as u64
}

/// SplitMix64.
pub(crate) fn hash(key: u32) -> u64 {
    let mut z = u64::from(key).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const NONE: u32 = u32::MAX;

/// Up to four lists through all keys, newest first. A key stands in one of them, or in none (0).
struct Lists {
    next: Vec<u32>,
    prev: Vec<u32>,
    place: Vec<u8>,
    weight: Vec<u64>,
    newest: [u32; 5],
    oldest: [u32; 5],
    sum: [u64; 5],
}

impl Lists {
    fn new(trace: &Trace) -> Self {
        let keys = trace.keys;
        Self {
            next: vec![NONE; keys],
            prev: vec![NONE; keys],
            place: vec![0; keys],
            weight: vec![1; keys],
            newest: [NONE; 5],
            oldest: [NONE; 5],
            sum: [0; 5],
        }
    }

    fn place(&self, key: u32) -> u8 {
        self.place[key as usize]
    }

    fn oldest(&self, list: u8) -> Option<u32> {
        Some(self.oldest[list as usize]).filter(|&key| key != NONE)
    }

    fn sum(&self, lists: &[usize]) -> u64 {
        lists.iter().map(|&list| self.sum[list]).sum()
    }

    fn push(&mut self, list: u8, key: u32) {
        let (at, number) = (key as usize, list as usize);
        let second = self.newest[number];
        (self.next[at], self.prev[at], self.place[at]) = (second, NONE, list);
        if second == NONE {
            self.oldest[number] = key
        } else {
            self.prev[second as usize] = key
        }
        self.newest[number] = key;
        self.sum[number] += self.weight[at];
    }

    fn take(&mut self, key: u32) {
        let at = key as usize;
        let (next, prev, number) = (self.next[at], self.prev[at], self.place[at] as usize);
        if prev == NONE {
            self.newest[number] = next
        } else {
            self.next[prev as usize] = next
        }
        if next == NONE {
            self.oldest[number] = prev
        } else {
            self.prev[next as usize] = prev
        }
        self.place[at] = 0;
        self.sum[number] -= self.weight[at];
    }

    fn shift(&mut self, list: u8, key: u32) {
        self.take(key);
        self.push(list, key);
    }

    fn insert(&mut self, list: u8, request: Request) {
        self.weight[request.key as usize] = request.weight;
        self.push(list, request.key);
    }
}

/// LRU and FIFO.
struct Queue {
    lists: Lists,
    capacity: u64,
    moves: bool,
}

impl Queue {
    fn new(trace: &Trace, capacity: u64, moves: bool) -> Self {
        Self { lists: Lists::new(trace), capacity, moves }
    }
}

impl Policy for Queue {
    fn access(&mut self, request: Request) -> bool {
        let is_hit = self.lists.place(request.key) == 1;
        match is_hit {
            true if self.moves => self.lists.shift(1, request.key),
            true => {}
            false if request.weight <= self.capacity => self.lists.insert(1, request),
            false => {}
        }
        while self.lists.sum[1] > self.capacity {
            self.lists.take(self.lists.oldest[1]);
        }
        is_hit
    }
}

/// J. Yang, Y. Zhang, Z. Qiu, Y. Yue and K. V. Rashmi, "FIFO queues are all you need for cache eviction", 2023.
struct S3Fifo {
    lists: Lists,
    uses: Vec<u8>,
    capacity: u64,
}

impl S3Fifo {
    fn new(trace: &Trace, capacity: u64) -> Self {
        Self { lists: Lists::new(trace), uses: vec![0; trace.keys], capacity }
    }

    fn evict(&mut self) {
        let (lists, uses) = (&mut self.lists, &mut self.uses);
        if lists.sum[2] > self.capacity - self.capacity / 10 || lists.sum[1] == 0 {
            while let Some(key) = lists.oldest(2) {
                if uses[key as usize] == 0 {
                    return lists.take(key);
                }
                uses[key as usize] -= 1;
                lists.shift(2, key);
            }
        }
        while let Some(key) = lists.oldest(1) {
            if uses[key as usize] > 1 {
                uses[key as usize] = 0;
                lists.shift(2, key);
                continue;
            }
            lists.shift(3, key);
            while lists.sum[3] > self.capacity * 9 / 10 {
                lists.take(lists.oldest[3]);
            }
            return;
        }
    }
}

impl Policy for S3Fifo {
    fn access(&mut self, request: Request) -> bool {
        let place = self.lists.place(request.key);
        let uses = &mut self.uses[request.key as usize];
        if place == 1 || place == 2 {
            *uses = (*uses + 1).min(3);
            return true;
        }
        *uses = 0;
        if place == 3 {
            self.lists.take(request.key);
        }
        if request.weight <= self.capacity {
            while self.lists.sum(&[1, 2]) + request.weight > self.capacity {
                self.evict();
            }
            self.lists.insert(if place == 3 { 2 } else { 1 }, request);
        }
        false
    }
}

/// Y. Zhang and others, "SIEVE is simpler than LRU", 2024.
struct Sieve {
    lists: Lists,
    used: Vec<bool>,
    hand: u32,
    capacity: u64,
}

impl Sieve {
    fn new(trace: &Trace, capacity: u64) -> Self {
        Self { lists: Lists::new(trace), used: vec![false; trace.keys], hand: NONE, capacity }
    }
}

impl Policy for Sieve {
    fn access(&mut self, request: Request) -> bool {
        if self.lists.place(request.key) == 1 {
            self.used[request.key as usize] = true;
            return true;
        }
        if request.weight > self.capacity {
            return false;
        }
        while self.lists.sum[1] + request.weight > self.capacity {
            let mut key = if self.hand == NONE { self.lists.oldest[1] } else { self.hand };
            while std::mem::take(&mut self.used[key as usize]) {
                let prev = self.lists.prev[key as usize];
                key = if prev == NONE { self.lists.oldest[1] } else { prev };
            }
            self.hand = self.lists.prev[key as usize];
            self.lists.take(key);
        }
        self.lists.insert(1, request);
        false
    }
}

/// G. Einziger, R. Friedman and B. Manes, "TinyLFU: a highly efficient cache admission policy", 2017; with the window that
/// climbs after the hit ratio as in G. Einziger, O. Eytan, R. Friedman and B. Manes, "Adaptive software cache management", 2018.
struct WTinyLfu {
    lists: Lists,
    counts: Counts,
    capacity: u64,
    window: u64,
    climbs: bool,
    requests: u64,
    hits: u64,
    ratio: Option<f64>,
    step: f64,
    draw: u64,
}

/// A count-min sketch of bytes, halved at times.
struct Counts {
    rows: [Vec<u8>; 4],
    counted: u64,
    period: u64,
}

impl Counts {
    fn new(entries: usize) -> Self {
        let width = (4 * entries).next_power_of_two().max(64);
        Self { rows: std::array::from_fn(|_| vec![0; width]), counted: 0, period: 10 * entries as u64 }
    }

    fn at(&self, key: u32, row: u64) -> usize {
        hash(key ^ ((row as u32 + 1) << 28)) as usize & (self.rows[0].len() - 1)
    }

    fn count(&mut self, key: u32) {
        for row in 0..4 {
            let at = self.at(key, row as u64);
            self.rows[row][at] = (self.rows[row][at] + 1).min(15);
        }
        self.counted += 1;
        if self.counted >= self.period {
            self.counted /= 2;
            self.rows.iter_mut().flatten().for_each(|count| *count /= 2);
        }
    }

    fn estimate(&self, key: u32) -> u8 {
        (0..4).map(|row| self.rows[row][self.at(key, row as u64)]).min().unwrap_or(0)
    }
}

impl WTinyLfu {
    fn new(trace: &Trace, capacity: u64, climbs: bool) -> Self {
        // How many entries fit in, if there are weights.
        let entries = (capacity as f64 / trace.mean_weight()).max(1.0);
        Self {
            lists: Lists::new(trace),
            counts: Counts::new(entries as usize),
            capacity,
            window: (capacity / 100).max(1),
            climbs,
            requests: 0,
            hits: 0,
            ratio: None,
            step: capacity as f64 / 16.0,
            draw: 0,
        }
    }

    fn settle(&mut self) {
        let lists = &mut self.lists;
        while lists.sum[3] > (self.capacity - self.window) * 4 / 5 {
            lists.shift(2, lists.oldest[3]);
        }
        // The window's oldest go to the probation, and from there somebody has to leave.
        while lists.sum[1] > self.window {
            let newcomer = lists.oldest[1];
            lists.take(newcomer);
            while lists.sum(&[1, 2, 3]) + lists.weight[newcomer as usize] > self.capacity {
                let Some(victim) = lists.oldest(2).or(lists.oldest(3)).or(lists.oldest(1)) else { break };
                let (seen, victims) = (self.counts.estimate(newcomer), self.counts.estimate(victim));
                self.draw += 1;
                if seen <= victims && !(seen >= 6 && hash(self.draw as u32) % 128 == 0) {
                    break;
                }
                lists.take(victim);
            }
            if lists.sum(&[1, 2, 3]) + lists.weight[newcomer as usize] <= self.capacity {
                lists.push(2, newcomer);
            }
        }
        while lists.sum(&[1, 2, 3]) > self.capacity {
            let victim = lists.oldest(2).or(lists.oldest(3)).unwrap_or(lists.oldest[1]);
            lists.take(victim);
        }
    }

    fn climb(&mut self, entries: u64) {
        if !self.climbs || self.requests < 10 * entries {
            return;
        }
        let ratio = self.hits as f64 / self.requests as f64;
        let change = ratio - self.ratio.unwrap_or(ratio);
        let amount = if change >= 0.0 { self.step } else { -self.step };
        let restart = (self.capacity as f64 / 16.0).copysign(amount);
        self.step = if change.abs() >= 0.05 { restart } else { 0.98 * amount };
        (self.ratio, self.requests, self.hits) = (Some(ratio), 0, 0);
        let window = (self.window as f64 + amount).clamp(1.0, self.capacity as f64 * 0.8) as u64;
        let lists = &mut self.lists;
        while lists.sum[1] < window && self.window < window {
            let Some(key) = lists.oldest(2).or(lists.oldest(3)) else { break };
            lists.shift(1, key);
        }
        while lists.sum[1] > window {
            lists.shift(2, lists.oldest[1]);
        }
        self.window = window;
        self.settle();
    }
}

impl Policy for WTinyLfu {
    fn access(&mut self, request: Request) -> bool {
        self.counts.count(request.key);
        self.requests += 1;
        let place = self.lists.place(request.key);
        match place {
            0 if request.weight <= self.capacity => self.lists.insert(1, request),
            0 => {}
            1 => self.lists.shift(1, request.key),
            _ => self.lists.shift(3, request.key),
        }
        self.hits += u64::from(place > 0);
        self.settle();
        self.climb(self.counts.period / 10);
        place > 0
    }
}

/// After N. Megiddo and D. S. Modha, "ARC: a self-tuning, low overhead replacement cache", 2003: two lists, of keys seen once and more
/// often, and what has left each of them says which should be longer.
struct Arc {
    lists: Lists,
    capacity: u64,
    once: f64,
}

impl Arc {
    fn new(trace: &Trace, capacity: u64) -> Self {
        Self { lists: Lists::new(trace), capacity, once: 0.0 }
    }
}

impl Policy for Arc {
    fn access(&mut self, request: Request) -> bool {
        let place = self.lists.place(request.key);
        let lists = &mut self.lists;
        if place == 1 || place == 2 {
            lists.shift(2, request.key);
            return true;
        }
        if request.weight > self.capacity {
            return false;
        }
        if place > 2 {
            let (mine, other) = (lists.sum[place as usize], lists.sum[7 - place as usize]);
            let step = (other as f64 / mine as f64).max(1.0) * request.weight as f64;
            let step = if place == 3 { step } else { -step };
            self.once = (self.once + step).clamp(0.0, self.capacity as f64);
            lists.take(request.key);
        }
        while lists.sum(&[1, 2]) + request.weight > self.capacity {
            let from_once = lists.sum[1] as f64 > self.once || place == 4 && lists.sum[1] as f64 >= self.once;
            let list = if lists.sum[2] == 0 || from_once && lists.sum[1] > 0 { 1 } else { 2 };
            lists.shift(list + 2, lists.oldest[list as usize]);
        }
        lists.insert(if place > 2 { 2 } else { 1 }, request);
        while lists.sum(&[1, 3]) > self.capacity && lists.sum[3] > 0 {
            lists.take(lists.oldest[3]);
        }
        while lists.sum(&[1, 2, 3, 4]) > 2 * self.capacity && lists.sum[4] > 0 {
            lists.take(lists.oldest[4]);
        }
        false
    }
}

/// The optimum for keys of one weight: who is asked for last leaves (L. A. Bélády, 1966). With weights it is only a good guess.
fn belady(trace: &Trace, capacity: u64) -> u64 {
    let mut next = vec![u32::MAX; trace.requests.len()];
    let mut seen = vec![u32::MAX; trace.keys];
    for (time, request) in trace.requests.iter().enumerate().rev() {
        next[time] = std::mem::replace(&mut seen[request.key as usize], time as u32);
    }
    // What stands in the heap counts if it is the key's latest entry there.
    let (mut heap, mut due, mut weights) = (BinaryHeap::new(), vec![0; trace.keys], vec![0; trace.keys]);
    let (mut weight, mut hits) = (0, 0);
    for (request, &next) in trace.requests.iter().zip(&next) {
        let key = request.key as usize;
        if weights[key] > 0 {
            hits += 1;
        } else if request.weight <= capacity {
            while weight + request.weight > capacity {
                let Some((time, victim)) = heap.pop() else { break };
                if due[victim as usize] == time {
                    weight -= std::mem::take(&mut weights[victim as usize]);
                }
            }
            weights[key] = request.weight;
            weight += request.weight;
        }
        if weights[key] > 0 {
            due[key] = next;
            heap.push((next, request.key));
        }
    }
    hits
}
