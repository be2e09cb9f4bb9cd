//! Tables of other projects' answers: keys have to live where they do there.
//!
//! The full tables lie in `../shared/vectors`, with their sources and licences, and are passed over, visibly, where that
//! folder is not there. A sample of each is written out here.
#![cfg(not(floodwall_loom))]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use floodwall::Sharder;
use floodwall::shard::compat::{
    KeyRange, RingNode, TokenRange, cassandra_token, datacenter_replicas, simple_replicas, vitess_hash,
};
use floodwall::shard::{
    EnvoyRing, JumpBack, Ketama, KeyHash, Layout, Maglev, Member, NginxRing, Pieces, RedisSlots, Spot,
    Strategy, Walk, jump_back_bucket, jump_bucket,
};
use serde_json::Value;

/// The text of a table, or a line that says it is not there.
fn table(name: &str) -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors").join(name);
    let text = fs::read_to_string(&path).ok();
    if text.is_none() {
        println!("skipped: {} is not there", path.display());
    }
    text
}

fn json(name: &str) -> Option<Value> {
    table(name).map(|text| serde_json::from_str(&text).unwrap())
}

/// The lines of a table without its head, cut at commas from the right into `columns`.
fn rows(text: &str, columns: usize) -> impl Iterator<Item = Vec<&str>> {
    text.lines().skip(1).map(move |line| {
        let mut row: Vec<&str> = line.rsplitn(columns, ',').collect();
        row.reverse();
        row
    })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn pairs(value: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    list(value).iter().map(|pair| (&pair[0], &pair[1]))
}

fn layout(strategy: impl Strategy, nodes: &[Member]) -> (Box<dyn Layout>, Vec<String>) {
    let shards = Sharder::new(nodes.to_vec()).unwrap();
    let snapshot = shards.snapshot();
    let ids = snapshot.nodes().map(|(id, _)| id.to_owned()).collect();
    (strategy.layout(snapshot.roster()).unwrap(), ids)
}

/// How many points each node has on a ring.
fn points(layout: &dyn Layout, ids: &[String]) -> BTreeMap<String, usize> {
    let mut walk = Walk::from(Spot::at(0));
    let mut counts = BTreeMap::new();
    while let Some(index) = layout.next(&mut walk) {
        *counts.entry(ids[index as usize].clone()).or_default() += 1;
    }
    counts
}

/// A sample of dgryski/go-jump's `jump_test.go` (MIT), which restates the reference implementation's and Guava's.
#[test]
fn jump_agrees_with_the_reference_implementation() {
    for (key, buckets, expected) in [
        (0, 19, 0),
        (1, 19, 17),
        (0xdead_beef, 19, 16),
        (0x0ddc_0ffe_ebad_f00d, 19, 15),
        (10_863_919_174_838_991, 11, 6),
        (1, 100, 55),
        (7, 100, 97),
        (2, 100_001, 80_343),
    ] {
        assert_eq!(jump_bucket(key, buckets), expected, "key {key} in {buckets}");
    }
}

#[test]
fn jump_agrees_with_all_of_the_table() {
    let Some(text) = table("jump_hash.csv") else { return };
    let mut count = 0;
    for row in text.lines().skip(1) {
        let row: Vec<&str> = row.splitn(4, ',').collect();
        let numbers: Vec<u64> = row[..3].iter().map(|number| number.parse().unwrap()).collect();
        assert_eq!(u64::from(jump_bucket(numbers[0], numbers[1] as u32)), numbers[2], "{row:?}");
        count += 1;
    }
    assert_eq!(count, 103);
}

/// dynatrace-oss/hash4j's `README.md` (Apache-2.0): three keys in 2 and 3 buckets, and after bucket 1 was removed.
#[test]
fn jump_back_agrees_with_hash4j() {
    for (key, two, three) in
        [(0x7f74_87ee_708c_8a96, 1, 1), (0x6265_648f_bc79_7f25, 0, 0), (0x85ef_23a0_b545_d53b, 0, 2)]
    {
        assert_eq!((jump_back_bucket(key, 2), jump_back_bucket(key, 3)), (two, three));
    }
    let keys = [0x48ac_5021_66f7_61a8u64, 0x9b71_93f9_7ec9_cb79, 0x6ce8_8bf7_de8c_06c2];
    let raw = KeyHash::Custom(|key| u64::from_be_bytes(key.try_into().unwrap()));
    let shards = Sharder::with(JumpBack::new().hash(raw), ["0", "1", "2"]).unwrap();
    assert_eq!(keys.map(|key| *shards.get(&key).unwrap()), ["1", "0", "2"]);
    shards.remove("1").unwrap();
    assert_eq!(keys.map(|key| *shards.get(&key).unwrap()), ["2", "0", "2"]);
}

#[test]
fn jump_back_agrees_with_all_of_the_table() {
    let Some(json) = json("jumpback_hash4j.json") else { return };
    let hex = |value: &Value| u64::from_str_radix(&text(value)[2..], 16).unwrap();
    for row in list(&json["jumpback"]) {
        assert_eq!(Value::from(jump_back_bucket(hex(&row["key"]), 2)), row["n2"], "{row}");
        assert_eq!(Value::from(jump_back_bucket(hex(&row["key"]), 3)), row["n3"], "{row}");
    }
    for row in list(&json["extra_generated"]) {
        let buckets = row["n"].as_u64().unwrap() as u32;
        assert_eq!(Value::from(jump_back_bucket(hex(&row["key"]), buckets)), row["bucket"], "{row}");
    }
    let small = &json["small_keys_jba"];
    for (at, key) in list(&small["keys"]).iter().enumerate() {
        let key = key.as_u64().unwrap();
        assert_eq!(Value::from(jump_back_bucket(key, 1)), small["one_bucket"][at]);
        assert_eq!(Value::from(jump_back_bucket(key, 2)), small["two_buckets"][at]);
    }
    assert!(list(&json["extra_generated"]).len() > 100);
}

fn libmemcached() -> Vec<Member> {
    let weights = [600, 300, 200, 350, 1000, 800, 950, 100];
    let node = |(at, weight): (usize, i32)| Member::new(format!("10.0.1.{}", at + 1)).weight(weight.into());
    weights.into_iter().enumerate().map(node).collect()
}

/// awesomized/libmemcached's `test/fixtures/ketama.hpp` (BSD-3): eight servers of different weights, port 11211.
#[test]
fn ketama_agrees_with_libmemcached() {
    let shards = Sharder::with(Ketama::libmemcached(), libmemcached()).unwrap();
    let snapshot = shards.snapshot();
    for (key, server) in [
        ("SVa_]_V41)", "10.0.1.7"),
        (r"*/Z;?V(.\8", "10.0.1.1"),
        ("30C1*Z*S/_", "10.0.1.2"),
        ("ERR:EC58G>", "10.0.1.7"),
        ("1I=cTMNTKF", "10.0.1.5"),
    ] {
        assert_eq!(snapshot.home(key), server, "{key}");
    }
    let (ring, ids) = layout(Ketama::libmemcached(), &libmemcached());
    // Trap 4: beyond the last point, so it belongs to the first.
    let Some(Pieces::Hashes(32, pieces)) = ring.pieces() else { panic!("a ring has pieces") };
    assert_eq!((KeyHash::Md5.hash(b"VDEAAAAA"), pieces.last().unwrap().0), (0xfffc_d1b5, 0xfffb_df7f + 1));
    assert_eq!(ring.place(b"VDEAAAAA"), pieces[0].1);
    let counts: Vec<usize> = points(&*ring, &ids).into_values().collect();
    assert_eq!(counts, [176, 88, 56, 104, 296, 236, 280, 28]);
}

#[test]
fn ketama_agrees_with_all_of_libmemcacheds_table() {
    let Some(text) = table("ketama_libmemcached_weighted.csv") else { return };
    let shards = Sharder::with(Ketama::libmemcached(), libmemcached()).unwrap();
    let (ring, _) = layout(Ketama::libmemcached(), &libmemcached());
    let Some(Pieces::Hashes(32, pieces)) = ring.pieces() else { panic!("a ring has pieces") };
    let mut count = 0;
    for row in rows(&text, 4) {
        let [key, hash, point, server] = row[..] else { panic!("{row:?}") };
        let key =
            key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key).replace("\"\"", "\"");
        let key = &*key;
        assert_eq!(KeyHash::Md5.hash(key.as_bytes()).to_string(), hash);
        assert_eq!(shards.snapshot().home(key), server, "{key}");
        // The piece that ends with the point belongs to it.
        let point: u64 = point.parse().unwrap();
        assert!(pieces.iter().any(|(start, _)| *start == point + 1), "no point at {point}");
        count += 1;
    }
    assert_eq!(count, 99);
}

