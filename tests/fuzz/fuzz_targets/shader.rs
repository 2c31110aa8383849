#![no_main]

#[allow(dead_code, reason = "each target calls one of them")]
#[path = "../readers.rs"]
mod readers;

// Without libFuzzer's hook, which takes a panic for a fault that the program catches.
libfuzzer_sys::fuzz_target!(init: drop(std::panic::take_hook()), |bytes: &[u8]| readers::shader(bytes));
