//! Reads arbitrary bytes as an archive, to its end or first error. The first byte of an input says
//! how: 1 as it is, without setting the sums of headers right; 2 without reading any content.

use layerd_layers::tar::Reader;

use crate::mend::mend;

/// One input.
pub(crate) fn read(data: &[u8]) {
    let Some((flags, archive)) = data.split_first() else {
        return;
    };
    let mut archive = archive.to_vec();
    if flags & 1 == 0 {
        mend(&mut archive);
    }
    let mut reader = Reader::new(&archive[..]);
    while let Ok(Some(entry)) = reader.next_entry() {
        if flags & 2 == 0 && !content(&mut reader, entry.stored) {
            return;
        }
    }
    let end = archive.len() as u64;
    assert!(reader.offset() <= end, "no more was read than there is");
}

/// True if the reader got all of it.
fn content(reader: &mut Reader<&[u8]>, stored: u64) -> bool {
    let mut buffer = [0; 4096];
    let mut seen = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => seen += read as u64,
            Err(_) => return false,
        }
    }
    assert_eq!(seen, stored, "content is as long as it was said to be");
    true
}
