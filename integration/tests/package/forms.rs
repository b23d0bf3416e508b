//! The packages that are made of the Debian one: an archive, an RPM package and an image.
//!
//! Most tests take small ones, with scripts in place of the programs: what is packed does not matter to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use layerd_integration::process::output;
use layerd_integration::{Containerd, Scratch, Version};

use super::{built, shared};

/// Paths of the Debian package that no other has, and paths that others have instead.
const DEBIAN_ONLY: [&str; 3] = [
    "usr/share/doc/layerd/changelog.Debian.gz",
    "usr/share/doc/layerd/copyright",
    "usr/share/lintian/overrides/layerd",
];
const MOVED: [(&str, &str); 1] = [(
    "usr/share/zsh/vendor-completions/_layerctl",
    "usr/share/zsh/site-functions/_layerctl",
)];
const ADDED: [&str; 1] = ["usr/share/licenses/layerd/LICENSE"];

/// All forms of one small package, which the tests share and leave as they are.
pub(crate) struct Forms {
    dir: PathBuf,
    /// The Debian package that they are made of.
    deb: PathBuf,
}

impl Forms {
    pub(crate) fn make() -> Self {
        let made = shared("package-forms", |new| {
            let deb = small(new);
            output(&mut packages(&deb, &new.join("forms")));
        });
        Self {
            dir: made.join("forms"),
            deb: made.join("small.deb"),
        }
    }

    fn file(&self, end: &str) -> PathBuf {
        let names = fs::read_dir(&self.dir).unwrap();
        let mut paths = names.map(|entry| entry.unwrap().path());
        let is_it = |path: &PathBuf| path.to_str().unwrap().ends_with(end);
        paths.find(is_it).unwrap_or_else(|| panic!("no *{end}"))
    }

    pub(crate) fn rpm(&self) -> PathBuf {
        self.file(".rpm")
    }

    /// The archive, unpacked into a folder; its top.
    pub(crate) fn unpack(&self, to: &Path) -> PathBuf {
        let mut tar = Command::new("tar");
        output(
            tar.arg("-xzf")
                .arg(self.file(".tar.gz"))
                .arg("-C")
                .arg(to)
                .arg("--no-same-owner"),
        );
        to.join("layerd-0.1.0-linux-".to_owned() + std::env::consts::ARCH)
    }
}

fn packages(deb: &Path, to: &Path) -> Command {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/packages.sh");
    let mut command = Command::new(script);
    command.arg("dev").arg(deb).arg(to);
    command
}

/// Makes the Debian package with scripts for programs in a folder.
fn small(dir: &Path) -> PathBuf {
    let script = r#"
        cd "$0"
        dpkg-deb --raw-extract "$1" tree
        for program in tree/usr/bin/*; do
            printf '#!/bin/sh\necho "%s 0.1.0"\n' "${program##*/}" >"$program"
        done
        dpkg-deb --root-owner-group --build -Znone tree small.deb
        rm -r tree"#;
    let mut sh = Command::new("sh");
    output(sh.args(["-euc", script]).arg(dir).arg(built()));
    dir.join("small.deb")
}

/// Mode and checksum of each file of a tree, by path.
fn listing(tree: &Path) -> BTreeMap<String, String> {
    let script = "cd \"$0\" && find . -type f -printf '%m %P\\n' | while read -r mode path; do
            sum=$(sha256sum <\"$path\"); echo \"$path ${mode} ${sum%% *}\"; done";
    let mut sh = Command::new("sh");
    let listed = output(sh.args(["-euc", script]).arg(tree));
    listed
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(path, rest)| (path.to_owned(), rest.to_owned()))
        .collect()
}

/// The files that all forms but the Debian package are to have.
fn wanted(deb: &Path, to: &Path) -> BTreeMap<String, String> {
    output(Command::new("dpkg-deb").arg("--extract").args([deb, to]));
    let mut all = listing(to);
    for path in DEBIAN_ONLY {
        all.remove(path).expect(path);
    }
    for (from, to) in MOVED {
        let file = all.remove(from).expect(from);
        all.insert(to.to_owned(), file);
    }
    all
}

fn without_added(mut files: BTreeMap<String, String>) -> BTreeMap<String, String> {
    for path in ADDED {
        files.remove(path).expect(path);
    }
    files
}

#[test]
fn root_forms_hold_the_files_of_the_package() {
    let scratch = Scratch::new();
    let forms = Forms::make();
    let wanted = wanted(&forms.deb, &scratch.dir("deb"));
    let top = forms.unpack(&scratch.dir("tar"));
    assert_eq!(without_added(listing(&top.join("files"))), wanted);
    let check = "cd \"$0\" && sha256sum --quiet --check SHA256SUMS && find . -type f | wc -l && wc -l <SHA256SUMS";
    let counts = output(Command::new("sh").args(["-euc", check]).arg(&top));
    let counts: Vec<usize> = counts.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(counts[0], counts[1] + 1, "all but the sums themselves");

    let cpio = "cd \"$1\" && rpm2cpio \"$0\" | cpio --quiet -idm";
    let tree = scratch.dir("rpm");
    let mut sh = Command::new("sh");
    output(sh.args(["-euc", cpio]).arg(forms.rpm()).arg(&tree));
    assert_eq!(without_added(listing(&tree)), wanted);

    let check = "cd \"$0\" && sha256sum --quiet --check SHA256SUMS && wc -l <SHA256SUMS";
    let count = output(Command::new("sh").args(["-euc", check]).arg(&forms.dir));
    assert_eq!(count, "3\n");
}

