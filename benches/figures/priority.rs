//! The lowest priority.

/// Lets this thread, and those that it starts, run only while no one else wants the core.
#[allow(unsafe_code)]
pub(crate) fn yield_to_others() {
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameter outlives the call, which only reads it.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const priority) };
    assert_eq!(result, 0, "SCHED_IDLE: {}", std::io::Error::last_os_error());
}
