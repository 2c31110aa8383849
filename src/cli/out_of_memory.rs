//! Reports a failed allocation of host memory with a message and an exit code instead of an abort.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Size in bytes of the last failed allocation, until one at least as large succeeds; 0 if there is none. Where a file
/// or an option sets the size of an allocation, its failure is an ordinary error. After any other failure the standard
/// library aborts the process.
static REFUSED: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, which records failures so that an abort caused by a failed allocation is reported as out of
/// memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allocator;

fn recorded(memory: *mut u8, size: usize) -> *mut u8 {
    if memory.is_null() {
        REFUSED.store(size, Ordering::Relaxed);
    } else if (1..=size).contains(&REFUSED.load(Ordering::Relaxed)) {
        REFUSED.store(0, Ordering::Relaxed);
    }
    memory
}

// SAFETY: all calls are forwarded to the system's allocator, which upholds the contract; the flag allocates nothing.
#[allow(unsafe_code, reason = "the trait of allocators is unsafe")]
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract.
        recorded(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract.
        recorded(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller upholds the contract.
        recorded(unsafe { System.realloc(memory, layout, size) }, size)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Installs a handler that reports an abort caused by a failed allocation, and exits with code 1.
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

/// Handles SIGABRT. If it returns, the abort continues.
#[cfg(unix)]
#[allow(unsafe_code, reason = "std has no signals")]
extern "C" fn end(_: libc::c_int) {
    const MESSAGE: &[u8] =
        b"mirage: there is not enough memory. Choose a smaller --size or smaller files, close other programs, or raise \
        this process's memory limit\n";
    if REFUSED.load(Ordering::Relaxed) > 0 {
        // SAFETY: both may be called in a signal handler, and the message is a constant.
        unsafe {
            libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len());
            libc::_exit(1);
        }
    }
}