/// The verdict of rpm itself on the package.
#[test]
fn root_rpm_package_is_as_rpm_wants_it() {
    let rpm = Forms::make().rpm();
    let query = |arguments: &[&str]| output(Command::new("rpm").args(arguments).arg(&rpm));
    let checked = query(&["-K", "--nosignature"]);
    assert!(checked.ends_with("digests OK\n"), "{checked}");
    let format =
        "[%{FILEUSERNAME}:%{FILEGROUPNAME} %{FILEMODES:perms} %{FILEFLAGS:fflags} %{FILENAMES}\\n]";
    let files = query(&["-qp", "--queryformat", format]);
    let all: Vec<&str> = files.lines().collect();
    assert!(all.len() > 50, "{files}");
    assert!(all.iter().all(|line| line.starts_with("root:root ")));
    for line in [
        "root:root drwxr-xr-x  /etc/layerd",
        "root:root -rw-r--r-- cn /etc/layerd/config.toml",
        "root:root -rwxr-xr-x  /usr/bin/layerd",
        "root:root -rw-r--r-- d /usr/share/man/man8/layerd.8.gz",
        "root:root -rw-r--r-- l /usr/share/licenses/layerd/LICENSE",
    ] {
        assert!(all.contains(&line), "{line}: {files}");
    }
    assert_eq!(
        query(&["-qp", "--configfiles"]),
        "/etc/layerd/config.toml\n"
    );
    let requires = query(&["-qp", "--requires"]);
    let others = requires.lines().filter(|line| !line.starts_with("rpmlib("));
    let others: BTreeSet<_> = others.collect();
    assert_eq!(
        others,
        BTreeSet::from(["/bin/sh", "config(layerd) = 0.1.0-1"])
    );
    let scripts = query(&["-qp", "--scripts"]);
    for (name, file) in [
        ("postinstall", include_str!("../../../deploy/rpm/post.sh")),
        ("preuninstall", include_str!("../../../deploy/rpm/preun.sh")),
        (
            "postuninstall",
            include_str!("../../../deploy/rpm/postun.sh"),
        ),
    ] {
        let wanted = format!("{name} scriptlet (using /bin/sh):\n{file}");
        assert!(scripts.contains(&wanted), "{name}: {scripts}");
    }
}

/// The same programs give the same bytes at another time, in other folders and with another environment.
#[test]
fn root_forms_are_the_same_when_they_are_made_again() {
    let scratch = Scratch::new();
    let forms = Forms::make();
    let again = scratch.dir("again");
    let script =
        "umask 077; export TZ=Asia/Tokyo LC_ALL=C.UTF-8 TMPDIR=\"$3\"; \"$0\" dev \"$1\" \"$2\"";
    let mut sh = Command::new("sh");
    let command = packages(&forms.deb, &again);
    sh.args(["-euc", script]).arg(command.get_program());
    output(sh.args(command.get_args().skip(1)).arg(scratch.dir("tmp")));
    let sums = |dir: &Path| fs::read_to_string(dir.join("SHA256SUMS")).unwrap();
    assert_eq!(sums(&again), sums(&forms.dir));
    debian_package_is_the_same(&scratch);
}

fn debian_package_is_the_same(scratch: &Scratch) {
    let first = built();
    let to = scratch.dir("deb-again");
    let script = "umask 077; export TZ=Asia/Tokyo; \"$0/package.sh\" dev 0.1.0-1 \"$1\"";
    let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
    let mut sh = Command::new("sh");
    output(sh.args(["-euc", script, deploy]).arg(&to));
    let second = to.join(first.file_name().unwrap());
    output(Command::new("cmp").arg(first).arg(second));
}

/// containerd takes the image by the name that the DaemonSet has.
#[test]
fn root_image_is_the_one_of_the_daemon_set() {
    let scratch = Scratch::new();
    let forms = Forms::make();
    let dir = scratch.dir("c");
    let containerd = Containerd::start(Version::V2_1, &dir, &dir.join("missing.sock"));
    let archive = forms.file(".oci.tar");
    containerd.ctr(&["images", "import", "--no-unpack", archive.to_str().unwrap()]);
    let listed = containerd.ctr(&["images", "ls"]);
    let (_, manifest) = include_str!("../../../deploy/kubernetes/daemonset-layerd.yaml")
        .split_once("image: layerd:")
        .unwrap();
    let version = manifest.lines().next().unwrap();
    let name = format!("docker.io/library/layerd:{version}");
    let line = listed.lines().find(|line| line.starts_with(&name));
    assert!(line.is_some(), "{listed}");
    let checked = containerd.ctr(&["images", "check"]);
    assert!(checked.contains("complete (2/2)"), "{checked}");
    let rootfs = scratch.dir("rootfs");
    let script = "
        mkdir layout && tar -xf \"$0\" -C layout
        layer=$(sed 's/.*\"Layers\":\\[\"\\([^\"]*\\)\".*/\\1/' layout/manifest.json)
        tar -xzf layout/$layer -C \"$1\"";
    let mut sh = Command::new("sh");
    sh.current_dir(scratch.path());
    output(sh.args(["-euc", script]).arg(&archive).arg(&rootfs));
    let config = fs::read_to_string(rootfs.join("etc/layerd/config.toml")).unwrap();
    assert!(config.contains("\nnode_expansion = true\n"), "{config}");
    for program in ["layerd", "layerctl", "layerd-nri"] {
        assert!(rootfs.join("usr/bin").join(program).exists(), "{program}");
    }
}
