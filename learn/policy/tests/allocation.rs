//! A decision allocates nothing once its scratch has seen the network.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use flywheel_policy::{LivePolicy, Network, NetworkSpec, Policy, Scratch, VersionedNetwork};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system allocator as it came; counting touches a thread-local without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn a_decision_allocates_nothing() {
    let spec = NetworkSpec::new(108, [128], 10).dueling();
    let live = LivePolicy::new(VersionedNetwork::unpublished(Network::he(&spec, 7).unwrap()).into());
    let (inputs, mut out, mut scratch) = (vec![0.5; 64 * 108], vec![0.0; 64 * 10], Scratch::new());
    let mut decide = |n: usize| live.guard().evaluate(&inputs[..n * 108], &mut out[..n * 10], &mut scratch);
    decide(64);
    let before = ALLOCATIONS.with(Cell::get);
    for n in 1..=64 {
        decide(n);
    }
    assert_eq!(ALLOCATIONS.with(Cell::get), before);
}
