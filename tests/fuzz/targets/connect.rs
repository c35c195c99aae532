#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sidelane_tests::fuzz::connect(bytes));
