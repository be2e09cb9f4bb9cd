//! What does it cost to find the node of a key, by each algorithm, among 10, 100 and 1,000 nodes?
//!
//! Keys are strings of 12 bytes, each in its turn. All find a node, by reference, and hash the key themselves; the cases of
//! numbers alone leave that out. floodwall is asked through a reader, which also looks whether the set has changed; others
//! are a plain table that nobody can change meanwhile (only mpchash can be changed while it is read).
//!
//! What is not alike. Every ring has 160 points a node but hashring's, which has one and is uneven. hashring, jumphash and
//! maglev hash by SipHash, anchorhash by SipHash and once more, mpchash by XXH3 as floodwall does, conhash by MD5.
//! pingora-ketama is nginx's ring. jump-consistent-hash takes a number, and here gets XXH3 of the key from floodwall.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use anchorhash::AnchorHash;
use conhash::ConsistentHash;
use floodwall::Sharder;
use floodwall::shard::{
    Jump, JumpBack, Ketama, KeyHash, Maglev, Modulo, MultiProbe, NginxRing, Rendezvous, Ring, Slots,
    Strategy, jump_back_bucket, jump_bucket,
};
use hashring::HashRing;
use hrw_hash::HrwNodes;
use jumphash::JumpHasher;
use maglev::ConsistentHasher;
use pingora_ketama::{Bucket, Continuum};
use rendezvous_hash::{DefaultNodeHasher, RendezvousNodes};

use crate::harness::Case;

const KEYS: usize = 1 << 14;

static TEXTS: LazyLock<Vec<String>> =
    LazyLock::new(|| (0..KEYS).map(|key| format!("user:{:07}", key * 607)).collect());

pub fn cases() -> Vec<Case> {
    vec![
        look_up("10 nodes", 10),
        look_up("100 nodes", 100),
        look_up("1,000 nodes", 1_000),
        numbers("numbers, 10 nodes", 10),
        numbers("numbers, 1,000 nodes", 1_000),
        threads(),
    ]
}

fn names(nodes: usize) -> Vec<String> {
    (0..nodes).map(address).collect()
}

fn address(node: usize) -> String {
    format!("10.0.{}.{}:443", node / 250, node % 250 + 1)
}

/// Adds a peer that looks the keys up, one after the other.
fn asks<T, R>(case: Case, name: &'static str, thing: T, look_up: fn(&T, &'static str) -> R) -> Case
where
    T: Send + Sync + 'static,
    R: 'static,
{
    let thing = Arc::new(thing);
    case.peer_per_thread(
        name,
        move || (thing.clone(), 0usize),
        move |(thing, at)| {
            *at = (*at + 1) % KEYS;
            look_up(thing, &TEXTS[*at])
        },
    )
}

/// The same for a strategy of floodwall, through a reader.
fn reads(case: Case, name: &'static str, strategy: impl Strategy + 'static, nodes: usize) -> Case {
    let shards = Sharder::with(strategy, names(nodes)).unwrap();
    case.peer_per_thread(
        name,
        move || (shards.reader(), 0usize),
        |(reader, at)| {
            *at = (*at + 1) % KEYS;
            std::hint::black_box(reader.get(&*TEXTS[*at]).unwrap());
        },
    )
}

