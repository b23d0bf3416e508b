use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{BadFilter, Field, Fields, Filter, MAX_BYTES, MAX_FILTERS, MAX_PATTERNS};

#[derive(Debug, Default)]
struct Snapshot {
    name: &'static str,
    parent: &'static str,
    kind: &'static str,
    labels: BTreeMap<&'static str, &'static str>,
}

impl Fields for Snapshot {
    fn field(&self, field: &Field) -> Option<&str> {
        match field {
            Field::Name => Some(self.name),
            Field::Parent => Some(self.parent),
            Field::Kind => Some(self.kind),
            Field::Label(key) => self.labels.get(key.as_str()).copied(),
            Field::Unknown => None,
        }
    }
}

/// One snapshot with everything the tables below look for.
fn sample() -> Snapshot {
    Snapshot {
        name: "k8s.io/7/sha256:ab",
        parent: "",
        kind: "committed",
        labels: BTreeMap::from([
            ("foo", "bar"),
            ("foo.bar", "dotted"),
            ("a-b", "dash"),
            ("containerd.io/snapshot.ref", "sha256:ab"),
            ("with \"quote\" and \\", "odd"),
            ("牛", "牛乳"),
            ("empty", ""),
            ("list", "x,y z"),
            ("tab", "a\tb"),
            ("", "nameless"),
            ("replaced", "\u{fffd}"),
        ]),
    }
}

fn parse(filter: &str) -> Result<Filter, BadFilter> {
    Filter::parse_all(&[filter.to_owned()])
}

fn assert_all(expected: bool, filters: &[&str]) {
    for filter in filters {
        let parsed = parse(filter).unwrap_or_else(|refused| panic!("{filter:?}: {refused}"));
        assert_eq!(parsed.matches(&sample()), expected, "{filter:?}");
    }
}

#[test]
fn fields_and_operators_match() {
    assert_all(
        true,
        &[
            "",
            "name",
            "parent",
            "parent==\"\"",
            "kind==committed",
            "kind!=active",
            "name==k8s.io/7/sha256:ab",
            "name.ignored.rest==k8s.io/7/sha256:ab",
            "labels.foo",
            "labels.foo==bar",
            "labels.foo.bar==dotted",
            "labels.\"foo.bar\"==dotted",
            "labels.\"foo\".\"bar\"==dotted",
            "labels.\"a-b\"==dash",
            "labels.\"containerd.io/snapshot.ref\"==sha256:ab,parent==\"\"",
            "labels.containerd.\"io/snapshot\".ref==\"sha256:ab\"",
            "labels.\"with \\\"quote\\\" and \\\\\"==odd",
            "labels.\"牛\"==牛乳",
            "labels.empty",
            "labels.empty==\"\"",
            "labels.list==\"x,y z\"",
            "labels==nameless",
            "labels.\"\"==nameless",
            "\"name\"==k8s.io/7/sha256:ab",
            "labels.absent!=x",
            "unknown!=x",
            "kind==committed,labels.foo==bar,name",
        ],
    );
}

#[test]
fn fields_and_operators_do_not_match() {
    assert_all(
        false,
        &[
            "unknown",
            "labels.absent",
            "labels.absent==\"\"",
            "unknown==\"\"",
            "labels.absent!=\"\"",
            "labels.foo==b",
            "labels.foo!=bar",
            "kind==active",
            "kind==committed,labels.absent",
            "Name",
        ],
    );
}

#[test]
fn patterns_search_anywhere_and_read_absent_as_empty() {
    assert_all(
        true,
        &[
            "name~=sha256",
            "name~=^k8s",
            "name~=\"ab$\"",
            "name~=/io\\/7/",
            "name~=|io/7|",
            "name~=/[a-z]{3,6}/",
            "labels.list~=/y z/",
            "labels.absent~=^$",
            "name~=\"\"",
            "name~=//",
            "name~=/\\\\d/",
        ],
    );
    assert_all(
        false,
        &[
            "name~=^sha256",
            "labels.absent~=x",
            "name~=[",
            "name~=\"\\x80\"",
            "name~=(?!a)",
        ],
    );
}