/// couchbase/spymemcached's `KetamaNodeLocatorTest.java` (MIT).
#[test]
fn ketama_agrees_with_spymemcached() {
    let nodes = (1..=8).map(|at| Member::new(format!("10.0.1.{at}:11211")));
    let shards = Sharder::with(Ketama::spymemcached(), nodes).unwrap();
    for (key, server) in [("137470", 2), ("137703", 3), ("137936", 1), ("138169", 6), ("138402", 8)] {
        assert_eq!(shards.snapshot().home(key), format!("10.0.1.{server}:11211"));
    }
    let Some(text) = table("ketama_spymemcached_8nodes_unweighted.csv") else { return };
    let rows: Vec<_> = rows(&text, 2).collect();
    for row in &rows {
        assert_eq!(shards.snapshot().home(row[0]), row[1], "{}", row[0]);
    }
    assert_eq!(rows.len(), 2_841);
}

#[test]
fn ketama_agrees_with_the_small_tables() {
    let Some(json) = json("ketama_small_vectors.json") else { return };
    for (key, hash) in pairs(&json["md5_le_u32"]) {
        assert_eq!(Value::from(KeyHash::Md5.hash(text(key).as_bytes())), *hash);
    }
    for (of, nodes) in [("spymemcached_4nodes", 4), ("spymemcached_5nodes", 5)] {
        let nodes = (0..nodes).map(|at| Member::new(format!("127.0.0.1:1000{at}")));
        let shards = Sharder::with(Ketama::spymemcached(), nodes).unwrap();
        for (key, node) in json[of]["lookups"].as_object().unwrap() {
            assert_eq!(shards.snapshot().home(key), format!("127.0.0.1:1000{node}"), "{of}: {key}");
        }
    }
    let nodes = [Member::new("localhost").weight(8.0), Member::new("localhost:11212").weight(8.0)];
    for strategy in [Ketama::libmemcached(), Ketama::twemproxy()] {
        let shards = Sharder::with(strategy, nodes.clone()).unwrap();
        for (key, port) in json["libmemcached_label_weighted"]["lookups"].as_object().unwrap() {
            let home = if *port == 11212 { "localhost:11212" } else { "localhost" };
            assert_eq!(shards.snapshot().home(key), home, "{key}");
        }
    }
    // dgryski/go-ketama: numbers alone, of 100,000 keys on ten servers.
    let nodes = (1..=10).map(|at| Member::new(format!("server{at}")));
    let shards = Sharder::with(Ketama::libketama(), nodes).unwrap();
    let spread = shards.snapshot().spread((0..100_000).map(|key| format!("foo{key}")));
    for (id, keys) in spread.nodes() {
        assert_eq!(json["go_ketama_counts"]["counts"][id], keys, "{id}");
    }
}

