//! How does floodwall fare beside its peers, in one process and on the same machine?

mod admit;
mod breaker;
mod cache;
mod harness;
mod hedge;
mod keyed;
mod limit;
mod queue;
mod shard;
mod stack;

use std::{panic, process};

use harness::{Case, Effort, ONE_LAUNCH};
use lexopt::prelude::*;

type Cases = fn() -> Vec<Case>;

/// A new area is a module with a function that lists its cases, and an entry here.
const AREAS: &[(&str, Cases)] = &[
    ("admit", admit::cases),
    ("limit", limit::cases),
    ("keyed", keyed::cases),
    ("breaker", breaker::cases),
    ("stack", stack::cases),
    ("hedge", hedge::cases),
    ("queue", queue::cases),
    ("cache", cache::cases),
    ("shard", shard::cases),
];

const USAGE: &str = "\
Puts floodwall and its peers side by side, in short slices that take turns.

usage: cargo run --release -- [AREA..] [--quick] [--tsv]

  AREA     what to measure; all areas if none is named
  --quick  about a minute per area, rougher figures
  --tsv    lines of area, case, peer, threads, metric, value instead of tables

ns/op is the time between two operations, whichever thread makes them. \"times the first\" is the rate divided by that
of the first peer. \"spread\" is how far apart the middle half of the slices (or launches) lies. What differs between
a peer and the same one \"(again)\" is noise. \"p99.9 ns\" is what 999 of 1,000 operations take at most, each timed by
itself and with the clock's reading in it; \"slowest thread\" is what it got done per operation of the fastest (with more
threads than cores both say more about the system's scheduler than about the peer). Leave the machine alone meanwhile: threads that have to share a core with
another program do not meet, and what they fight for looks cheap; a wide spread tells.

areas:";

fn main() -> Result<(), lexopt::Error> {
    // A peer that decides wrongly ends the run: its thread alone would leave the others waiting for it. Not by
    // `panic = "abort"` in the profile: code that need not unwind can be much faster than what users build.
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        tell(panic);
        process::exit(101);
    }));

    let (mut words, mut quick, mut tsv) = (Vec::new(), false, false);
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("quick") => quick = true,
            Long("tsv") => tsv = true,
            Short('h') | Long("help") => {
                println!("{USAGE} {}", area_names());
                return Ok(());
            }
            Value(word) => words.push(word.string()?),
            _ => return Err(argument.unexpected()),
        }
    }
    let effort = if quick { Effort::QUICK } else { Effort::FULL };

    if let [first, area, case] = &words[..]
        && first == ONE_LAUNCH
    {
        Case::named(cases(area)?(), case)?.one_launch(&effort, quick);
        return Ok(());
    }
    if words.is_empty() {
        words.extend(AREAS.iter().map(|area| area.0.to_string()));
    }
    // All names first: a slip in the last one should not show after minutes.
    let areas =
        words.iter().map(|area| Ok((area, cases(area)?))).collect::<Result<Vec<_>, lexopt::Error>>()?;
    for (area, cases) in areas {
        for case in cases() {
            case.run(area, &effort, quick, tsv)?;
        }
    }
    Ok(())
}

fn cases(name: &str) -> Result<Cases, lexopt::Error> {
    let area = AREAS.iter().find(|area| area.0 == name);
    area.map(|area| area.1)
        .ok_or_else(|| format!("no area is called {name:?}; there are {}", area_names()).into())
}

fn area_names() -> String {
    AREAS.iter().map(|area| area.0).collect::<Vec<_>>().join(", ")
}
