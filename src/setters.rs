//! The settings that everything with a clock and a name has, said once.

/// Gives a type with the fields `clock` and `hook` its setters `clock`, `name` and `observe`; `thing` is what its
/// documentation calls it.
macro_rules! setters {
    ($thing:literal) => {
        /// Tells the time by `clock`. Default: the system clock.
        #[must_use = "returns the changed value"]
        pub fn clock(mut self, clock: $crate::clock::Clock) -> Self {
            self.clock = clock;
            self
        }

        #[doc = concat!("Names the ", $thing, " in its rejections and errors. Default: no name.")]
        #[must_use = "returns the changed value"]
        pub const fn name(mut self, name: &'static str) -> Self {
            self.hook.name = name;
            self
        }

        #[doc = concat!("Names the ", $thing, " and tells its events to `observer`. Default: nobody.")]
        #[must_use = "returns the changed value"]
        pub fn observe(
            mut self,
            name: &'static str,
            observer: impl $crate::event::Observer + 'static,
        ) -> Self {
            self.hook.observe(name, observer);
            self
        }
    };
}
pub(crate) use setters;
