//! Content of the package.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};
use std::process::Command;

use layerd_integration::Scratch;
use layerd_integration::process::output;

use super::{package, unpacked};

/// All files but the pages of layerctl's commands.
const FILES: &str = "\
-rw-r--r-- etc/layerd/config.toml
-rw-r--r-- usr/lib/systemd/system/layerd-csi.socket
-rw-r--r-- usr/lib/systemd/system/layerd-docker.socket
-rw-r--r-- usr/lib/systemd/system/layerd-nri.service
-rw-r--r-- usr/lib/systemd/system/layerd.service
-rw-r--r-- usr/lib/systemd/system/layerd.socket
-rw-r--r-- usr/lib/systemd/system/layerd@.service
-rw-r--r-- usr/lib/systemd/system/layerd@.socket
-rw-r--r-- usr/lib/systemd/user/layerd.service
-rw-r--r-- usr/lib/systemd/user/layerd.socket
-rw-r--r-- usr/lib/tmpfiles.d/layerd.conf
-rw-r--r-- usr/share/bash-completion/completions/layerctl
-rw-r--r-- usr/share/doc/layerd/README.md
-rw-r--r-- usr/share/doc/layerd/changelog.Debian.gz
-rw-r--r-- usr/share/doc/layerd/changelog.gz
-rw-r--r-- usr/share/doc/layerd/copyright
-rw-r--r-- usr/share/doc/layerd/examples/alerts.yml
-rw-r--r-- usr/share/doc/layerd/examples/containerd.toml
-rw-r--r-- usr/share/doc/layerd/examples/grafana.json
-rw-r--r-- usr/share/fish/vendor_completions.d/layerctl.fish
-rw-r--r-- usr/share/lintian/overrides/layerd
-rw-r--r-- usr/share/man/man1/layerctl.1.gz
-rw-r--r-- usr/share/man/man5/layerd-config.5.gz
-rw-r--r-- usr/share/man/man8/layerd-check.8.gz
-rw-r--r-- usr/share/man/man8/layerd-fsck.8.gz
-rw-r--r-- usr/share/man/man8/layerd-nri.8.gz
-rw-r--r-- usr/share/man/man8/layerd-restore.8.gz
-rw-r--r-- usr/share/man/man8/layerd.8.gz
-rw-r--r-- usr/share/zsh/vendor-completions/_layerctl
-rwxr-xr-x usr/bin/layerctl
-rwxr-xr-x usr/bin/layerd
-rwxr-xr-x usr/bin/layerd-nri
";

#[test]
fn root_package_holds_what_an_operator_needs() {
    let scratch = Scratch::new();
    let tree = unpacked(&scratch);
    let mut find = Command::new("find");
    let found = find.arg(&tree).args(["-type", "f", "-printf", "%M %P\n"]);
    let found = output(found);
    let of_command = |line: &&str| line.contains("/man1/layerctl-");
    let (commands, mut files): (Vec<_>, Vec<_>) = found.lines().partition(of_command);
    files.sort_unstable();
    assert_eq!(files, FILES.lines().collect::<Vec<_>>());
    assert!(commands.len() > 40, "{commands:?}");
    pages_render(&tree);
    completions_load(&tree);
    for name in [
        "layerd.service",
        "layerd.socket",
        "layerd@.socket",
        "layerd-docker.socket",
        "layerd-csi.socket",
        "layerd-nri.service",
    ] {
        let packed = read_to_string(tree.join("usr/lib/systemd/system").join(name));
        assert_eq!(packed.unwrap(), read_to_string(deploy(name)).unwrap());
    }
    for name in ["layerd.service", "layerd.socket"] {
        let packed = read_to_string(tree.join("usr/lib/systemd/user").join(name));
        let own = read_to_string(deploy("user").join(name));
        assert_eq!(packed.unwrap(), own.unwrap());
    }
    instance_is_the_service(&tree);
}

