use nix::errno::Errno;

use super::{
    Call, Control, HEAD, MAX_NAME, State, Target, encoded, names, request, set, state, targets,
    versions,
};

/// An answer with this body, of `count` lines.
fn answer(count: u32, body: &[u8]) -> Vec<u8> {
    let mut answer = request("", 0, body).expect("a request");
    set(&mut answer, 20, count);
    answer
}

fn line(kind: &str, text: &str) -> Target {
    Target {
        start: 0,
        sectors: 2048,
        kind: kind.to_owned(),
        text: text.to_owned(),
    }
}

/// linux/dm-ioctl.h, as a C compiler lays it out on each platform.
#[test]
fn requests_are_laid_out_as_the_kernel_reads_them() {
    let numbers = [
        (Call::Version, 0xc138_fd00_u32),
        (Call::List, 0xc138_fd02),
        (Call::Create, 0xc138_fd03),
        (Call::Remove, 0xc138_fd04),
        (Call::Suspend, 0xc138_fd06),
        (Call::State, 0xc138_fd07),
        (Call::Load, 0xc138_fd09),
        (Call::Status, 0xc138_fd0c),
        (Call::Targets, 0xc138_fd0d),
        (Call::Message, 0xc138_fd0e),
    ];
    for (call, number) in numbers {
        assert_eq!(u64::from(call.opcode()), u64::from(number), "{call:?}");
    }
    let made = request("pool", 1 << 11, &[9; 5]).expect("a request");
    assert_eq!(made.len(), HEAD + 5);
    let word = |at: usize| super::word(&made, at).expect("a word");
    assert_eq!([word(0), word(4), word(8)], [4, 0, 0], "version");
    assert_eq!([word(12), word(16), word(28)], [317, 312, 1 << 11]);
    assert_eq!(&made[48..53], b"pool\0");
    assert_eq!(&made[HEAD..], [9; 5]);
}

#[test]
fn names_that_the_kernel_cannot_have_are_refused() {
    let longest = "n".repeat(MAX_NAME);
    assert!(request(&longest, 0, &[]).is_ok());
    let longer = format!("{longest}n");
    assert_eq!(request(&longer, 0, &[]), Err(Errno::ENAMETOOLONG));
    assert_eq!(request("a\0b", 0, &[]), Err(Errno::EINVAL));
    for bad in [
        line("a-kind-of-16-by", "a\0b"),
        line("a-kind-of-16-byt", ""),
        line("a\0b", ""),
    ] {
        assert_eq!(encoded(&bad), Err(Errno::EINVAL), "{bad:?}");
    }
}

#[test]
fn a_line_of_a_table_comes_back() {
    let thin = line("thin", "253:0 7");
    let body = encoded(&thin).expect("a line");
    assert_eq!(body.len() % 8, 0);
    assert_eq!(targets(&answer(1, &body)), Ok(vec![thin.clone()]));
    let second = line("a-kind-of-16-by", "");
    let both = [body.clone(), encoded(&second).expect("a line")].concat();
    let mut both = answer(2, &both);
    set(
        &mut both,
        HEAD + 20,
        u32::try_from(body.len()).expect("small"),
    );
    assert_eq!(targets(&both), Ok(vec![thin, second]));
}

#[test]
fn answers_that_lie_are_refused() {
    let body = encoded(&line("thin", "253:0 7")).expect("a line");
    let bad = Err(Errno::EBADMSG);
    assert_eq!(targets(&answer(1, &body[..39])), bad, "no room");
    assert_eq!(targets(&answer(1, &body[..40])), bad, "no text");
    assert_eq!(targets(&answer(1, &body[..44])), bad, "a text without end");
    assert_eq!(targets(&answer(2, &body)), bad, "one is missing");
    let mut far = answer(2, &body);
    set(&mut far, HEAD + 20, u32::MAX);
    assert_eq!(targets(&far), bad, "the next is beyond the end");
    for (at, value) in [(12, 100), (16, 10_000), (16, u32::MAX)] {
        let mut cut = answer(1, &body);
        set(&mut cut, at, value);
        assert_eq!(targets(&cut), bad, "{at} {value}");
    }
    assert_eq!(targets(&[]), bad);
    assert_eq!(state(&[0; 100]), Err(Errno::EBADMSG));
    let mut no_text = request("", 0, &[]).expect("a request");
    no_text[176..].fill(b'x');
    assert_eq!(state(&no_text), Err(Errno::EBADMSG));
    let mut looping = 1_u64.to_ne_bytes().to_vec();
    looping.extend(5_u32.to_ne_bytes());
    looping.extend(b"name");
    assert_eq!(names(&answer(0, &looping)), Err(Errno::EBADMSG));
    assert_eq!(versions(&answer(0, &[])), Err(Errno::EBADMSG));
}

proptest::proptest! {
    #[test]
    fn random_answers_make_no_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
        let _ = (targets(&bytes), names(&bytes), versions(&bytes), state(&bytes));
        let body = answer(3, &bytes);
        let _ = (targets(&body), names(&body), versions(&body));
    }
}

#[test]
fn devices_are_listed() {
    assert_eq!(names(&answer(0, &[0; 16])), Ok(Vec::new()), "there is none");
    let mut body = Vec::new();
    body.extend(1_u64.to_ne_bytes());
    body.extend(24_u32.to_ne_bytes());
    body.extend(b"one\0........");
    body.extend(2_u64.to_ne_bytes());
    body.extend(0_u32.to_ne_bytes());
    body.extend(b"two\0....");
    let both = vec!["one".to_owned(), "two".to_owned()];
    assert_eq!(names(&answer(0, &body)), Ok(both));
}

#[test]
fn versions_are_listed() {
    let mut body = Vec::new();
    for word in [24_u32, 1, 23, 0] {
        body.extend(word.to_ne_bytes());
    }
    body.extend(b"thin\0...");
    for word in [0_u32, 1, 2, 3] {
        body.extend(word.to_ne_bytes());
    }
    body.extend(b"thin-pool\0");
    let both = vec![
        ("thin".to_owned(), (1, 23, 0)),
        ("thin-pool".to_owned(), (1, 2, 3)),
    ];
    assert_eq!(versions(&answer(0, &body)), Ok(both));
}

#[test]
fn a_state_is_read() {
    let mut answer = request("x", 1 | 1 << 1 | 1 << 5, &[]).expect("a request");
    set(&mut answer, 24, 3);
    // 253:300 as new_encode_dev() packs it.
    answer[40..48].copy_from_slice(&0x0010_fd2c_u64.to_ne_bytes());
    answer[176..181].copy_from_slice(b"LVM-x");
    let wanted = State {
        number: (253, 300),
        open_count: 3,
        is_suspended: true,
        is_read_only: true,
        has_table: true,
        uuid: "LVM-x".to_owned(),
    };
    assert_eq!(state(&answer), Ok(wanted));
}

/// Where the kernel has device mapper it answers; where it has none that shows at once.
#[test]
fn root_the_kernel_answers_or_is_said_to_have_none() {
    match Control::open() {
        Ok(control) => {
            assert_eq!(control.version().expect("a version").0, 4);
            assert_eq!(control.state("layerd-none"), Ok(None));
            control.targets().expect("types of targets");
            control.list().expect("names");
        }
        Err(cause) => assert!(
            matches!(cause, Errno::ENOENT | Errno::ENODEV | Errno::ENXIO),
            "{cause}"
        ),
    }
}
