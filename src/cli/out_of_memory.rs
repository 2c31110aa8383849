//! Running out of the host's memory: a message and an exit code instead of an abort.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bytes of a request for memory that was refused, until as many can be had again; 0 if there is none. Where a file
/// or an option decides how much is asked for, a refusal is an error like others; after any other one the standard
/// library aborts the process.
static REFUSED: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, which the program uses so that an abort for want of memory is known as such.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allocator;

fn noted(memory: *mut u8, size: usize) -> *mut u8 {
    if memory.is_null() {
        REFUSED.store(size, Ordering::Relaxed);
    } else if (1..=size).contains(&REFUSED.load(Ordering::Relaxed)) {
        REFUSED.store(0, Ordering::Relaxed);
    }
    memory
}

// SAFETY: all is the system's allocator, which keeps the contract; the flag is no memory of its.
#[allow(unsafe_code, reason = "the trait of allocators is unsafe")]
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise, passed on.
        noted(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise, passed on.
        noted(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise, passed on.
        noted(unsafe { System.realloc(memory, layout, size) }, size)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// From now on an abort for want of memory ends the program with a message and exit code 1.
#[cfg(unix)]
#[allow(unsafe_code, reason = "std has no signals")]
pub(super) fn install() {
    // SAFETY: all zeros are a valid sigaction, and the handler only does what a signal handler may.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = end as *const () as libc::sighandler_t;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGABRT, &raw const action, std::ptr::null_mut());
    }
}

#[cfg(not(unix))]
pub(super) fn install() {}

/// The signal handler. If it returns, the abort goes on.
#[cfg(unix)]
#[allow(unsafe_code, reason = "std has no signals")]
extern "C" fn end(_: libc::c_int) {
    const MESSAGE: &[u8] =
        b"mirage: there is not enough memory for this. Choose a smaller --size or smaller files, close \
        other programs, or raise the limit of this process's memory\n";
    if REFUSED.load(Ordering::Relaxed) > 0 {
        // SAFETY: both may be called in a signal handler, and the message is a constant.
        unsafe {
            libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len());
            libc::_exit(1);
        }
    }
}
