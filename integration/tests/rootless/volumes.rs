//! Volumes and attachments of a user.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use layerd_integration::namespace::USER;

use super::{World, owned, text};

#[test]
fn root_a_volume_outlives_its_attachments_and_a_kill() {
    let mut world = World::new();
    let target = owned(&world.scratch, "t/data");
    let shown = text(&target);
    let owner = ["--owner", "container:web"];
    let place = format!("/data={shown}");
    let attach = |world: &World, mount: &str| {
        let all = [
            &["attach"][..],
            &owner,
            &["--mount", mount, "--target", &place],
        ];
        world.layerctl(&all.concat())
    };
    let volume = "type=volume,src=data,dst=/data,on-missing=create";
    attach(&world, volume);
    world.within(&format!(
        "echo kept > {shown}/file; chown 1000:1000 {shown}/file"
    ));
    assert!(
        !target.join("file").exists(),
        "it is mounted in the namespace alone"
    );
    world.daemon.kill9();
    world.daemon.restart();
    assert_eq!(world.within(&format!("cat {shown}/file")), "kept\n");
    attach(&world, volume);
    world.layerctl(&[&["detach"][..], &owner].concat());
    assert_eq!(world.within(&format!("ls {shown}")), "");
    attach(&world, volume);
    assert_eq!(
        world.within(&format!("stat -c %u:%g {shown}/file")),
        "1000:1000\n"
    );
    world.layerctl(&[&["detach"][..], &owner].concat());
    world.layerctl(&["volume", "rm", "data"]);
    assert_eq!(world.daemon.problems(), None);
    world.daemon.assert_no_errors_logged();
    world.daemon.stop();
}

#[test]
fn root_binds_and_memory_are_attached_and_the_rest_is_refused_by_name() {
    let world = World::new();
    let [source, target] = ["source", "target"].map(|name| owned(&world.scratch, name));
    fs::write(source.join("file"), "mine").unwrap();
    let (from, shown) = (format!("src={}", text(&source)), text(&target));
    let place = format!("/data={shown}");
    let attach = [
        "attach",
        "--owner",
        "container:web",
        "--target",
        &place,
        "--mount",
    ];
    let run = |mount: &str| world.layerctl(&[&attach[..], &[mount]].concat());
    let refused = |mount: &str| world.refused(&[&attach[..], &[mount]].concat());
    let detach = || world.layerctl(&["detach", "--owner", "container:web"]);
    for options in ["", ",readonly"] {
        run(&format!("type=bind,{from},dst=/data{options}"));
        assert_eq!(world.within(&format!("cat {shown}/file")), "mine");
        let wrote = world.within(&format!("echo x > {shown}/new && echo yes || echo no"));
        assert_eq!(wrote, if options.is_empty() { "yes\n" } else { "no\n" });
        detach();
    }
    assert_eq!(fs::metadata(source.join("new")).unwrap().uid(), USER);
    run("type=tmpfs,dst=/data,tmpfs-size=1m");
    assert_eq!(world.within(&format!("stat -f -c %T {shown}")), "tmpfs\n");
    detach();
    let mapped = refused(&format!(
        "type=bind,{from},dst=/data,bind-idmap=match-user:5:6"
    ));
    for part in ["an id-mapped mount", "user namespace"] {
        assert!(mapped.contains(part), "{mapped}");
    }
    // Something of another mount namespace is mounted below it.
    let whole = refused("type=bind,src=/,dst=/data,bind-recursive=disabled");
    assert!(whole.contains("without the mounts below it"), "{whole}");
    run("type=bind,src=/,dst=/data");
    assert!(world.within(&format!("ls {shown}")).contains("etc"));
    detach();
    assert_eq!(world.daemon.problems(), None);
    world.daemon.assert_no_errors_logged();
}
