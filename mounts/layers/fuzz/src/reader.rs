//! Archives for the reader.
#![no_main]

mod mend;
mod read;

libfuzzer_sys::fuzz_target!(|data: &[u8]| read::read(data));