#[test]
fn white_space_is_passed_over_before_a_token() {
    assert_all(
        true,
        &[
            " name",
            "\tname ==\u{a0}k8s.io/7/sha256:ab",
            "name!= \"x\"",
            "labels. foo == bar,\n kind == committed",
        ],
    );
    assert_refused(&[
        ("name ", 5, "the end"),
        ("name==x ", 7, "' '"),
        ("name ,kind", 5, "','"),
        ("labels .foo", 7, "'.'"),
        (" ", 1, "the end"),
    ]);
}

#[test]
fn values_hold_more_than_fields() {
    let odd = Snapshot {
        name: "a=b.c/d|e\"f'g!~(h)[i]{j}*?#%&;:<>@^`\\n",
        ..Snapshot::default()
    };
    let bare = parse(&format!("name=={}", odd.name)).unwrap();
    assert!(bare.matches(&odd));
    let control_first = parse("name==\u{1}x").unwrap();
    assert!(!control_first.matches(&odd));
    assert_refused(&[
        ("name==x\u{1}", 7, "'\\u{1}'"),
        ("name==x\u{200d}y", 7, "'\\u{200d}'"),
        ("name==x\u{fffd}", 7, "'\u{fffd}'"),
    ]);
}

#[test]
fn escapes_write_bytes_and_characters() {
    let cases = [
        (
            "\\a\\b\\f\\n\\r\\t\\v\\\\\\\"",
            "\u{7}\u{8}\u{c}\n\r\t\u{b}\\\"",
        ),
        ("\\101\\x42\\u0043\\U00000044", "ABCD"),
        ("\\u00e9", "é"),
        ("\\xc3\\xa9", "é"),
        ("\\303\\251", "é"),
        ("\\ud800", "\u{fffd}"),
        ("\\U80000041", "A"),
    ];
    for (written, name) in cases {
        let filter = parse(&format!("name==\"{written}\"")).unwrap();
        assert!(
            filter.matches(&Snapshot {
                name,
                ..Snapshot::default()
            }),
            "{written}"
        );
    }
    assert_all(false, &["name==\"\\x80\"", "labels.\"\\xff\""]);
    assert_all(
        true,
        &["labels.\"\\x66oo\"==\"b\\141r\"", "name!=\"\\x80\""],
    );
}

fn assert_refused(cases: &[(&str, usize, &str)]) {
    for (filter, at, found) in cases {
        match parse(filter) {
            Err(BadFilter::Syntax {
                at: seen,
                found: what,
                ..
            }) => {
                assert_eq!((seen, what.as_str()), (*at, *found), "{filter:?}");
            }
            other => panic!("{filter:?}: {other:?}"),
        }
    }
}

#[test]
fn what_upstream_refuses_is_refused() {
    assert_refused(&[
        ("name===x", 4, "operator \"===\""),
        ("name=x", 4, "operator \"=\""),
        ("name==!x", 4, "operator \"==!\""),
        ("name== !x", 7, "operator \"!\""),
        ("name==", 6, "the end"),
        ("name==,kind", 6, "','"),
        ("name==.x", 6, "'.'"),
        ("name==/var/x", 6, "text quoted with /"),
        ("name==|x|", 6, "text quoted with |"),
        ("name==/x", 6, "quoted text without its end"),
        ("name~=/x", 6, "quoted text without its end"),
        ("name==\"x", 6, "quoted text without its end"),
        ("name==\"x\\", 6, "quoted text without its end"),
        ("name==\"x\ny\"", 6, "quoted text without its end"),
        ("name==\"x\"y", 9, "'y'"),
        ("name==\"x\".y", 9, "'.'"),
        ("name,", 5, "the end"),
        (",name", 0, "','"),
        ("name.", 5, "the end"),
        ("name..x", 5, "'.'"),
        ("labels.a-b", 8, "'-'"),
        (
            "labels.containerd.io/snapshot.ref==x",
            20,
            "quoted text without its end",
        ),
        ("labels.|foo|==x", 7, "text quoted with |"),
        ("labels.?foo", 7, "'?'"),
        ("'name'==x", 0, "'\\''"),
        ("name\"x\"", 4, "text quoted with \""),
        ("name x", 5, "\"x\""),
        ("na\0me", 2, "a NUL character"),
        ("name==\"\0\"", 6, "quoted text without its end"),
        ("\u{fffd}", 0, "broken UTF-8"),
        ("name==\"\u{fffd}\"", 6, "quoted text without its end"),
        ("name==\"\\g\"", 6, "an unknown escape"),
        ("name~=/\\d/", 6, "an unknown escape"),
        ("name~=/\\\"/", 6, "an unknown escape"),
        ("name==\"\\'\"", 6, "an unknown escape"),
        ("name==\"\\xaz\"", 6, "an escape with too few digits"),
        ("name==\"\\08\"", 6, "an escape with too few digits"),
        ("name==\"\\400\"", 6, "an octal escape above \\377"),
        ("name==\"\\U00110000\"", 6, "an escape above \\U0010ffff"),
    ]);
}

