//! The heap of this process.

/// Gives memory that was freed back to the system. What a preparation takes for a while (weights as they are read, the
/// photo at a scale's size) lies in the heaps of several threads, where the larger buffers of the next scale find no room:
/// on the CPU device 16 MiB after five scales. Only glibc's allocator is known to keep that much.
#[cfg_attr(
    all(target_os = "linux", target_env = "gnu"),
    allow(unsafe_code, reason = "std has no call that makes the allocator return memory")
)]
pub fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes the allocator's own locks, and moves nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
