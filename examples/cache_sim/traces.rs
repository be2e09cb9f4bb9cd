//! Traces of requests: read from files, or made up.

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use crate::policies::hash;

#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub(crate) key: u32,
    pub(crate) weight: u64,
}

pub(crate) struct Trace {
    pub(crate) name: String,
    pub(crate) requests: Vec<Request>,
    /// Keys are below this.
    pub(crate) keys: usize,
}

impl Trace {
    /// Numbers the keys in the order in which they come.
    fn new<K: Eq + std::hash::Hash>(name: &str, requests: impl Iterator<Item = (K, u64)>) -> Self {
        let mut numbers = HashMap::new();
        let requests = requests
            .map(|(key, weight)| {
                let next = numbers.len() as u32;
                Request { key: *numbers.entry(key).or_insert(next), weight: weight.max(1) }
            })
            .collect();
        Self { name: name.into(), requests, keys: numbers.len() }
    }

    /// Reads a file with a request in each line: the key; or time and key, if the name says `timed`; or time, key and weight, if it says
    /// `timed_weighted`. What ends in `.zst` is decompressed.
    pub(crate) fn read(path: &Path) -> Result<Self, Box<dyn Error>> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut text = String::new();
        let mut file =
            BufReader::new(File::open(path).map_err(|error| format!("{}: {error}", path.display()))?);
        if name.ends_with(".zst") {
            ruzstd::decoding::StreamingDecoder::new(file)?.read_to_string(&mut text)?;
        } else {
            file.read_to_string(&mut text)?;
        }
        let column = usize::from(name.contains(".timed"));
        let requests = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace().skip(column);
            let key = words.next()?;
            let weight = words.next().filter(|_| name.contains(".timed_weighted"));
            Some((key, weight.and_then(|weight| weight.parse().ok()).unwrap_or(1)))
        });
        Ok(Self::new(name.split('.').next().unwrap_or(&name), requests))
    }

    /// Makes a trace up: the same each time.
    pub(crate) fn generate(name: &str) -> Option<Self> {
        let mut draws = 0..;
        let mut draw = move || hash(draws.next().unwrap_or(0)) as f64 / u64::MAX as f64;
        let mut zipf = Zipf::new(20_000);
        let keys: Vec<u64> = match name {
            "zipf" => (0..300_000).map(|_| zipf.draw(draw())).collect(),
            // Ranks move on to other keys.
            "drift" => (0..300_000).map(|time| zipf.draw(draw()) + time / 30).collect(),
            // One of three requests belongs to a scan over keys that never come back.
            "scan" => (0..300_000)
                .map(|time| if time / 1_000 % 3 == 2 { 1 << 32 | time } else { zipf.draw(draw()) })
                .collect(),
            "loop" => (0..100_000).map(|time| time % 1_000).collect(),
            // What is asked for twice, soon, and then never more; a loop; the first again.
            "splice" => {
                let twice = |start: u64| (start..start + 40_000).flat_map(|key| [key + 150, key]);
                twice(1 << 20).chain((0..100_000).map(|time| time % 1_000)).chain(twice(1 << 21)).collect()
            }
            _ => return None,
        };
        Some(Self::new(name, keys.into_iter().map(|key| (key, 1))))
    }

    pub(crate) fn is_weighted(&self) -> bool {
        self.requests.iter().any(|request| request.weight != 1)
    }

    pub(crate) fn mean_weight(&self) -> f64 {
        self.weight() / self.keys.max(1) as f64
    }

    /// What all keys weigh together.
    pub(crate) fn weight(&self) -> f64 {
        let mut weights = vec![0; self.keys];
        for request in &self.requests {
            weights[request.key as usize] = request.weight;
        }
        weights.iter().sum::<u64>() as f64
    }
}

/// The n-th key is drawn in proportion to 1 / n.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(keys: u32) -> Self {
        let mut sum = 0.0;
        Self(
            (1..=keys)
                .map(|rank| {
                    sum += 1.0 / f64::from(rank);
                    sum
                })
                .collect(),
        )
    }

    fn draw(&mut self, draw: f64) -> u64 {
        let all = self.0.last().copied().unwrap_or(1.0);
        self.0.partition_point(|&sum| sum < draw * all) as u64
    }
}
