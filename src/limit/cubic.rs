//! How a rate grows after it was throttled: [`Cubic`].

/// The rate of a client that hears when it is too fast: CUBIC (RFC 9438) over the rate instead of a window, as in the
/// client rate limiter of the AWS SDKs ("adaptive retry mode"), whose published values are the tests below.
///
/// A throttling lowers the rate to 0.7 of what was really sent. From there it climbs along a cubic curve: fast at first,
/// slowly near the rate that was too much, and faster and faster beyond it, but never above twice what is really sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cubic {
    /// The rate that was too much, per second; before the first throttling, the one to start from.
    last_max: f64,
    throttled_at: u64,
    /// How many seconds after a throttling the curve is back at `last_max`.
    window: f64,
    /// How much is really sent per second; 0 until it is known.
    measured: f64,
    /// The half second that is being counted, and the tokens in it so far.
    slice: u64,
    sent: u64,
}

impl Cubic {
    const BETA: f64 = 0.7;
    const SCALE: f64 = 0.4;
    const SMOOTHING: f64 = 0.8;
    const SLICE: u64 = 500_000_000;

    /// Starts to climb from `rate` at `now`.
    pub(super) fn starting(rate: f64, now: u64) -> Self {
        Self { last_max: rate, throttled_at: now, slice: now / Self::SLICE, ..Self::default() }
    }

    /// Counts a call that ended, whatever came of it.
    pub(super) fn count(&mut self, tokens: u32, now: u64) {
        self.sent += u64::from(tokens);
        let slice = now / Self::SLICE;
        if slice > self.slice {
            let rate = self.sent as f64 * 2.0 / (slice - self.slice) as f64;
            self.measured = rate * Self::SMOOTHING + self.measured * (1.0 - Self::SMOOTHING);
            (self.slice, self.sent) = (slice, 0);
        }
    }

    /// Returns the rate after a throttling at `rate`.
    pub(super) fn lowered(&mut self, rate: f64, now: u64) -> f64 {
        self.last_max = if self.measured > 0.0 { rate.min(self.measured) } else { rate };
        self.window = (self.last_max * (1.0 - Self::BETA) / Self::SCALE).cbrt();
        self.throttled_at = now;
        self.capped(self.last_max * Self::BETA)
    }

    /// Returns the rate after a success.
    pub(super) fn raised(&self, now: u64) -> f64 {
        let seconds = now.saturating_sub(self.throttled_at) as f64 / 1e9;
        self.capped(Self::SCALE * (seconds - self.window).powi(3) + self.last_max)
    }

    fn capped(&self, rate: f64) -> f64 {
        if self.measured > 0.0 { rate.min(2.0 * self.measured) } else { rate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn close(rate: f64, expected: f64) -> bool {
        (rate - expected).abs() < 1e-6
    }

    /// (seconds, rate) after a throttling at 5 s and 10 a second.
    #[test]
    fn the_rate_climbs_along_the_published_curve() {
        let mut cubic = Cubic::default();
        assert!(close(cubic.lowered(10.0, 5 * SECOND), 7.0));
        for (second, rate) in [
            (5, 7.0),
            (6, 9.64893600966),
            (7, 10.000030849917364),
            (8, 10.453284520772092),
            (9, 13.408697022224185),
            (10, 21.26626835427364),
            (11, 36.425998516920465),
        ] {
            assert!(close(cubic.raised(second * SECOND), rate), "{second} s");
        }
    }

    /// (milliseconds, throttled, really sent, rate). The published client is not limited before it is first throttled, and
    /// never sends less than one call in two seconds.
    #[test]
    fn the_rate_follows_the_published_course() {
        let mut cubic = Cubic::starting(0.0, 0);
        let mut rate = f64::INFINITY;
        for (at, throttled, measured, expected) in [
            (200, false, 0.0, 0.5),
            (400, false, 0.0, 0.5),
            (600, false, 4.8, 0.5),
            (800, false, 4.8, 0.5),
            (1_000, false, 4.16, 0.5),
            (1_200, false, 4.16, 0.6912),
            (1_400, false, 4.16, 1.0976),
            (1_600, false, 5.632, 1.6384),
            (1_800, false, 5.632, 2.3328),
            (2_000, true, 4.3264, 3.02848),
            (2_200, false, 4.3264, 3.48663917),
            (2_400, false, 4.3264, 3.82187442),
            (2_600, false, 5.66528, 4.05338573),
            (2_800, false, 5.66528, 4.20037311),
            (3_000, false, 4.333056, 4.28203656),
            (3_200, true, 4.333056, 2.99742559),
            (3_400, false, 4.333056, 3.45222639),
        ] {
            let now = at * 1_000_000;
            cubic.count(1, now);
            let next = if throttled { cubic.lowered(rate, now) } else { cubic.raised(now) }.max(0.5);
            if throttled || rate.is_finite() {
                rate = next;
            }
            assert!(close(cubic.measured, measured), "{at} ms: {} sent", cubic.measured);
            assert!(close(next, expected), "{at} ms: {next}");
        }
    }

    #[test]
    fn a_throttling_before_anything_was_measured_goes_by_the_rate() {
        let mut cubic = Cubic::starting(100.0, 0);
        cubic.count(1, 1);
        assert!(close(cubic.lowered(100.0, 1), 70.0));
        cubic.count(u32::MAX, u64::MAX);
        assert!(cubic.raised(u64::MAX).is_finite() && cubic.raised(0).is_finite());
    }
}
