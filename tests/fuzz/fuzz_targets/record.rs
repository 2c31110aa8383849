#![no_main]

// Without libFuzzer's hook, which takes a panic for a fault that the program catches.
libfuzzer_sys::fuzz_target!(init: drop(std::panic::take_hook()), |bytes: &[u8]| readers::record(bytes));
