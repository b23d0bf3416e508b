use std::path::Path;

use clap::Parser;

use super::{Devicemapper, Source, block, metadata_bytes, name, size};
use crate::error::Error;
use crate::managed_file;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: Devicemapper,
}

fn parsed(words: &[&str]) -> Result<Devicemapper, clap::Error> {
    let line = Line::try_parse_from(["x"].iter().chain(words));
    line.map(|line| line.args)
}

#[test]
fn sizes_and_names_are_checked() {
    for (text, bytes) in [
        ("64k", 1 << 16),
        ("20g", 20 << 30),
        ("1T", 1 << 40),
        ("65536", 1 << 16),
    ] {
        assert_eq!(size(text), Ok(bytes), "{text}");
    }
    for text in ["", "g", "1", "-1g", "1.5g", "1gg", "99999999999t", "1 g"] {
        assert!(size(text).is_err(), "{text:?}");
    }
    assert_eq!(block("128k"), Ok(128 << 10));
    for text in ["65k", "100k", "2g", "4k"] {
        assert!(block(text).is_err(), "{text:?}");
    }
    name("layerd_1-a.b+").unwrap();
    let long = "a".repeat(97);
    for text in ["", ".", "-a", "a/b", "a b", "a\n", &long] {
        assert!(name(text).is_err(), "{text:?}");
    }
}

#[test]
fn options_exclude_each_other() {
    for words in [
        &[
            "--data-file",
            "20g",
            "--data-device",
            "/dev/a",
            "--metadata-device",
            "/dev/b",
        ][..],
        &["--data-device", "/dev/a"],
        &["--metadata-device", "/dev/b"],
        &["--metadata-file", "1g"],
        &["--write", "--remove"],
    ] {
        assert!(parsed(words).is_err(), "{words:?}");
    }
    let none = parsed(&[]).unwrap().sources().unwrap_err();
    assert!(matches!(none, Error::Invalid { .. }), "{none}");
    let relative = parsed(&["--data-device", "a", "--metadata-device", "/dev/b"]);
    assert!(relative.unwrap().sources().is_err());
}

#[test]
fn files_are_named_by_the_pool() {
    let args = parsed(&["--pool", "p", "--data-file", "20g", "--dir", "/d"]).unwrap();
    let (data, metadata) = args.sources().unwrap();
    let file = |name: &str, bytes| Source::File {
        path: Path::new("/d").join(name),
        bytes,
    };
    assert_eq!(data, file("p.data", 20 << 30));
    assert_eq!(
        metadata,
        file("p.metadata", metadata_bytes(20 << 30, 1 << 16))
    );
    assert_eq!(metadata_bytes(1 << 30, 1 << 16), 16 << 20, "the least");
    assert_eq!(metadata_bytes(u64::MAX, 1 << 16), 15 << 30, "the most");
}

#[test]
fn the_unit_says_all_that_is_not_usual() {
    let args = parsed(&["--data-file", "1g", "--dir", "/a \"b\" %c"]).unwrap();
    let text = args.unit_text(Path::new("/usr/bin/layerctl")).unwrap();
    let line = "ExecStart=\"/usr/bin/layerctl\" setup devicemapper --pool layerd \
                --dir \"/a \\\"b\\\" %%c\" --data-file 1073741824 --metadata-file 16777216 \
                --units \"/etc/systemd/system\" --rules \"/etc/udev/rules.d\" --write\n";
    assert!(text.contains(line), "{text}");
    assert!(
        text.contains("Before=layerd.service\n") && text.contains("RequiredBy=layerd.service\n")
    );
    let args = parsed(&["--data-device", "/dev/a", "--metadata-device", "/dev/b"]).unwrap();
    let text = args.unit_text(Path::new("/usr/bin/layerctl")).unwrap();
    let line = "--pool layerd --data-device \"/dev/a\" --metadata-device \"/dev/b\" --units";
    assert!(text.contains(line), "{text}");
    assert!(managed_file::is_sealed(&managed_file::sealed(&text)));
}