/// Trap 5, in both directions: the arithmetic in 32-bit floats is part of the format.
#[test]
fn ketama_counts_points_as_the_c_programs_do() {
    let count = |strategy: Ketama, nodes: usize| {
        let nodes: Vec<_> = (0..nodes).map(|at| Member::new(format!("node{at}"))).collect();
        let (ring, ids) = layout(strategy, &nodes);
        // Points of two nodes may meet, and then one of them has one fewer.
        points(&*ring, &ids).into_values().max().unwrap()
    };
    for nodes in [25, 47, 50, 55, 61, 71, 94, 100] {
        assert_eq!(count(Ketama::libmemcached(), nodes), 156, "libmemcached, {nodes} nodes");
        assert_eq!(count(Ketama::twemproxy(), nodes), 156, "twemproxy, {nodes} nodes");
        assert_eq!(count(Ketama::spymemcached(), nodes), 160, "spymemcached, {nodes} nodes");
    }
    for nodes in [61, 122, 237, 244] {
        assert_eq!(count(Ketama::libketama(), nodes), 156, "libketama, {nodes} nodes");
    }
    for nodes in [2, 10, 24, 26, 99, 101] {
        assert_eq!(count(Ketama::libmemcached(), nodes), 160, "libmemcached, {nodes} nodes");
    }
    // A weight that is nothing beside the others still has its points.
    let nodes = [Member::new("large").weight(1e6), Member::new("small").weight(1.0)];
    let (ring, ids) = layout(Ketama::libmemcached(), &nodes);
    assert_eq!(points(&*ring, &ids)["small"], 4);
    let nodes = [Member::new("a").weight(1e12), Member::new("b")];
    assert!(Sharder::with(Ketama::libmemcached(), nodes).is_err(), "too heavy to count points for");
}

