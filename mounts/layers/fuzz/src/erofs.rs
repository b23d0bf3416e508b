//! Images for writer and reader.
#![no_main]

mod image;

libfuzzer_sys::fuzz_target!(|data: &[u8]| image::image(data));
