//! Pruning: a plan that a person reads, then that plan and nothing else.

use std::io::Write;
use std::process::{Command, Stdio};

use layerd_integration::snapshots::channel;
use layerd_proto::layerd::v1::volumes_client::VolumesClient;
use layerd_proto::layerd::v1::{ExecutePruneRequest, PlanPruneRequest};
use tonic::transport::Channel;

use super::{Ended, World, on_runtime, text};

/// Runs calls on a connection of their own.
fn call<T>(world: &World, calls: impl AsyncFnOnce(&mut VolumesClient<Channel>) -> T) -> T {
    on_runtime(async {
        let mut client = VolumesClient::new(channel(world.daemon.socket().to_owned()));
        calls(&mut client).await
    })
}

/// Runs a command on a terminal and types `answer`.
pub(super) fn on_terminal(world: &World, arguments: &[&str], answer: &str) -> Ended {
    let command = world.command(arguments);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &words.join(" "), "/dev/null"]);
    terminal.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = terminal.spawn().unwrap();
    let mut keys = child.stdin.take().unwrap();
    keys.write_all(answer.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    drop(keys); // closed only now: the end of the input would end the terminal
    Ended {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        error: String::new(),
    }
}

#[test]
fn root_a_plan_is_executed_and_what_changed_is_passed_over() {
    let world = World::new();
    for name in ["stays", "changes", "goes", "vanishes", "replaced"] {
        world.create_with(name, name);
    }
    let all = PlanPruneRequest {
        include_named: true,
        ..PlanPruneRequest::default()
    };
    let plan = call(&world, async |client| client.plan_prune(all).await);
    let plan = plan.unwrap().into_inner();
    assert_eq!(plan.candidates.len(), 5);
    assert!(plan.candidates.iter().all(|one| !one.reason.is_empty()));
    assert_eq!(world.names(&[]).len(), 5, "a plan changes nothing");

    world.run(&["volume", "label", "changes", "in=use"]);
    world.run(&["volume", "rename", "stays", "renamed"]);
    world.run(&["volume", "rm", "vanishes", "replaced"]);
    world.create_with("replaced", "new");
    world.create_with("later", "later");
    let execute = ExecutePruneRequest { id: plan.id };
    let again = execute.clone();
    let outcomes = call(&world, async |client| client.execute_prune(execute).await);
    let outcomes = outcomes.unwrap().into_inner().outcomes;
    let skipped: Vec<(&str, bool)> = outcomes
        .iter()
        .map(|outcome| (outcome.name.as_str(), !outcome.skipped.is_empty()))
        .collect();
    let wanted = [
        ("stays", true),
        ("changes", true),
        ("goes", false),
        ("vanishes", true),
        ("replaced", true),
    ];
    assert_eq!(skipped, wanted);
    let left = ["renamed", "changes", "replaced", "later"];
    assert_eq!(world.names(&[]), left);
    assert_eq!(world.read("replaced"), "new");
    let twice = call(&world, async |client| client.execute_prune(again).await);
    assert_eq!(twice.unwrap_err().code(), tonic::Code::FailedPrecondition);
    world.run(&["volume", "undelete", "goes"]);
    assert_eq!(world.read("goes"), "goes", "pruned is removed, not deleted");
}

#[test]
fn root_nothing_is_pruned_without_consent() {
    let world = World::new();
    world.run(&["volume", "create", "named"]);
    let anonymous = world.run(&["volume", "create"]).trim().to_owned();
    let ended = world.ctl(&["volume", "prune"]);
    assert_eq!(ended.code, 5, "{ended:?}");
    assert!(ended.error.contains("--force"), "{ended:?}");
    assert!(
        ended.out.contains(&anonymous) && !ended.out.contains("named"),
        "{ended:?}"
    );
    let no = on_terminal(&world, &["volume", "prune"], "n\n");
    assert!(no.code == 5 && no.out.contains("[y/N]"), "{no:?}");
    assert_eq!(world.names(&[]).len(), 2);
    let yes = on_terminal(&world, &["volume", "prune"], "y\n");
    let plan = yes.out.find("REASON").unwrap();
    assert!(
        plan < yes.out.find("[y/N]").unwrap(),
        "shown before asked: {yes:?}"
    );
    assert!(
        yes.code == 0 && yes.out.contains(&format!("removed {anonymous}")),
        "{yes:?}"
    );
    assert_eq!(world.names(&[]), ["named"]);
    let nothing = world.run(&["volume", "prune"]);
    assert_eq!(nothing, "There is nothing to prune.\n");
}

#[test]
fn root_prune_chooses_by_name_and_label() {
    let world = World::new();
    world.run(&["volume", "create", "web", "-l", "app=web"]);
    world.run(&["volume", "create", "db", "-l", "app=db"]);
    world.run(&["volume", "create", "-l", "app=web"]);
    world.run(&["volume", "usage", "--exact", "web"]);
    let bytes = world.one(&["volume", "usage", "web"])["bytes"].clone();
    let choice = ["volume", "prune", "--all", "--filter", "label=app=web"];
    let plan = world.json(&[&choice[..], &["--dry-run"]].concat());
    assert_eq!((plan.len(), text(&plan[0], "name")), (2, "web".to_owned()));
    assert_eq!(plan[0]["bytes"], bytes);
    assert!(plan[1]["bytes"].is_null() && text(&plan[1], "reason").contains("anonymous"));
    assert_eq!(world.names(&[]).len(), 3);
    let done = world.json(&[&choice[..], &["-f"]].concat());
    assert!(
        done.len() == 2 && done.iter().all(|one| one["skipped"] == ""),
        "{done:?}"
    );
    assert_eq!(world.names(&[]), ["db"]);
    let plan = |filter: &str| {
        let arguments = ["volume", "prune", "-a", "-n", "--filter", filter];
        world.json(&arguments).len()
    };
    for (filter, count) in [
        ("label!=app=db", 0),
        ("label!=app=web", 1),
        ("until=1h", 0),
        ("until=0s", 1),
        ("until=2000-01-01T00:00:00Z", 0),
    ] {
        assert_eq!(plan(filter), count, "{filter}");
    }
    let refused = world.ctl(&["volume", "prune", "-n", "--filter", "name=db"]);
    assert_eq!(refused.code, 6, "{refused:?}");
}
