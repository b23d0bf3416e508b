use std::fs;
use std::os::unix::fs::FileExt as _;

use super::*;

/// A commit of one row with a value of so many bytes.
fn rows(number: u64, bytes: usize) -> Rows {
    let key = (Table::Label, number.to_be_bytes().to_vec());
    Rows::from([(key, Some(vec![u8::try_from(number % 251).unwrap(); bytes]))])
}

fn made() -> (tempfile::TempDir, Journal) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("db");
    fs::create_dir(&folder).unwrap();
    Journal::create(&folder).unwrap();
    let (journal, entries) = Journal::open(&folder, 0).unwrap();
    assert!(entries.is_empty());
    (root, journal)
}

/// Appends commits up to a number; turns when a half is full, as if sled had taken everything in.
fn fill(journal: &mut Journal, through: u64, bytes: usize) {
    while journal.last() < through {
        let body = Body::new(rows(journal.last() + 1, bytes), 9);
        if !journal.has_room(&body) {
            journal.turn();
        }
        journal.append(&body, false).unwrap();
    }
}

fn numbers(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.sequence).collect()
}

#[test]
fn gives_back_what_was_written_across_turns() {
    let (root, mut journal) = made();
    // 256 to a half: the third and the fourth time both halves hold older commits.
    for last in [1, 2, 255, 256, 257, 600, 1100] {
        fill(&mut journal, last, 100);
        let (opened, entries) = Journal::open(&root.path().join("db"), last - 1).unwrap();
        let wanted = Entry {
            sequence: last,
            ids_below: 9,
            rows: rows(last, 100),
        };
        assert_eq!(entries, [wanted]);
        assert_eq!((opened.last(), opened.noted()), (last, Some(last)));
        journal = opened;
    }
    let back_to = journal.last_of_other() - 255;
    let all = journal.reader.after(back_to - 1).unwrap();
    assert_eq!(numbers(&all), (back_to..=1100).collect::<Vec<_>>());
    let missing = journal.reader.after(back_to - 2).unwrap_err().to_string();
    assert!(missing.contains("is missing"), "{missing}");
}

/// Whatever becomes of an entry, it and those after it are gone, and nothing else comes instead.
#[test]
fn ends_before_the_first_entry_that_is_not_whole() {
    let (_root, mut journal) = made();
    fill(&mut journal, 300, 5000);
    let (file, half) = (journal.reader.file.clone(), journal.half);
    let first = journal.last_of_other() + 1;
    let count = 300 - first + 1;
    let mut page = [0; PAGE];
    for pages in 0..count * 2 {
        let place = offset(half, usize::try_from(pages).unwrap() * PAGE);
        file.read_exact_at(&mut page, place).unwrap();
        for (at, len) in [(0, PAGE), (3, 1), (17, 1), (22, 1), (900, 1)] {
            let mut bad = page;
            bad[at..at + len].iter_mut().for_each(|byte| *byte ^= 1);
            file.write_all_at(&bad, place).unwrap();
            let left = numbers(&journal.reader.after(first - 1).unwrap());
            assert_eq!(left, (first..first + pages / 2).collect::<Vec<_>>());
        }
        file.write_all_at(&page, place).unwrap();
    }
    let whole = journal.reader.after(first - 1).unwrap();
    assert_eq!(whole.len() as u64, count);
}

/// A whole entry of before, or one that somebody else's journal holds, does not follow a new one.
#[test]
fn takes_no_entry_that_was_not_written_after_the_one_before() {
    let (_root, mut journal) = made();
    let (_other_root, mut other) = made();
    fill(&mut journal, 513, 100);
    fill(&mut other, 513, 100);
    // The third half has begun; behind its one entry stand 255 of the first.
    assert_eq!((journal.half, journal.at), (0, PAGE));
    assert_eq!(numbers(&journal.reader.after(512).unwrap()), [513]);
    let file = &journal.reader.file;
    let mut page = [0; PAGE];
    for (from, number) in [(&journal, 2), (&other, 0)] {
        let place = offset(0, number * PAGE);
        from.reader.file.read_exact_at(&mut page, place).unwrap();
        file.write_all_at(&page, offset(0, PAGE)).unwrap();
        assert_eq!(numbers(&journal.reader.after(512).unwrap()), [513]);
    }
    // Nor does it begin a half.
    file.write_all_at(&page, offset(0, 0)).unwrap();
    assert_eq!(numbers(&journal.reader.after(512).unwrap()), [0; 0]);
}

/// An entry that rests on other files is there only with the length that shows that they are.
#[test]
fn an_entry_without_its_length_never_was() {
    let (root, mut journal) = made();
    let folder = root.path().join("db");
    let length = || fs::metadata(folder.join(NAME)).unwrap().len();
    let before = length();
    fill(&mut journal, 2, 100);
    assert_eq!(length(), before, "nothing changes but content");
    for number in [3, 4] {
        let body = Body::new(rows(number, 100), 9);
        journal.append(&body, true).unwrap();
    }
    fill(&mut journal, 5, 100);
    assert_eq!(length(), before + 2);
    let (_, all) = Journal::open(&folder, 0).unwrap();
    assert_eq!(numbers(&all), [1, 2, 3, 4, 5]);
    // As after a power cut: the pages of the file reached the disk, its last length did not.
    journal.reader.file.set_len(before + 1).unwrap();
    assert_eq!(numbers(&journal.reader.after(0).unwrap()), [1, 2, 3]);
    let (mut opened, left) = Journal::open(&folder, 0).unwrap();
    assert_eq!(numbers(&left), [1, 2, 3]);
    // The length comes back, the entry does not.
    opened.pass_barrier().unwrap();
    assert_eq!(length(), before + 2);
    assert_eq!(numbers(&opened.reader.after(0).unwrap()), [1, 2, 3]);
    fill(&mut opened, 4, 200);
    let (_, all) = Journal::open(&folder, 3).unwrap();
    assert_eq!(all[0].rows, rows(4, 200));
}

#[test]
fn a_file_of_another_format_is_an_error() {
    let (root, journal) = made();
    journal.reader.file.write_all_at(b"layerdJ1", 0).unwrap();
    let error = Journal::open(&root.path().join("db"), 0).unwrap_err();
    assert!(error.to_string().contains("format"), "{error}");
}