/// cloudflare/pingora's `pingora-ketama/test-data` (Apache-2.0), recorded from a real nginx.
#[test]
fn the_nginx_ring_agrees_with_nginx() {
    let nodes = (1..=9).map(|at| Member::new(format!("10.0.0.{at}:443")).weight(100.0));
    let shards = Sharder::with(NginxRing::new(), nodes).unwrap();
    for (uri, server) in [
        ("/81fa1d251d605775d647b5b55565e71526d4cef6", 7),
        ("/2fec328e6ccdda6a7edf329f9f780e546ea183b4", 5),
        ("/19fb835d90883a6263ec4279c6da184e3f1a79b2", 4),
    ] {
        assert_eq!(shards.snapshot().home(uri), format!("10.0.0.{server}:443"));
    }
    let Some(text) = table("nginx_chash_9nodes_w100.csv") else { return };
    let rows: Vec<_> = rows(&text, 2).collect();
    for row in &rows {
        assert_eq!(shards.snapshot().home(row[0]), row[1], "{}", row[0]);
    }
    assert_eq!(rows.len(), 1_001);
}

fn numbers(value: &Value) -> Vec<u64> {
    list(value).iter().map(|number| number.as_u64().unwrap()).collect()
}

fn owners(strategy: impl Strategy, ids: &[Value]) -> Vec<u64> {
    let nodes: Vec<_> = ids.iter().map(|id| Member::new(text(id))).collect();
    let Some(Pieces::Slots(_, slots)) = layout(strategy, &nodes).0.pieces() else {
        panic!("a table has slots")
    };
    slots.into_iter().map(|(_, owner)| owner.into()).collect()
}

/// dgryski/go-maglev hashes names by SipHash.
fn go_maglev(id: &[u8], entries: u64) -> (u64, u64) {
    let hash = KeyHash::SipHash(0xdead_beef_cafe_babe, 0).hash(id);
    ((hash >> 32) % entries, (hash & 0xffff_ffff) % (entries - 1) + 1)
}

/// envoyproxy/envoy's `maglev_lb_test.cc` (Apache-2.0) and dgryski/go-maglev's `maglev_test.go` (MIT).
#[test]
fn maglev_agrees_with_envoy_and_go_maglev() {
    let ids: Vec<Value> = (90..96).map(|port| format!("127.0.0.1:{port}").into()).collect();
    assert_eq!(owners(Maglev::new().entries(7), &ids), [2, 4, 0, 1, 5, 0, 3]);
    let go = || Maglev::new().entries(7).order(go_maglev);
    let ids = ["backend-0", "backend-1", "backend-2"].map(Value::from);
    assert_eq!(owners(go(), &ids), [1, 2, 0, 2, 0, 1, 0]);
    // Without backend-1 the second one left is backend-2.
    let left = [ids[0].clone(), ids[2].clone()];
    assert_eq!(owners(go(), &left).iter().map(|at| at * 2).collect::<Vec<_>>(), [0, 2, 0, 2, 0, 2, 0]);
}

