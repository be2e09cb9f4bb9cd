//! How large does a cache have to be, and does its policy suit the load? Replays traces in simulated caches.
//!
//! ```text
//! cargo run --release --example cache_sim                                  # a made-up load
//! cargo run --release --example cache_sim -- loop scan drift splice zipf   # more of them
//! cargo run --release --example cache_sim -- requests.log other.keys.zst --capacity 1000,2000,4000
//! cargo run --release --example cache_sim -- --gate ../shared/traces       # the figures of the design notes
//! ```
//!
//! A file has a key in each line. One row for each capacity shows the hit ratios of the crate's policies beside those of others and
//! the optimum, in percent of the requests; a plot for each trace goes into the target directory. `--gate` holds
//! the default policy against figures from elsewhere, and fails if something that we claim does not hold.
//!
//! What you would start from is [`Simulator`](floodwall::cache::Simulator): a few lines that replay your own log.

mod gate;
mod plot;
mod policies;
mod traces;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use gate::percent;
use policies::POLICIES;
use traces::Trace;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let (mut traces, mut capacities, mut folder) = (Vec::new(), Vec::new(), None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match &*argument {
            "--gate" => folder = Some(arguments.next().ok_or("--gate needs a folder")?),
            "--capacity" => {
                let list = arguments.next().ok_or("--capacity needs numbers")?;
                capacities = list.split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
            name => traces.push(Trace::generate(name).map_or_else(|| Trace::read(Path::new(name)), Ok)?),
        }
    }
    if let Some(folder) = folder {
        let holds = gate::replay(Path::new(&folder))?;
        return Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if traces.is_empty() {
        traces.extend(Trace::generate("scan"));
    }
    for trace in &traces {
        compare(trace, &capacities)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints and draws what every policy hits at each capacity.
fn compare(trace: &Trace, capacities: &[u64]) -> Result<(), Box<dyn Error>> {
    let mut capacities = capacities.to_vec();
    if capacities.is_empty() {
        // From a hundredth to a half of all that there is.
        let shares = [0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5];
        capacities = shares.map(|share| (trace.weight() * share).max(1.0) as u64).to_vec();
    }
    capacities.sort_unstable();
    let count = POLICIES.len();
    let ratios = in_parallel(capacities.len() * count, |number| {
        percent(POLICIES[number % count].1(trace, capacities[number / count]), trace)
    });
    let kind = if trace.is_weighted() { "weighted " } else { "" };
    println!("{}: {} requests for {} {kind}keys", trace.name, trace.requests.len(), trace.keys);
    print!("{:>14}", "capacity");
    POLICIES.iter().for_each(|(name, _)| print!("{:>width$}", name, width = name.chars().count().max(7) + 2));
    println!();
    let rows = ratios.chunks(count).map(<[f64]>::to_vec).collect::<Vec<_>>();
    for (capacity, row) in capacities.iter().zip(&rows) {
        print!("{capacity:>14}");
        for ((name, _), ratio) in POLICIES.iter().zip(row) {
            print!("{ratio:>width$.2}", width = name.chars().count().max(7) + 2);
        }
        println!();
    }
    let path = target().join(format!("cache_sim_{}.svg", trace.name));
    plot::plot(&path, &trace.name, &capacities, &POLICIES.map(|policy| policy.0), &rows)?;
    println!("plotted in {}\n", path.display());
    Ok(())
}

/// The directory that cargo builds in: the example runs from `target/<profile>/examples`.
fn target() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program.ancestors().nth(3).filter(|path| path.is_dir()).unwrap_or(Path::new(".")).to_owned()
}

/// Does a number of jobs on all processors, and returns what they did in order.
fn in_parallel<T: Send>(jobs: usize, job: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= jobs {
                        break;
                    }
                    let result = job(number);
                    done.lock().unwrap_or_else(|error| error.into_inner()).push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|error| error.into_inner());
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}