fn look_up(name: &'static str, nodes: usize) -> Case {
    let case = reads(Case::new(name), "floodwall", Slots::new(), nodes);
    let case = reads(case, "floodwall, maglev", Maglev::new(), nodes);
    let case = reads(case, "floodwall, ring", Ring::new(), nodes);
    let case = reads(case, "floodwall, nginx", NginxRing::new(), nodes);
    let case = reads(case, "floodwall, ketama", Ketama::libmemcached(), nodes);
    let case = reads(case, "floodwall, rendezvous", Rendezvous::new(), nodes);
    let case = reads(case, "floodwall, multi-probe", MultiProbe::new(), nodes);
    let case = reads(case, "floodwall, jump", Jump::new(), nodes);
    let case = reads(case, "floodwall, jump back", JumpBack::new(), nodes);
    let case = reads(case, "floodwall, modulo", Modulo::new(), nodes);

    let maglev = maglev::Maglev::with_capacity(names(nodes), 65_537);
    let case = asks(case, "maglev", maglev, |maglev, key| maglev.get(key).unwrap() as *const String);
    let mut ring = HashRing::new();
    ring.batch_add(names(nodes));
    let case = asks(case, "hashring", ring, |ring, key| ring.get(&key).unwrap() as *const String);
    let mut ring = ConsistentHash::new();
    names(nodes).into_iter().for_each(|name| ring.add(&Named(name), 160));
    let case = asks(case, "conhash", ring, |ring, key| ring.get_str(key).unwrap() as *const Named);
    let buckets: Vec<Bucket> =
        names(nodes).iter().map(|name| Bucket::new(name.parse::<SocketAddr>().unwrap(), 1)).collect();
    let case = asks(case, "pingora-ketama", Continuum::new(&buckets), |ring, key| {
        ring.node(key.as_bytes()).unwrap()
    });
    let mut rendezvous = RendezvousNodes::<_, DefaultNodeHasher>::default();
    names(nodes).into_iter().for_each(|name| {
        rendezvous.insert(rendezvous_hash::IdNode::new(name));
    });
    let case = asks(case, "rendezvous_hash", rendezvous, |nodes, key| {
        nodes.calc_candidates(&key).next().unwrap() as *const _ as usize
    });
    let hrw = HrwNodes::new(names(nodes));
    let case =
        asks(case, "hrw-hash", hrw, |nodes, key| nodes.sorted(&key).next().unwrap() as *const _ as usize);
    let ring = mpchash::HashRing::new();
    names(nodes).into_iter().for_each(|name| ring.add(name));
    let case = asks(case, "mpchash", ring, |ring, key| drop(ring.node(&key).unwrap()));
    let anchor: AnchorHash<&'static str, String, _> =
        anchorhash::Builder::default().with_resources(names(nodes)).build(nodes as u16);
    let case =
        asks(case, "anchorhash", anchor, |anchor, key| anchor.get_resource(key).unwrap() as *const String);
    let case = asks(case, "jumphash", (JumpHasher::new(), names(nodes)), |(hasher, names), key| {
        &names[hasher.slot(&key, names.len() as u32) as usize] as *const String
    });
    asks(case, "jump-consistent-hash", names(nodes), |names, key| {
        let hash = KeyHash::Xxh3.hash(key.as_bytes());
        &names[jump_consistent_hash::hash(hash, names.len()) as usize] as *const String
    })
}

/// What remains of an algorithm when the key is a hash already.
fn numbers(name: &'static str, nodes: usize) -> Case {
    let number = |case: Case, name, find: fn(u64, usize) -> u32| {
        case.peer_per_thread(
            name,
            move || (0u64, nodes),
            move |(number, nodes)| {
                *number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
                find(*number, *nodes)
            },
        )
    };
    let case = number(Case::new(name), "floodwall, jump", |key, nodes| jump_bucket(key, nodes as u32));
    let case = number(case, "floodwall, jump back", |key, nodes| jump_back_bucket(key, nodes as u32));
    number(case, "jump-consistent-hash", jump_consistent_hash::hash)
}

/// The three ways to ask one sharder, from one thread and two.
fn threads() -> Case {
    let shards = Sharder::new(names(100)).unwrap();
    let case = reads(Case::new("100 nodes, ways to ask").threads(&[1, 2]), "reader", Slots::new(), 100);
    let case = asks(case, "get", shards.clone(), |shards, key| shards.get(key).unwrap());
    let case = asks(case, "snapshot each time", shards.clone(), |shards, key| {
        shards.snapshot().get(key).unwrap() as *const String as usize
    });
    asks(case, "route", shards, |shards, key| shards.route(key).read() as *const String as usize)
}

#[derive(Clone)]
struct Named(String);

impl conhash::Node for Named {
    fn name(&self) -> String {
        self.0.clone()
    }
}
