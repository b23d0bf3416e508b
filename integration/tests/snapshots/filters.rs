//! The filter language at the List call.

use tonic::Code;

use crate::World;

/// Filters, and the names that must be listed, sorted.
type Case = (&'static [&'static str], &'static [&'static str]);

const ALL: &[&str] = &[
    "act one",
    "base",
    "k8s.io/1/sha256:ab",
    "lone",
    "look",
    "mid",
];

const CASES: &[Case] = &[
    (&[], ALL),
    (&[""], ALL),
    (&["", "name==nope"], ALL),
    // Kinds.
    (&["kind==active"], &["act one", "lone"]),
    (&["kind==view"], &["look"]),
    (&["kind==committed"], &["base", "k8s.io/1/sha256:ab", "mid"]),
    (&["kind!=committed"], &["act one", "lone", "look"]),
    (&["kind==unknown"], &[]),
    (&["kind~=^(view|active)$"], &["act one", "lone", "look"]),
    // Names; alternatives; all selectors of one filter.
    (&["name==base"], &["base"]),
    (&["name==base", "name==mid"], &["base", "mid"]),
    (&["name==base", "name==base"], &["base"]),
    (&["name==base,kind==active"], &[]),
    (&["name==base,kind==committed"], &["base"]),
    (&["name==\"act one\""], &["act one"]),
    (&["name==k8s.io/1/sha256:ab"], &["k8s.io/1/sha256:ab"]),
    (&["name==\"\\x62\\141\\u0073e\""], &["base"]),
    (&["name==nope"], &[]),
    (
        &["name!=base"],
        &["act one", "k8s.io/1/sha256:ab", "lone", "look", "mid"],
    ),
    (&["name"], ALL),
    (&[" name == base"], &["base"]),
    (&["name==base, kind==committed"], &["base"]),
    // Parents: the field is always there.
    (&["parent"], ALL),
    (&["parent==\"\""], &["base", "lone"]),
    (
        &["parent!=\"\""],
        &["act one", "k8s.io/1/sha256:ab", "look", "mid"],
    ),
    (&["parent==base"], &["look", "mid"]),
    (&["parent==base,kind==view"], &["look"]),
    (&["parent==nope"], &[]),
    (
        &["parent==mid", "parent==base"],
        &["act one", "k8s.io/1/sha256:ab", "look", "mid"],
    ),
    // Labels: presence, equality, dots, absence.
    (&["labels.foo"], &["base", "mid"]),
    (&["labels.foo==bar"], &["base"]),
    (
        &["labels.foo!=bar"],
        &["act one", "k8s.io/1/sha256:ab", "lone", "look", "mid"],
    ),
    (&["labels.foo.bar==1"], &["k8s.io/1/sha256:ab"]),
    (&["labels.\"foo.bar\"==1"], &["k8s.io/1/sha256:ab"]),
    (&["labels.\"foo\".bar==1"], &["k8s.io/1/sha256:ab"]),
    (&["labels.nope==\"\""], &[]),
    (&["labels.nope!=x"], ALL),
    (&["labels.nope~=^$"], ALL),
    (&["labels.foo~=^ba"], &["base"]),
    (&["labels.foo~=a"], &["base"]),
    (&["labels"], &[]),
    (&["labels.say==\"he said \\\"hi\\\"\""], &["look"]),
    // What containerd sends to find a layer that is there already.
    (
        &["labels.\"containerd.io/snapshot.ref\"==sha256:1,parent==\"\""],
        &["base"],
    ),
    (
        &["labels.\"containerd.io/snapshot.ref\"==sha256:1,parent==\"base\""],
        &["mid"],
    ),
    (
        &["labels.\"containerd.io/snapshot.ref\"==sha256:1"],
        &["base", "mid"],
    ),
    // Expressions search, are delimited as one likes, and match nothing where they are broken.
    (
        &["name~=o"],
        &["act one", "k8s.io/1/sha256:ab", "lone", "look"],
    ),
    (&["name~=/^lo/"], &["lone", "look"]),
    (&["name~=|^k8s.io/[0-9]+/|"], &["k8s.io/1/sha256:ab"]),
    (&["name~=\"^act one$\""], &["act one"]),
    (&["name~=("], &[]),
    (&["name~=(", "name==mid"], &["mid"]),
    // Fields that no snapshot has.
    (&["nope"], &[]),
    (&["nope==x"], &[]),
    (&["nope!=x"], ALL),
    (&["name.more==base"], &["base"]),
];

