//! Flows served in turn by what their entries cost: deficit round robin (M. Shreedhar and G. Varghese, 1995).

use std::collections::VecDeque;

/// Who of the flows that have something is next. It looks at few of them, however many there are.
#[derive(Debug)]
pub(super) struct Drr {
    /// What a flow may spend in one round.
    quanta: Vec<u64>,
    /// What is left to it in this round.
    deficits: Vec<u64>,
    /// The flows that have something; the first is being served.
    active: VecDeque<usize>,
}

impl Drr {
    pub(super) fn new(quanta: Vec<u64>) -> Self {
        let deficits = vec![0; quanta.len()];
        Self { quanta, deficits, active: VecDeque::new() }
    }

    /// Hears that a flow which had nothing has something now.
    pub(super) fn activate(&mut self, flow: usize) {
        self.deficits[flow] = self.quanta[flow];
        self.active.push_back(flow);
    }

    /// Hears that a flow has nothing any more.
    pub(super) fn deactivate(&mut self, flow: usize) {
        if let Some(place) = self.active.iter().position(|active| *active == flow) {
            self.active.remove(place);
        }
    }

    /// Returns the flow to serve; `cost` tells what the next entry of a flow costs.
    pub(super) fn pick(&mut self, cost: impl Fn(usize) -> u64) -> Option<usize> {
        let mut passed = 0;
        loop {
            let flow = *self.active.front()?;
            if self.deficits[flow] >= cost(flow) {
                return Some(flow);
            }
            self.deficits[flow] += self.quanta[flow];
            self.active.rotate_left(1);
            passed += 1;
            if passed == self.active.len() {
                passed = 0;
                self.skip_rounds(&cost);
            }
        }
    }

    /// Goes on to the round in which somebody can be served, so that a heavy entry does not take many turns.
    fn skip_rounds(&mut self, cost: impl Fn(usize) -> u64) {
        let missing = |flow: &usize| {
            cost(*flow).saturating_sub(self.deficits[*flow]).div_ceil(self.quanta[*flow].max(1))
        };
        let rounds = self.active.iter().map(missing).min().unwrap_or(0).saturating_sub(1);
        for flow in &self.active {
            self.deficits[*flow] += rounds * self.quanta[*flow];
        }
    }

    /// Hears that an entry of the flow was served.
    pub(super) fn charge(&mut self, flow: usize, cost: u64) {
        self.deficits[flow] = self.deficits[flow].saturating_sub(cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves flows that never end, and counts what each got.
    fn served(quanta: &[u64], costs: &[u64], rounds: usize) -> Vec<u64> {
        let mut drr = Drr::new(quanta.to_vec());
        (0..quanta.len()).for_each(|flow| drr.activate(flow));
        let mut got = vec![0; quanta.len()];
        for _ in 0..rounds {
            let flow = drr.pick(|flow| costs[flow]).unwrap();
            drr.charge(flow, costs[flow]);
            got[flow] += costs[flow];
        }
        got
    }

    #[test]
    fn flows_get_shares_by_their_quanta() {
        assert_eq!(served(&[4, 2, 1], &[1, 1, 1], 700), [400, 200, 100]);
    }

    #[test]
    fn a_flow_of_heavy_entries_gets_no_more_than_one_of_light_ones() {
        let got = served(&[1, 1], &[50, 1], 5_100);
        assert!(got[0].abs_diff(got[1]) <= 50, "{got:?}");
    }

    #[test]
    fn the_heaviest_entry_takes_no_longer_than_a_few_steps() {
        assert_eq!(
            served(&[1, 1], &[u64::from(u32::MAX), u64::from(u32::MAX)], 4)[0],
            2 * u64::from(u32::MAX)
        );
    }

    #[test]
    fn who_has_nothing_is_passed_over() {
        let mut drr = Drr::new(vec![1, 1]);
        assert_eq!(drr.pick(|_| 1), None);
        drr.activate(1);
        drr.activate(0);
        drr.deactivate(1);
        assert_eq!(drr.pick(|_| 1), Some(0));
    }
}
