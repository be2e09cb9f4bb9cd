//! By what a limit rises and falls, as pure formulas: [`Rule`].

/// What a round of calls showed; times in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// How long calls take while the dependency is not loaded.
    pub(super) baseline: f64,
    /// How long they took on average.
    pub(super) rtt: f64,
    /// At least half of the limit was in flight at some time.
    pub(super) was_used: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rule {
    Aimd { increase: f64, factor: f64 },
    Vegas,
    Gradient,
}

/// What is left of a limit after a congestion where the rule names no factor.
const BACK_OFF: f64 = 0.9;

impl Rule {
    /// Returns the limit after a round without congestion.
    pub(super) fn next(self, limit: f64, seen: Seen) -> f64 {
        let next = match self {
            Rule::Aimd { increase, .. } => limit + increase,
            Rule::Vegas => vegas(limit, seen),
            Rule::Gradient => gradient(limit, seen),
        };
        // What nobody uses says nothing about what could be used.
        if seen.was_used { next } else { next.min(limit) }
    }

    /// Returns the limit after a call was throttled, or too slow.
    pub(super) fn lowered(self, limit: f64) -> f64 {
        match self {
            Rule::Aimd { factor, .. } => limit * factor,
            Rule::Vegas | Rule::Gradient => limit * BACK_OFF,
        }
    }

    /// Goes by how long calls take, so it must know how long they should.
    pub(super) const fn needs_baseline(self) -> bool {
        !matches!(self, Rule::Aimd { .. })
    }
}

/// Reckons how many of the calls in flight wait in the dependency's queue, by Little's law, and keeps them few.
///
/// Bounds of one, three and six times the logarithm are those of Netflix's `VegasLimit`. In large limits a tenth and a
/// fifth are more: there, the noise of a tenth in the round trips would be read as a queue of a tenth.
fn vegas(limit: f64, Seen { baseline, rtt, .. }: Seen) -> f64 {
    let step = limit.log10().floor().max(1.0);
    let queue = (limit * (1.0 - baseline / rtt)).ceil();
    if queue <= step {
        limit + 6.0 * step
    } else if queue < (3.0 * step).max(limit / 10.0) {
        limit + step
    } else if queue > (6.0 * step).max(limit / 5.0) {
        limit - step
    } else {
        limit
    }
}

/// Lowers the limit by as much as calls take longer than half as long again; adds room for a short queue, in which
/// growth shows.
fn gradient(limit: f64, Seen { baseline, rtt, .. }: Seen) -> f64 {
    const TOLERANCE: f64 = 1.5;
    const SMOOTHING: f64 = 0.2;
    let gradient = (TOLERANCE * baseline / rtt).clamp(0.5, 1.0);
    let room = limit.sqrt().max(4.0);
    limit + SMOOTHING * (limit * gradient + room - limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `inflight` as others give it: how many were running when the call began.
    fn next(rule: Rule, limit: f64, baseline_ms: f64, rtt_ms: f64, inflight: f64) -> f64 {
        let was_used = inflight * 2.0 >= limit;
        rule.next(limit, Seen { baseline: baseline_ms * 1e6, rtt: rtt_ms * 1e6, was_used })
    }

    #[test]
    fn vegas_goes_by_the_published_vectors() {
        for (limit, baseline, rtt, inflight, then) in [
            (10.0, 10.0, 10.0, 11.0, 16.0),
            (10.0, 10.0, 50.0, 11.0, 9.0),
            (10.0, 10.0, 14.0, 14.0, 10.0),
            (10_000.0, 10_000.0, 10_000.0, 5_000.0, 10_024.0),
            (10_000.0, 10_000.0, 10_000.0, 6_000.0, 10_024.0),
            (10_000.0, 10_000.0, 10_000.0, 4_999.0, 10_000.0),
        ] {
            assert_eq!(next(Rule::Vegas, limit, baseline, rtt, inflight), then, "{limit} {rtt} {inflight}");
        }
    }

    #[test]
    fn aimd_goes_by_the_published_vectors() {
        let aimd = Rule::Aimd { increase: 1.0, factor: 0.9 };
        assert_eq!(aimd.lowered(30.0), 27.0);
        assert_eq!(next(aimd, 20.0, 10.0, 10.0, 20.0), 21.0);
        assert_eq!(next(aimd, 20.0, 10.0, 10.0, 9.0), 20.0);
    }

    #[test]
    fn a_gradient_shrinks_what_queues_and_settles_at_half_as_much_again() {
        assert_eq!(next(Rule::Gradient, 100.0, 10.0, 15.0, 100.0), 102.0);
        assert_eq!(next(Rule::Gradient, 100.0, 10.0, 30.0, 100.0), 92.0);
        assert_eq!(next(Rule::Gradient, 100.0, 10.0, 3_000.0, 100.0), 92.0);
        // A server of 100 places: calls take 10 ms, or longer by as much as the limit exceeds 100.
        let mut limit = 1_000.0;
        for _ in 0..200 {
            limit = next(Rule::Gradient, limit, 10.0, 10.0 * (limit / 100.0_f64).max(1.0), limit);
        }
        assert!((150.0..170.0).contains(&limit), "{limit}");
    }

    #[test]
    fn no_time_however_odd_gives_an_odd_limit() {
        let times = [1.0, 1e3, 1e9, u64::MAX as f64];
        for rule in [Rule::Aimd { increase: 1.0, factor: 0.5 }, Rule::Vegas, Rule::Gradient] {
            for (baseline, rtt) in times.iter().flat_map(|baseline| times.map(|rtt| (*baseline, rtt))) {
                for limit in [1.0, 20.0, 1e6] {
                    let next = rule.next(limit, Seen { baseline, rtt, was_used: true });
                    assert!(next.is_finite() && next >= 0.0, "{rule:?} {limit} {baseline} {rtt}: {next}");
                }
            }
        }
    }
}
