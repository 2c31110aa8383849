#![no_main]

// Removes libFuzzer's panic hook: it would report panics that the program catches.
libfuzzer_sys::fuzz_target!(init: drop(std::panic::take_hook()), |bytes: &[u8]| readers::configuration(bytes));