const BROKEN: &[&str] = &[
    "name=base",
    "name===base",
    "name==",
    "name!",
    "name==base,",
    ",name==base",
    "name==base kind==active",
    "name==base ",
    "name==.base",
    "name==/tmp/x",
    "name==|x|",
    "'name'==base",
    "name==\"base",
    "name==\"\\q\"",
    "labels.a-b==1",
    "labels.containerd.io/snapshot.ref==1",
    "labels..foo",
    ".name",
    "==base",
    "name==a\0b",
];

fn furnished() -> World {
    let mut world = World::new();
    let client = &mut world.client;
    let reference = ("containerd.io/snapshot.ref", "sha256:1");
    client.prepare("tmp", "", &[]).unwrap();
    client
        .commit("base", "tmp", &[("foo", "bar"), reference])
        .unwrap();
    client.prepare("tmp", "base", &[]).unwrap();
    client
        .commit("mid", "tmp", &[("foo", "qux"), reference])
        .unwrap();
    client.prepare("tmp", "mid", &[]).unwrap();
    client
        .commit("k8s.io/1/sha256:ab", "tmp", &[("foo.bar", "1")])
        .unwrap();
    client.prepare("act one", "mid", &[("num", "2")]).unwrap();
    client
        .view("look", "base", &[("say", "he said \"hi\"")])
        .unwrap();
    client.prepare("lone", "", &[]).unwrap();
    world
}

#[test]
fn root_filters_choose_what_is_listed() {
    let mut world = furnished();
    for (filters, wanted) in CASES {
        let names = world.client.names(filters);
        assert_eq!(names.unwrap(), *wanted, "{filters:?}");
    }
}

#[test]
fn root_broken_filters_are_invalid() {
    let mut world = furnished();
    for filter in BROKEN {
        let code = Code::InvalidArgument;
        world.refuses(filter, code, |c| c.names(&[filter]));
        world.refuses(filter, code, |c| c.names(&["name==base", filter]));
    }
    let many = vec!["name==base"; 1025];
    world.refuses("1025 filters", Code::InvalidArgument, |c| c.names(&many));
    let long = format!("name=={}", "x".repeat(64 * 1024));
    world.refuses("a long filter", Code::InvalidArgument, |c| {
        c.names(&[&long])
    });
    let bomb = "name~=((a{100}){100}){100}";
    world.refuses("a huge expression", Code::InvalidArgument, |c| {
        c.names(&[bomb])
    });
}

/// The filters that an index answers agree with those that look at everything.
#[test]
fn root_a_filter_sees_names_with_any_bytes() {
    let mut world = World::new();
    for name in ["a\"b", "a\\b", "tab\there", "é", "..", "a,b", "labels.x"] {
        world.client.committed(name, "").unwrap();
        world.client.view(&format!("on {name}"), name, &[]).unwrap();
        let mut quoted = String::from("\"");
        for byte in name.bytes() {
            quoted.push_str(&format!("\\x{byte:02x}"));
        }
        quoted.push('"');
        let by_index = world.client.names(&[&format!("name=={quoted}")]).unwrap();
        let by_looking = world
            .client
            .names(&[&format!("name=={quoted}"), "nope"])
            .unwrap();
        assert_eq!(by_index, [name]);
        assert_eq!(by_looking, [name]);
        let children = world.client.names(&[&format!("parent=={quoted}")]).unwrap();
        assert_eq!(children, [format!("on {name}")]);
    }
}