#[test]
fn maglev_agrees_with_all_of_the_tables() {
    let Some(json) = json("maglev_tables.json") else { return };
    for case in list(&json).iter().filter(|case| case["table"].is_array()) {
        let entries = case["m"].as_u64().unwrap() as u32;
        let ids = list(&case["nodes"]);
        let strategy = Maglev::new().entries(entries);
        let strategy =
            if text(&case["source"]).contains("go-maglev") { strategy.order(go_maglev) } else { strategy };
        assert_eq!(owners(strategy, ids), numbers(&case["table"]), "{case}");
    }
    let difference = |weights: &[f64]| {
        let nodes: Vec<_> = weights
            .iter()
            .enumerate()
            .map(|(at, weight)| Member::new(format!("node{at:03}")).weight(*weight))
            .collect();
        let Some(Pieces::Slots(_, slots)) = layout(Maglev::new(), &nodes).0.pieces() else { panic!() };
        let mut counts = vec![0u64; weights.len()];
        slots.iter().for_each(|(_, owner)| counts[*owner as usize] += 1);
        counts.iter().max().unwrap() - counts.iter().min().unwrap()
    };
    // Katran's properties. Its first version fails the second one: weights count in its first round only. Its second has one
    // more than we, 16,385, as there the light ones' turns come at the end of two rounds and in Envoy's table at the start.
    assert_eq!(difference(&[1.0; 400]), 1);
    assert_eq!(difference(&[2.0, 1.0, 1.0]), 16_384);
}

/// envoyproxy/envoy's `ring_hash_lb_test.cc` (Apache-2.0).
#[test]
fn the_envoy_ring_agrees_with_envoy() {
    let nodes: Vec<_> = (90..96).map(|port| Member::new(format!("127.0.0.1:{port}"))).collect();
    let (ring, _) = layout(EnvoyRing::new().size(12, 1_024), &nodes);
    for (hash, port) in
        [(0, 94), (u64::MAX, 94), (3_551_244_743_356_806_947, 95), (3_551_244_743_356_806_948, 93)]
    {
        assert_eq!(ring.owner(Spot::at(hash)) + 90, port, "{hash}");
    }
    let Some(json) = json("envoy_ring_hash.json") else { return };
    let mut cases = 0;
    for case in list(&json) {
        let least = case["min_ring_size"].as_u64().unwrap() as u32;
        let ids: Vec<&str> = list(&case["nodes"]).iter().map(text).collect();
        let nodes: Vec<_> = ids.iter().map(|id| Member::new(*id)).collect();
        let murmur = text(&case["source"]).contains("Murmur");
        let strategy = EnvoyRing::new().size(least, 8 << 20);
        let strategy = if murmur { strategy.hash(KeyHash::Murmur2) } else { strategy };
        let (ring, _) = layout(strategy, &nodes);
        let port = |owner: u32| -> u64 { ids[owner as usize].rsplit(':').next().unwrap().parse().unwrap() };
        let Some(Pieces::Hashes(64, pieces)) = ring.pieces() else { panic!("a ring has pieces") };
        let ends: Vec<u64> = pieces.iter().skip(1).map(|(start, _)| start - 1).collect();
        if case["ring"].is_array() {
            let ring: Vec<(u64, u64)> =
                ends.iter().zip(&pieces).map(|(end, (_, owner))| (port(*owner), *end)).collect();
            let expected: Vec<(u64, u64)> =
                pairs(&case["ring"]).map(|(a, b)| (a.as_u64().unwrap(), b.as_u64().unwrap())).collect();
            assert_eq!(ring, expected);
        } else {
            assert_eq!(ends, numbers(&case["ring_hashes"]));
        }
        for (hash, expected) in
            case["lookups"].as_array().into_iter().flatten().map(|pair| (&pair[0], &pair[1]))
        {
            assert_eq!(port(ring.owner(Spot::at(hash.as_u64().unwrap()))), expected.as_u64().unwrap());
        }
        cases += 1;
    }
    assert_eq!(cases, 3);
}