/// The unit of instances is layerd.service but for what belongs to an instance.
fn instance_is_the_service(tree: &Path) {
    let service = read_to_string(deploy("layerd.service")).unwrap();
    let instance = read_to_string(tree.join("usr/lib/systemd/system/layerd@.service")).unwrap();
    let settings = |unit: &str| -> Vec<String> {
        let lines = unit.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    };
    let (service, instance) = (settings(&service), settings(&instance));
    assert_eq!(service.len(), instance.len());
    let changed = service
        .iter()
        .zip(&instance)
        .filter(|(one, two)| one != two);
    let changed: Vec<_> = changed.map(|(_, line)| line.as_str()).collect();
    let data = "/var/lib/containerd/io.containerd.snapshotter.v1.layerd-%i";
    let wanted = [
        "Description=layerd, the storage daemon for containers: instance %i",
        "Requires=layerd@%i.socket",
        "After=layerd@%i.socket local-fs.target zfs-import.target",
        &format!("RequiresMountsFor={data}"),
        &format!(
            "ExecStart=/usr/bin/layerd --config /etc/layerd/%i.toml --socket /run/layerd/%i.sock --root {data}"
        ),
        "Also=layerd@%i.socket",
    ];
    assert_eq!(changed, wanted);
}

/// Debian's own verdict, and what it leaves to dpkg.
#[test]
fn root_package_is_as_debian_wants_it() {
    let scratch = Scratch::new();
    let built = package(scratch.path());
    let built = scratch.path().join(built.trim_start_matches('/'));
    let mut lintian = Command::new("lintian");
    lintian.args([
        "--allow-root",
        "--fail-on",
        "error,warning",
        "--tag-display-limit",
        "0",
        // Left out of this package to save time; that of `make package` is compressed.
        "--suppress-tags",
        "uses-no-compression-for-control-tarball,uses-no-compression-for-data-tarball",
    ]);
    assert_eq!(output(lintian.arg(&built)), "");
    let mut sums = Command::new("sh");
    let check = "dpkg-deb --raw-extract \"$0\" tree && cd tree && md5sum --quiet --check DEBIAN/md5sums && wc -l <DEBIAN/md5sums";
    let count = output(
        sums.args(["-euc", check])
            .arg(&built)
            .current_dir(scratch.path()),
    );
    assert!(count.trim().parse::<usize>().unwrap() > 50, "{count}");
}

fn deploy(name: &str) -> PathBuf {
    let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
    Path::new(deploy).join(name)
}

fn pages_render(tree: &Path) {
    let script = "
        for page in \"$0\"/usr/share/man/*/*; do
            text=$(man --warnings --local-file \"$page\" 2>&1 >/dev/null)
            [ -z \"$text\" ] || echo \"$page: $text\"
        done
        man --local-file \"$0/usr/share/man/man8/layerd.8.gz\"";
    let mut sh = Command::new("sh");
    sh.env("LC_ALL", "C.UTF-8").env("MANWIDTH", "80");
    let said = output(sh.args(["-euc", script]).arg(tree));
    assert!(said.starts_with("layerd(8)"), "{said}");
    assert!(said.contains("layerd-fsck(8)"), "{said}");
}

fn completions_load(tree: &Path) {
    let share = tree.join("usr/share");
    let bash = "
        source \"$0\"
        COMP_WORDS=(layerctl snapshot la) COMP_CWORD=2 COMP_TYPE=9
        _clap_complete_layerctl layerctl la snapshot
        echo \"${COMPREPLY[@]}\"";
    let path = format!("{}:/usr/bin:/bin", tree.join("usr/bin").display());
    let file = share.join("bash-completion/completions/layerctl");
    let said = output(
        Command::new("bash")
            .env("PATH", &path)
            .args(["-euc", bash])
            .arg(file),
    );
    assert_eq!(said, "label\n");
    let file = share.join("zsh/vendor-completions/_layerctl");
    output(Command::new("zsh").arg("-n").arg(file));
    let fish = "source $argv[1]; complete --do-complete 'layerctl snapshot la'";
    let file = share.join("fish/vendor_completions.d/layerctl.fish");
    let mut command = Command::new("fish");
    command.env("PATH", &path);
    let said = output(command.args(["--no-config", "--command", fish]).arg(file));
    assert!(said.starts_with("label"), "{said}");
}