#[test]
fn alternatives_match_if_one_does() {
    let any = |filters: &[&str]| {
        let filters: Vec<String> = filters.iter().map(|&filter| filter.to_owned()).collect();
        Filter::parse_all(&filters).unwrap().matches(&sample())
    };
    assert!(any(&[]));
    assert!(any(&["kind==active", "kind==committed"]));
    assert!(any(&["kind==active", ""]));
    assert!(!any(&["kind==active", "labels.absent"]));
}

#[test]
fn one_bad_alternative_refuses_all() {
    let refused = Filter::parse_all(&["name".to_owned(), "=".to_owned()]).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "filter \"=\": at byte 0: found operator \"=\", allowed is a field: letters, digits and _, \
         or text in double quotes"
    );
}

#[test]
fn sizes_are_bounded() {
    let long = "a".repeat(MAX_BYTES + 1);
    assert_eq!(
        parse(&long).unwrap_err(),
        BadFilter::TooLong {
            bytes: MAX_BYTES + 1
        }
    );
    assert!(parse(&long[1..]).is_ok());
    let count = MAX_FILTERS + 1;
    let many = vec!["a".to_owned(); count];
    assert_eq!(
        Filter::parse_all(&many).unwrap_err(),
        BadFilter::TooMany { count }
    );
    assert!(Filter::parse_all(&many[1..]).is_ok());
    let patterns = vec!["a~=b".to_owned(); MAX_PATTERNS + 1];
    assert_eq!(
        Filter::parse_all(&patterns).unwrap_err(),
        BadFilter::TooManyPatterns
    );
    assert!(Filter::parse_all(&patterns[1..]).is_ok());
    let big = parse("a~=/((a{100}){100}){100}/").unwrap_err();
    assert!(matches!(big, BadFilter::PatternTooBig { .. }), "{big}");
    let quoted = parse(&format!("a{}", "=".repeat(MAX_BYTES - 1))).unwrap_err();
    assert!(quoted.to_string().len() < 600, "{quoted}");
}

#[test]
fn required_values_are_found() {
    let remote = parse("labels.\"containerd.io/snapshot.ref\"==T,parent==\"a b\"").unwrap();
    let reference = Field::Label("containerd.io/snapshot.ref".to_owned());
    assert_eq!(remote.required(&reference), Some("T"));
    assert_eq!(remote.required(&Field::Parent), Some("a b"));
    assert_eq!(remote.required(&Field::Name), None);
    assert_eq!(parse("name!=x").unwrap().required(&Field::Name), None);
    assert_eq!(parse("name~=x").unwrap().required(&Field::Name), None);
    assert_eq!(parse("").unwrap().required(&Field::Name), None);
    let either = Filter::parse_all(&["name==x".to_owned(), "name==y".to_owned()]).unwrap();
    assert_eq!(either.required(&Field::Name), None);
}

proptest! {
    #[test]
    fn arbitrary_input_never_panics(filters in prop::collection::vec(any::<String>(), 0..4)) {
        if let Ok(filter) = Filter::parse_all(&filters) {
            filter.matches(&sample());
        }
    }

    #[test]
    fn input_like_filters_never_panics(filter in "[a-z\"/|=!~,. \\\\x0-9u\u{fffd}\n牛]{0,40}") {
        if let Ok(parsed) = parse(&filter) {
            parsed.matches(&sample());
        }
    }

    #[test]
    fn a_quoted_value_equals_itself(value in any::<String>()) {
        let written: String = value.chars().map(|char| format!("\\U{:08x}", u32::from(char))).collect();
        let filter = parse(&format!("name==\"{written}\"")).unwrap();
        prop_assert_eq!(filter.required(&Field::Name), Some(value.as_str()));
    }
}
