use std::fs;
use std::os::unix::fs::FileExt as _;

use super::*;
use crate::codec::Table;

/// A commit of one row with a value of so many bytes.
fn rows(number: u64, bytes: usize) -> Rows {
    let key = (Table::Label, number.to_be_bytes().to_vec());
    Rows::from([(key, Some(vec![u8::try_from(number % 251).unwrap(); bytes]))])
}

fn made() -> (tempfile::TempDir, Wal) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("db");
    fs::create_dir(&folder).unwrap();
    Wal::create(&folder).unwrap();
    let (mut wal, entries) = Wal::open(&folder, 0).unwrap();
    assert!(entries.is_empty());
    wal.begin().unwrap();
    (root, wal)
}

/// Appends commits up to a number; turns when a half is full, as if sled had taken everything in.
fn fill(wal: &mut Wal, through: u64, bytes: usize) {
    while wal.last() < through {
        let body = Body::new(rows(wal.last() + 1, bytes), 9);
        if !wal.has_room(&body) {
            wal.switch_half();
        }
        wal.append(&body, false).unwrap();
    }
}

fn numbers(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.sequence).collect()
}

#[test]
fn gives_back_what_was_written_across_turns() {
    let (root, mut wal) = made();
    // 256 to a half: the third and the fourth time both halves hold older commits.
    for last in [1, 2, 255, 256, 257, 600, 1100] {
        fill(&mut wal, last, 100);
        let (opened, entries) = Wal::open(&root.path().join("db"), last - 1).unwrap();
        let wanted = Entry {
            sequence: last,
            ids_below: 9,
            rows: rows(last, 100),
        };
        assert_eq!(entries, [wanted]);
        assert_eq!((opened.last(), opened.noted()), (last, Some(last)));
        wal = opened;
    }
    let back_to = wal.last_of_other_half() - 255;
    let all = wal.reader.after(back_to - 1).unwrap();
    assert_eq!(numbers(&all), (back_to..=1100).collect::<Vec<_>>());
    let missing = wal.reader.after(back_to - 2).unwrap_err().to_string();
    assert!(missing.contains("is missing"), "{missing}");
}

/// Whatever becomes of an entry, it and those after it are gone, and nothing else comes instead.
#[test]
fn ends_before_the_first_entry_that_is_not_whole() {
    let (_root, mut wal) = made();
    fill(&mut wal, 300, 5000);
    let (file, half) = (wal.reader.file.clone(), wal.half);
    let first = wal.last_of_other_half() + 1;
    let count = 300 - first + 1;
    let mut page = [0; PAGE];
    for pages in 0..count * 2 {
        let paths = offset(half, usize::try_from(pages).unwrap() * PAGE);
        file.read_exact_at(&mut page, paths).unwrap();
        for (at, len) in [(0, PAGE), (3, 1), (17, 1), (22, 1), (900, 1)] {
            let mut bad = page;
            bad[at..at + len].iter_mut().for_each(|byte| *byte ^= 1);
            file.write_all_at(&bad, paths).unwrap();
            let left = numbers(&wal.reader.after(first - 1).unwrap());
            assert_eq!(left, (first..first + pages / 2).collect::<Vec<_>>());
        }
        file.write_all_at(&page, paths).unwrap();
    }
    let whole = wal.reader.after(first - 1).unwrap();
    assert_eq!(whole.len() as u64, count);
}

/// A whole entry of an earlier turn, or of another log, does not continue the chain.
#[test]
fn takes_no_entry_that_was_not_written_after_the_one_before() {
    let (_root, mut wal) = made();
    let (_other_root, mut other) = made();
    fill(&mut wal, 513, 100);
    fill(&mut other, 513, 100);
    // The third half has begun; behind its one entry stand 255 of the first.
    assert_eq!((wal.half, wal.at), (0, PAGE));
    assert_eq!(numbers(&wal.reader.after(512).unwrap()), [513]);
    let file = &wal.reader.file;
    let mut page = [0; PAGE];
    for (from, number) in [(&wal, 2), (&other, 0)] {
        let paths = offset(0, number * PAGE);
        from.reader.file.read_exact_at(&mut page, paths).unwrap();
        file.write_all_at(&page, offset(0, PAGE)).unwrap();
        assert_eq!(numbers(&wal.reader.after(512).unwrap()), [513]);
    }
    // Nor does it begin a half.
    file.write_all_at(&page, offset(0, 0)).unwrap();
    assert_eq!(numbers(&wal.reader.after(512).unwrap()), [0; 0]);
}

/// An entry that rests on other files is there only with the length that shows that they are.
#[test]
fn an_entry_without_its_length_never_was() {
    let (root, mut wal) = made();
    let folder = root.path().join("db");
    let length = || fs::metadata(folder.join(NAME)).unwrap().len();
    let before = length();
    fill(&mut wal, 2, 100);
    assert_eq!(length(), before, "nothing changes but content");
    for number in [3, 4] {
        let body = Body::new(rows(number, 100), 9);
        wal.append(&body, true).unwrap();
    }
    fill(&mut wal, 5, 100);
    assert_eq!(length(), before + 2);
    let (_, all) = Wal::open(&folder, 0).unwrap();
    assert_eq!(numbers(&all), [1, 2, 3, 4, 5]);
    // As after a power cut: the pages of the file reached the disk, its last length did not.
    wal.reader.file.set_len(before + 1).unwrap();
    assert_eq!(numbers(&wal.reader.after(0).unwrap()), [1, 2, 3]);
    // No power cut takes two of them: the second was written when the first was durable.
    wal.reader.file.set_len(before).unwrap();
    assert!(Wal::open(&folder, 0).unwrap().0.loss().is_some());
    wal.reader.file.set_len(before + 1).unwrap();
    let (mut opened, left) = Wal::open(&folder, 0).unwrap();
    assert_eq!(numbers(&left), [1, 2, 3]);
    opened.begin().unwrap();
    // The length comes back, the entry does not.
    opened.pass_barrier().unwrap();
    assert_eq!(length(), before + 2);
    assert_eq!(numbers(&opened.reader.after(0).unwrap()), [1, 2, 3]);
    fill(&mut opened, 4, 200);
    let (_, all) = Wal::open(&folder, 3).unwrap();
    assert_eq!(all[0].rows, rows(4, 200));
}

#[test]
fn a_file_of_another_format_is_an_error() {
    let (root, wal) = made();
    wal.reader.file.write_all_at(b"layerdJ1", 0).unwrap();
    let error = Wal::open(&root.path().join("db"), 0).unwrap_err();
    assert!(error.to_string().contains("format"), "{error}");
}