/// scylladb/scylla-rust-driver's `partitioner.rs` (Apache-2.0 or MIT); the Polish word has bytes that Cassandra takes as signed.
#[test]
fn tokens_agree_with_cassandra() {
    let known = [
        ("test", -6_017_608_668_500_074_083),
        ("xd", 4_507_812_186_440_344_727),
        ("primary_key", -1_632_642_444_691_073_360),
        ("kremówki", 4_354_931_215_268_080_151),
    ];
    for (key, token) in known {
        assert_eq!(cassandra_token(key.as_bytes()), token, "{key}");
    }
    assert_ne!(KeyHash::Murmur3.hash("kremówki".as_bytes()) as i64, known[3].1, "the plain function differs");
    let Some(text) = table("cassandra_murmur3_token.csv") else { return };
    for row in rows(&text, 3) {
        assert_eq!(cassandra_token(row[0].as_bytes()).to_string(), row[1], "{}", row[0]);
    }
}

#[test]
fn token_ranges_and_replicas_agree_with_cassandra() {
    let Some(json) = json("token_range_split_and_nts_replicas.json") else { return };
    let token = |value: &Value| match value.as_str() {
        Some("MIN") => i64::MIN,
        Some("MIN+1") => i64::MIN + 1,
        Some("MAX") => i64::MAX,
        _ => value.as_i64().unwrap(),
    };
    for case in list(&json["split"]) {
        let range = TokenRange { start: token(&case["range"][0]), end: token(&case["range"][1]) };
        let parts: Vec<_> = range.split(case["n"].as_u64().unwrap() as u32).collect();
        let expected: Vec<_> =
            pairs(&case["out"]).map(|(a, b)| TokenRange { start: token(a), end: token(b) }).collect();
        assert_eq!(parts, expected, "{case}");
    }
    let ring: Vec<_> = pairs(&json["ring"])
        .map(|(token, id)| {
            let node = &json["nodes"][text(id)];
            let (id, datacenter, rack) = (text(id), text(&node[0]), text(&node[1]));
            RingNode { token: token.as_i64().unwrap(), id, datacenter, rack }
        })
        .collect();
    let sorted = |mut ids: Vec<&str>| {
        ids.sort_unstable();
        ids.concat()
    };
    let of = |row: &Value| (row[0].as_i64().unwrap(), row[1].as_u64().unwrap_or(0) as usize);
    for row in list(&json["simple_ordered"]) {
        assert_eq!(simple_replicas(&ring, of(row).0, of(row).1).concat(), text(&row[2]), "{row}");
    }
    for row in list(&json["simple_sets"]) {
        let expected = sorted(text(&row[2]).split("").collect());
        assert_eq!(sorted(simple_replicas(&ring, of(row).0, of(row).1)), expected, "{row}");
    }
    for row in list(&json["nts_ordered"]) {
        let count = row[2].as_u64().unwrap() as usize;
        assert_eq!(
            datacenter_replicas(&ring, of(row).0, text(&row[1]), count).concat(),
            text(&row[3]),
            "{row}"
        );
    }
    for row in list(&json["nts_sets"]) {
        let counts = row[1].as_object().unwrap().iter();
        let ids = counts.flat_map(|(datacenter, count)| {
            datacenter_replicas(&ring, of(row).0, datacenter, count.as_u64().unwrap() as usize)
        });
        assert_eq!(sorted(ids.collect()), sorted(text(&row[2]).split("").collect()), "{row}");
    }
}

