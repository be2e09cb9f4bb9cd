//! One run per key at a time, beside an obvious twin: callers come and leave, runs end well or badly.
#![cfg(not(floodwall_loom))]

mod support;

use std::pin::Pin;
use std::task::Poll;

use floodwall::{Error, SingleFlight};
use proptest::prelude::*;
use support::poll;
use tokio::sync::oneshot;

type Flights = SingleFlight<u8, u32>;
type Teller = oneshot::Sender<Result<u32, &'static str>>;
type Run<'a> = Pin<Box<dyn Future<Output = Result<u32, Error<&'static str>>> + Send + 'a>>;

/// A run that ends when it is told with what.
fn run<'a>(flights: &'a Flights, key: &'a u8) -> (Teller, Run<'a>) {
    let (sender, receiver) = oneshot::channel();
    (sender, Box::pin(flights.run(key, || async { receiver.await.unwrap() })))
}

/// What the twin knows of a caller.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Twin {
    Leads(usize),
    /// For which run, and its place in the line.
    Waits(usize, usize),
    Answered(u32),
    Failed,
    Gone,
}

/// The obvious twin: runs have numbers, and callers know for which they wait.
#[derive(Default)]
struct Twins {
    callers: Vec<(u8, Twin)>,
    /// Of each key, the run that may be joined.
    open: [Option<usize>; 2],
    runs: usize,
    places: usize,
}

impl Twins {
    fn comes(&mut self, key: u8) -> Twin {
        let open = &mut self.open[usize::from(key)];
        if let Some(run) = *open {
            self.places += 1;
            return Twin::Waits(run, self.places);
        }
        *open = Some(self.runs);
        self.runs += 1;
        Twin::Leads(self.runs - 1)
    }

    /// The callers that wait for a run, the first in line first.
    fn waiting(&self, run: usize) -> Vec<usize> {
        let place = |(number, (_, caller)): (usize, &(u8, Twin))| match *caller {
            Twin::Waits(of, place) if of == run => Some((place, number)),
            _ => None,
        };
        let mut waiting: Vec<_> = self.callers.iter().enumerate().filter_map(place).collect();
        waiting.sort();
        waiting.into_iter().map(|(_, number)| number).collect()
    }

    /// The run of caller `number` ends, with its value or without one.
    fn ends(&mut self, number: usize, run: usize, becomes: Twin) {
        let key = self.callers[number].0;
        let is_open = self.open[usize::from(key)] == Some(run);
        let mut waiting = self.waiting(run);
        self.callers[number].1 = becomes;
        if matches!(becomes, Twin::Answered(_)) {
            waiting.iter().for_each(|waiter| self.callers[*waiter].1 = becomes);
        } else if !is_open {
            // Those who wait begin again, in the order in which they are polled.
            waiting.sort();
            for waiter in waiting {
                self.callers[waiter].1 = self.comes(key);
            }
            return;
        } else if let Some(next) = waiting.first() {
            self.callers[*next].1 = Twin::Leads(run);
            return;
        }
        if is_open {
            self.open[usize::from(key)] = None;
        }
    }
}

/// Callers come and leave, their runs end well or badly, and keys are forgotten.
fn check(steps: Vec<(u8, u8, prop::sample::Index)>) -> Result<(), TestCaseError> {
    let flights = Flights::new();
    let keys = [0u8, 1];
    let (mut callers, mut twin) = (Vec::new(), Twins::default());
    for (step, key, index) in steps {
        let mut acts = None;
        match step {
            0..=3 => {
                let (sender, mut caller) = run(&flights, &keys[usize::from(key)]);
                prop_assert!(poll(&mut caller).is_pending());
                callers.push((Some(sender), Some(caller)));
                let comes = twin.comes(key);
                twin.callers.push((key, comes));
            }
            4 => {
                flights.forget(&key);
                twin.open[usize::from(key)] = None;
            }
            _ if callers.is_empty() => {}
            _ => {
                let number = index.index(callers.len());
                acts = Some(number);
                let (sender, caller) = &mut callers[number];
                let answer = match step {
                    5 => Some(Ok(number as u32)),
                    6 => Some(Err("down")),
                    _ => None,
                };
                match (twin.callers[number].1, answer) {
                    (Twin::Leads(run), Some(answer)) => {
                        sender.take().unwrap().send(answer).unwrap();
                        let becomes = answer.map_or(Twin::Failed, Twin::Answered);
                        twin.ends(number, run, becomes);
                    }
                    (Twin::Leads(run), None) => {
                        *caller = None;
                        twin.ends(number, run, Twin::Gone);
                    }
                    (Twin::Waits(..), None) => {
                        *caller = None;
                        twin.callers[number].1 = Twin::Gone;
                    }
                    _ => {}
                }
            }
        }
        for number in acts.into_iter().chain(0..callers.len()) {
            let Some(caller) = &mut callers[number].1 else { continue };
            let Poll::Ready(answer) = poll(caller) else { continue };
            callers[number].1 = None;
            let expected = match twin.callers[number].1 {
                Twin::Answered(value) => Ok(value),
                Twin::Failed => Err(Error::Inner("down")),
                other => return Err(TestCaseError::fail(format!("{number} ended and {other:?}"))),
            };
            prop_assert_eq!(answer, expected);
        }
        for (caller, (_, twin)) in callers.iter().zip(&twin.callers) {
            prop_assert_eq!(
                caller.1.is_some(),
                matches!(twin, Twin::Leads(_) | Twin::Waits(..)),
                "{:?}",
                twin
            );
        }
        prop_assert_eq!(flights.running(), twin.open.iter().flatten().count());
    }
    drop(callers);
    prop_assert_eq!(flights.running(), 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn runs_go_as_in_the_twin(
        steps in prop::collection::vec((0u8..8, 0u8..2, any::<prop::sample::Index>()), 1..60)
    ) {
        check(steps)?;
    }
}
