//! A virtual machine, the tests it is to run, and what it says of them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use layerd_integration::Scratch;
use layerd_integration::process::output;
use serde_json::Value;

/// Tests of one test binary.
pub(crate) struct Suite {
    /// Its name for nextest.
    pub(crate) binary: &'static str,
    /// The folder of its crate, where its tests run.
    pub(crate) folder: &'static str,
    /// Starts of the names of tests. Each names at least one.
    pub(crate) tests: &'static [&'static str],
}

/// Tests to run, and their time limit.
pub(crate) struct Form {
    pub(crate) suites: &'static [Suite],
    /// Seconds for one test.
    pub(crate) test_limit: u32,
    /// Seconds for all.
    pub(crate) limit: u32,
}

/// A kernel, and the test binaries it finds on this machine.
pub(crate) struct Machine {
    kernel: &'static str,
    /// Folder of further modules and of their programs.
    extra: Option<&'static str>,
    scratch: Scratch,
    binaries: Value,
}

impl Machine {
    pub(crate) fn new(kernel: &'static str) -> Self {
        Self {
            kernel,
            extra: None,
            scratch: Scratch::new(),
            binaries: binaries(),
        }
    }

    /// One with further modules, which `peers/install.sh` builds when it is asked to.
    pub(crate) fn with(kernel: &'static str, extra: &'static str) -> Self {
        Self {
            extra: Some(extra),
            ..Self::new(kernel)
        }
    }

    /// Runs all tests of a form. A test that is not known to have passed has failed.
    pub(crate) fn run(&self, form: &Form) {
        let tests: Vec<Test> = form
            .suites
            .iter()
            .flat_map(|suite| self.tests(suite))
            .collect();
        let list = self.scratch.path().join("list");
        let lines: String = tests.iter().map(Test::line).collect();
        fs::write(&list, lines).unwrap();
        let said = self.boot(&list, form);
        let passed: BTreeSet<&str> = said.iter().filter_map(|line| passed(line)).collect();
        let missing = tests.iter().filter(|test| !passed.contains(&*test.shown()));
        let missing: Vec<String> = missing.map(Test::shown).collect();
        assert!(
            missing.is_empty(),
            "{}: not passed: {missing:#?}\n{}",
            self.kernel,
            said.join("\n")
        );
        assert!(
            said.iter().any(|line| line.starts_with("vm: end")),
            "the machine did not come to its end"
        );
        println!("{}: {} tests passed", self.kernel, tests.len());
    }

    fn tests(&self, suite: &Suite) -> Vec<Test> {
        let program = &self.binaries["rust-binaries"][suite.binary]["binary-path"];
        let program = program
            .as_str()
            .unwrap_or_else(|| panic!("no {}", suite.binary));
        let all = output(Command::new(program).args(["--list", "--format", "terse"]));
        let all = all.lines().filter_map(|line| line.strip_suffix(": test"));
        let all: Vec<&str> = all.collect();
        let mut found = BTreeSet::new();
        for start in suite.tests {
            // A long test runs where it is asked for as such.
            let is_long = start.contains("root_full_");
            let named = all.iter().filter(|name| name.starts_with(start));
            let named = named.filter(|name| is_long || mounts(name));
            let before = found.len();
            found.extend(named);
            assert!(found.len() > before, "{} has no {start}", suite.binary);
        }
        let test = |name: &&str| Test {
            program: program.into(),
            folder: workspace().join(suite.folder),
            name: (*name).to_owned(),
        };
        found.into_iter().map(test).collect()
    }

    /// Answers what the machine printed, which is shown as it comes.
    fn boot(&self, list: &Path, form: &Form) -> Vec<String> {
        let disk = self.scratch.path().parent().unwrap();
        let mut boot = Command::new(workspace().join("integration/vm/boot.sh"))
            .arg(self.kernel)
            .arg(list)
            .arg(disk)
            .args([form.test_limit, form.limit].map(|limit| limit.to_string()))
            .args(self.extra)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(boot.stdout.take().unwrap()).split(b'\n');
        let said = lines.map(|line| {
            let line = String::from_utf8_lossy(&line.unwrap()).into_owned();
            println!("{line}");
            line
        });
        let said = said.collect();
        let ended = boot.wait().unwrap();
        assert!(
            ended.success(),
            "{}: {ended} (124: no time left)",
            self.kernel
        );
        said
    }
}

/// One test, as the machine is to run it.
struct Test {
    program: PathBuf,
    folder: PathBuf,
    name: String,
}

impl Test {
    fn line(&self) -> String {
        let (program, folder) = (self.program.display(), self.folder.display());
        format!("{program}\t{folder}\t{}\n", self.name)
    }

    /// As guest.sh prints it: the program is named without cargo's hash.
    fn shown(&self) -> String {
        let program = self.program.file_name().unwrap().to_string_lossy();
        let program = program.rsplit_once('-').unwrap().0;
        format!("{program} {}", self.name)
    }
}

/// Program and name of a test that passed.
fn passed(line: &str) -> Option<&str> {
    let test = line.strip_prefix("vm: ok ")?;
    Some(test.rsplit_once(' ')?.0)
}

/// True if a test needs a kernel and is no long one.
fn mounts(name: &str) -> bool {
    let parts = || name.split("::");
    parts().any(|part| part.starts_with("root_"))
        && !parts().any(|part| part.starts_with("root_full_") || part == "root_two_thousand_binds")
}

/// The test binaries of this workspace, as cargo has built them for the tests that run now.
fn binaries() -> Value {
    let mut list = Command::new(env!("CARGO"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let of_the_caller = text.starts_with("CARGO_") || text.starts_with("NEXTEST");
        if of_the_caller && !["CARGO_HOME", "CARGO_TARGET_DIR"].contains(&&*text) {
            list.env_remove(name);
        }
    }
    list.args(["nextest", "list", "--workspace", "--locked"])
        .args(["--list-type", "binaries-only", "--message-format", "json"])
        .current_dir(workspace());
    serde_json::from_str(&output(&mut list)).unwrap()
}

fn workspace() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap().to_owned()
}
