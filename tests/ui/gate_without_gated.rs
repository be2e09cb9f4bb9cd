use floodwall::{Call, Gate, Permit, Policy, Rejected};

struct Mine;

impl Gate for Mine {
    fn try_acquire_for(&self, _: Call) -> Result<Permit<'_>, Rejected> {
        Ok(Permit::free())
    }
}

fn spawn<P: Policy<u64, ()> + 'static>(_: P) {}

fn main() {
    spawn((Mine,));
}
