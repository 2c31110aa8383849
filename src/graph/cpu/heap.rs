//! The heap of this process.

/// Returns freed memory to the system. Temporary memory of a preparation (weights as they are read, the photo at a
/// scale's size) stays in the heaps of several threads, where the larger buffers of the next scale do not fit: 16 MiB
/// on the CPU device after five scales. Only glibc's allocator is known to keep that much.
#[cfg_attr(
    all(target_os = "linux", target_env = "gnu"),
    allow(unsafe_code, reason = "std has no call that makes the allocator return memory")
)]
pub fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` takes the allocator's own locks and moves nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
