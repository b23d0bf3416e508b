//! The manifests, against the schemas of Kubernetes' API.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use layerd_integration::peers;
use layerd_integration::process::output;
use layerd_integration::scratch::profile;

/// The oldest and the newest release that they are held to.
const RELEASES: [&str; 2] = ["1.29.0", "1.37.0"];

fn layerctl(arguments: &[&str]) -> String {
    let mut command = Command::new(profile().join("layerctl"));
    output(command.args(["setup", "kubernetes"]).args(arguments))
}

#[test]
fn root_manifests_are_as_the_api_wants_them() {
    let dir = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/csi/validate.py");
    for (name, more) in [("host.yaml", &[][..]), ("pod.yaml", &["--with-layerd"])] {
        let path = dir.path().join(name);
        let arguments = [&["--registry", "registry.example", "--example"][..], more].concat();
        std::fs::write(&path, layerctl(&arguments)).unwrap();
        for release in RELEASES {
            let mut python = Command::new("python3");
            python.arg(script).arg(release).arg(&path);
            python.env("PYTHONPATH", peers::kubernetes_validate());
            let checked = output(&mut python);
            let kinds: BTreeSet<_> = checked.lines().collect();
            for kind in [
                "CSIDriver",
                "DaemonSet",
                "StorageClass",
                "VolumeSnapshotClass",
            ] {
                assert!(kinds.contains(kind), "{kind}: {checked}");
            }
        }
    }
    let bad = dir.path().join("bad.yaml");
    let text = layerctl(&[]).replace("attachRequired", "attachRequierd");
    std::fs::write(&bad, text).unwrap();
    let mut python = Command::new("python3");
    python.arg(script).arg(RELEASES[1]).arg(&bad);
    let refused = python
        .env("PYTHONPATH", peers::kubernetes_validate())
        .output()
        .unwrap();
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && why.contains("attachRequierd"),
        "{why}"
    );
}

#[test]
fn root_manifests_are_written_updated_and_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("kubernetes");
    let to = |more: &[&str]| layerctl(&[&["--dir", at.to_str().unwrap()][..], more].concat());
    let names = |at: &Path| {
        let entries = std::fs::read_dir(at).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<BTreeSet<_>>()
    };
    let written = to(&["--write"]);
    assert!(written.contains("kubectl apply -f"), "{written}");
    let all = ["daemonset.yaml", "driver.yaml", "rbac.yaml"];
    assert_eq!(names(&at), all.map(str::to_owned).into());
    assert!(to(&["--write"]).contains("is up to date"));
    let edited = at.join("rbac.yaml");
    let text = std::fs::read_to_string(&edited).unwrap();
    std::fs::write(&edited, format!("{text}# mine\n")).unwrap();
    let mut remove = Command::new(profile().join("layerctl"));
    remove
        .args(["setup", "kubernetes", "--remove", "--dir"])
        .arg(&at);
    assert!(!remove.output().unwrap().status.success(), "it was edited");
    assert!(edited.exists());
    std::fs::write(&edited, text).unwrap();
    to(&["--remove"]);
    assert!(!at.exists());
}
