//! The heap of this process.

/// Gives memory that was freed back to the system. What a preparation takes for a while (weights as they are read, the
/// photo at a scale's size) lies in the heaps of several threads, where larger buffers find no room: on the CPU device
/// 8 MiB after one scale and 35 after five were resident and of no use (docs/memory.md). Only glibc's allocator is known
/// to keep that much.
pub fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes the allocator's own locks, and moves nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