/// vitessio/vitess' `hash_test.go` and `key_test.go` (Apache-2.0).
#[test]
fn keyspace_ids_and_key_ranges_agree_with_vitess() {
    assert_eq!(vitess_hash(1), 0x166b_40b4_4aba_4bd6);
    let Some(json) = json("vitess_vindex_hash_and_keyrange.json") else { return };
    for (number, id) in pairs(&json["hash"]) {
        assert_eq!(format!("{:016x}", vitess_hash(number.as_u64().unwrap())), text(id));
    }
    let range = |value: &Value| text(value).parse::<KeyRange>().unwrap();
    for row in list(&json["even_shards"]) {
        let [shard, of] = [0, 1].map(|at| row[at].as_u64().unwrap() as u32);
        assert_eq!(KeyRange::even(shard, of).unwrap().to_string(), text(&row[2]), "{row}");
    }
    for row in list(&json["even_shards_errors"]) {
        let [shard, of] = [0, 1].map(|at| row[at].as_i64().unwrap());
        assert!(
            u32::try_from(shard).ok().and_then(|shard| KeyRange::even(shard, of as u32)).is_none(),
            "{row}"
        );
    }
    for row in list(&json["merge"]) {
        let merged = range(&row[0]).merge(&range(&row[1])).map(|range| range.to_string());
        assert_eq!(merged.as_deref(), row[2].as_str(), "{row}");
    }
    for row in list(&json["contiguous"]) {
        assert_eq!(range(&row[0]).is_followed_by(&range(&row[1])), row[2].as_bool().unwrap(), "{row}");
    }
    for row in list(&json["equal"]) {
        assert_eq!(range(&row[0]).same(&range(&row[1])), row[2].as_bool().unwrap(), "{row}");
    }
    for spec in list(&json["bad_specs"]) {
        assert!(text(spec).parse::<KeyRange>().is_err(), "{spec}");
    }
}

/// Redis Cluster's specification: CRC-16/XMODEM, and a tag in braces.
#[test]
fn redis_slots_agree_with_the_specification() {
    for (key, slot) in [("foo", 12_182), ("123456789", 0x31c3), ("{user1000}.following", 3_443), ("", 0)] {
        assert_eq!(RedisSlots::slot_of(key.as_bytes()), slot, "{key}");
    }
    assert_eq!(RedisSlots::slot_of(b"{user1000}.following"), RedisSlots::slot_of(b"user1000"));
    assert_ne!(RedisSlots::slot_of(b"foo{}{bar}"), RedisSlots::slot_of(b"bar"));
    assert_eq!(RedisSlots::slot_of(b"foo{{bar}}zap"), RedisSlots::slot_of(b"{bar"));
    assert_eq!(RedisSlots::slot_of(b"foo{bar}{zap}"), RedisSlots::slot_of(b"bar"));
}

/// Each function's own published values, restated.
#[test]
fn hash_functions_agree_with_their_sources() {
    assert_eq!(KeyHash::Xxh3.hash(b""), 0x2d06_8005_38d3_94c2);
    assert_eq!(KeyHash::Xxh64.hash(b""), 0xef46_db37_51d8_e999);
    assert_eq!(KeyHash::Fnv1a.hash(b"a"), 0xaf63_dc4c_8601_ec8c);
    assert_eq!(KeyHash::Crc32.hash(b"The quick brown fox jumps over the lazy dog"), 0x414f_a339);
    assert_eq!(KeyHash::Crc16.hash(b"123456789"), 0x31c3);
    // MurmurHash3's x64 128 of the usual sentence, first half.
    assert_eq!(KeyHash::Murmur3.hash(b"The quick brown fox jumps over the lazy dog"), 0xe34b_bc7b_bc07_1b6c);
    // SipHash-2-4's first vectors, with the key 00 01 .. 0f.
    let sip = KeyHash::SipHash(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
    assert_eq!(sip.hash(b""), 0x726f_db47_dd0e_0e31);
    assert_eq!(sip.hash(&[0]), 0x74f8_39c5_93dc_67fd);
    // MD5 of nothing is d41d8cd9..
    assert_eq!(KeyHash::Md5.hash(b""), 0xd98c_1dd4);
}
