//! Keeps the cores from halting: waking a halted virtual core costs 10 to 20 us, and its caches are cold.

use std::hint::black_box;
use std::sync::mpsc;
use std::thread;

use crate::priority::yield_to_others;

/// Keeps each of these cores busy with a thread that runs only while no one else wants the core. The threads end with
/// the process, however it ends.
pub(crate) fn keep_awake(cores: &[usize]) {
    let (ready, all_ready) = mpsc::channel();
    for core in cores.iter().copied() {
        let ready = ready.clone();
        thread::spawn(move || {
            hi::os::pin_to_core(core).expect("our own core");
            yield_to_others();
            ready.send(()).expect("the main thread waits");
            drop(ready);
            // Without the instruction for waiting loops (`spin_loop`): a hypervisor may take the core away at it.
            let mut count = 0_u64;
            loop {
                count = black_box(count.wrapping_add(1));
            }
        });
    }
    drop(ready);
    assert_eq!(all_ready.iter().count(), cores.len(), "each core has its thread");
}
