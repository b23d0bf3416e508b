//! `layerctl report` of a node, read as text and looked at in a browser.

use std::fs;
use std::path::Path;
use std::process::Command;

use layerd_integration::process::output;
use layerd_integration::{Entry, Image, Layer, Version};

use super::World;
use super::containerds::Both;

const ROOT: &str = "/var/lib/containerd/io.containerd.snapshotter.v1.layerd";
/// Images of the node that is looked at.
const IMAGES: usize = 100;

#[test]
fn root_a_report_shows_images_volumes_and_the_trash() {
    let both = Both::new(Version::V2_1);
    both.furnish();
    let world = &both.world;
    let run = |arguments: &[&str]| {
        let ended = world.ctl(arguments);
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.out
    };
    run(&["volume", "create", "data"]);
    let mount = "type=volume,src=data,dst=/data";
    run(&["attach", "--owner", "container:web", "--mount", mount]);
    run(&["volume", "create", "old"]);
    run(&["volume", "rm", "old"]);
    let page = run(&["report", "--html", "-"]);
    for word in [
        "docker.io/test/image:1",
        "<td class=\"name\">data</td>",
        "container:web",
        "<td class=\"name\">old</td>",
        "unpacked",
    ] {
        assert!(page.contains(word), "{word}: {page}");
    }

    let file = world.scratch.path().join("page.html");
    let path = file.to_str().unwrap();
    run(&["report", "--html", path]);
    let first = fs::read_to_string(&file).unwrap();
    assert!(first.starts_with("<!DOCTYPE html>"), "{first}");
    let refused = world.ctl(&["report", "--html", path]);
    assert_eq!(refused.code, 5, "{refused:?}");
    assert!(refused.error.contains("it is there already"), "{refused:?}");
    let written = world.json(&["report", "--html", path, "--force"]);
    assert_eq!(written[0]["file"], path);
    assert_eq!(written[0]["bytes"], fs::metadata(&file).unwrap().len());
}

/// Looks at a page as a person does; `how` are options of the browser.
fn picture(page: &Path, name: &str, how: &[&str]) {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/evidence");
    let picture = docs.join(format!("{name}.png"));
    let profile = page.with_extension("profile");
    let mut chromium = Command::new("chromium");
    chromium
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
        ])
        .args(["--no-first-run", "--disable-background-networking"])
        .args([
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
        ])
        .args(["--enable-logging=stderr", "--log-level=0"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--screenshot={}", picture.display()))
        .args(how)
        .arg(format!("file://{}", page.display()));
    let ended = chromium
        .output()
        .expect("`make pictures` installs chromium");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
    assert!(!said.contains("CONSOLE"), "the browser complains: {said}");
    assert!(fs::metadata(&picture).unwrap().len() > 5000, "{said}");
}

/// Files of `kib` together that no compression makes smaller.
fn layer(name: &str, kib: usize) -> Layer {
    let mut state = name
        .bytes()
        .fold(7_u64, |sum, byte| sum * 31 + u64::from(byte))
        | 1;
    let mut bytes = Vec::with_capacity(kib << 10);
    while bytes.len() < kib << 10 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    vec![
        Entry::directory(name.to_owned()),
        Entry::file(format!("{name}/content"), bytes),
    ]
}

/// Images on five bases, containers, volumes, and what was removed.
fn furnish(both: &Both) {
    let world = &both.world;
    for number in 0..IMAGES {
        let base = format!("base-{}", number % 5);
        let frame = format!("frame-{}", number % 20);
        let name = format!("docker.io/shop/service-{number}:1.{number}");
        let app = format!("app-{number}");
        let layers = [
            layer(&base, 600 + 300 * (number % 5)),
            layer(&frame, 200 + 50 * (number % 20)),
            layer(&app, 20 + (number * number) % 700),
        ];
        let image = Image::build(&world.scratch.dir(&app), &name, &layers);
        let import = ["images", "import", "--snapshotter", "layerd"];
        both.containerd
            .ctr(&[&import[..], &[image.archive()]].concat());
        if number.is_multiple_of(4) {
            let create = ["containers", "create", "--snapshotter", "layerd", &name];
            both.containerd.ctr(&[&create[..], &[&app]].concat());
        }
    }
    for number in 0..12 {
        let name = format!("data-{number}");
        let ended = world.ctl(&["volume", "create", "--opt", "size=1g", &name]);
        let ended = match ended.code {
            0 => ended,
            // A disk whose file system limits no volume.
            _ => world.ctl(&["volume", "create", &name]),
        };
        assert_eq!(ended.code, 0, "{ended:?}");
        let path = world.ctl(&["volume", "inspect", "--format", "{{.Mountpoint}}", &name]);
        let file = Path::new(path.out.trim()).join("file");
        fs::write(file, vec![1; (number + 1) << 18]).unwrap();
        world.ctl(&["volume", "usage", &name]);
        let mount = format!("type=volume,src={name},dst=/data");
        let owner = format!("container:app-{}", number * 4);
        world.ctl(&["attach", "--owner", &owner, "--mount", &mount]);
    }
    for number in [3, 7, 11] {
        let name = format!("docker.io/shop/service-{number}:1.{number}");
        both.containerd.ctr(&["images", "rm", "--sync", &name]);
    }
}

/// Takes the pictures of docs/evidence.
#[test]
fn root_full_pictures_of_the_report() {
    let both = Both::new(Version::V2_1);
    furnish(&both);
    let page = both.world.scratch.path().join("page.html");
    let empty = both.world.scratch.path().join("empty.html");
    // With a root as others have it: that of a test says nothing.
    let write = |world: &World, page: &Path| {
        let ended = world.ctl(&["report", "--html", "-"]);
        assert_eq!(ended.code, 0, "{ended:?}");
        let root = world.daemon.root().display().to_string();
        fs::write(page, ended.out.replace(&root, ROOT)).unwrap();
    };
    write(&both.world, &page);
    write(&World::new(""), &empty);
    let dark = "--blink-settings=preferredColorScheme=0";
    let light = "--blink-settings=preferredColorScheme=1";
    picture(&page, "report", &["--window-size=1280,1500", light]);
    picture(&page, "report-dark", &["--window-size=1280,1100", dark]);
    picture(&page, "report-narrow", &["--window-size=500,1100", light]);
    picture(&empty, "report-empty", &["--window-size=1280,700", light]);
    let paper = both.world.scratch.path().join("page.pdf");
    let print = format!("--print-to-pdf={}", paper.display());
    let mut chromium = Command::new("chromium");
    chromium.args(["--headless", "--no-sandbox", "--disable-gpu", &print]);
    output(chromium.arg(format!("file://{}", page.display())));
    assert!(fs::read(&paper).unwrap().starts_with(b"%PDF"));
}
