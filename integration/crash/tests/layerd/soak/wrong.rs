//! Calls that no client should make, and clients that do not wait for the answer.

use std::time::Duration;

use layerd_integration::wire;
use layerd_proto::containerd::services::snapshots::v1::ListSnapshotsRequest;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::client::{Client, Wire};
use crate::Verdict;
use crate::operation::prepare;

/// Size of a message that is too large: more than 16 MiB.
const OVERSIZE: usize = 17 << 20;
/// Few of them, as they take most of the time.
const OVERSIZE_ONE_IN: usize = 100;

/// An invalid call, and the code of its refusal.
type Wrong = (
    &'static str,
    Code,
    fn(&mut Wire, &str) -> Result<(), Status>,
);

/// `prefix` begins the names of the client.
const WRONGS: [Wrong; 12] = [
    ("empty key", Code::InvalidArgument, |wire, _| {
        wire.snapshots.stat("").map(drop)
    }),
    ("key with NUL", Code::InvalidArgument, |wire, prefix| {
        let key = format!("{prefix}\0");
        wire.snapshots.prepare(&key, "", &[]).map(drop)
    }),
    ("long key", Code::InvalidArgument, |wire, prefix| {
        let key = format!("{prefix}{}", "k".repeat(4096));
        wire.snapshots.view(&key, "", &[]).map(drop)
    }),
    ("missing parent", Code::NotFound, |wire, prefix| {
        let key = format!("{prefix}heir");
        let parent = format!("{prefix}missing");
        wire.snapshots.prepare(&key, &parent, &[]).map(drop)
    }),
    ("missing key", Code::NotFound, |wire, prefix| {
        let (name, key) = (format!("{prefix}name"), format!("{prefix}missing"));
        wire.snapshots.commit(&name, &key, &[])
    }),
    ("long label", Code::InvalidArgument, |wire, prefix| {
        let (key, value) = (format!("{prefix}labelled"), "v".repeat(4096));
        wire.snapshots
            .prepare(&key, "", &[("label", &value)])
            .map(drop)
    }),
    ("bad filter", Code::InvalidArgument, |wire, _| {
        wire.snapshots.names(&["name=="]).map(drop)
    }),
    ("unknown field of a filter", Code::Ok, |wire, _| {
        let found = wire.snapshots.names(&["nonsense==1"])?;
        assert!(found.is_empty(), "{found:?}");
        Ok(())
    }),
    ("bad name of a volume", Code::InvalidArgument, |wire, _| {
        wire.volumes.update("../etc", ("a", "b"))
    }),
    ("snapshot of no volume", Code::NotFound, |wire, prefix| {
        let name = format!("soak{}", prefix.trim_end_matches(':'));
        let (from, to) = (format!("{name}-missing"), format!("{name}-copy"));
        wire.volumes.snapshot(&from, &to)
    }),
    ("unknown plan", Code::FailedPrecondition, |wire, _| {
        wire.volumes.execute_prune("nonsense").map(drop)
    }),
    ("layer for no snapshot", Code::NotFound, |wire, prefix| {
        wire.volumes.unpack(&format!("{prefix}missing"), b"nothing")
    }),
];

/// Makes a call that is wrong and requires its refusal.
pub(super) fn ask(client: &mut Client<'_>) -> Verdict {
    match client.worker.chance.below(WRONGS.len() + 2) {
        0 if client.worker.chance.below(OVERSIZE_ONE_IN) == 0 => oversize(client),
        0 => unknown_method(client),
        1 => not_an_archive(client),
        number => {
            let (what, wanted, call) = &WRONGS[number - 2];
            let prefix = client.worker.prefix.clone();
            let (answer, _) = client.insist(what, |wire| call(wire, &prefix))?;
            require(what, *wanted, &answer)
        }
    }
}

fn require(what: &str, wanted: Code, answer: &Result<(), Status>) -> Verdict {
    let code = answer.as_ref().err().map_or(Code::Ok, Status::code);
    if code == wanted {
        return Ok(());
    }
    Err(format!("{what}: {answer:?}, should be {wanted:?}"))
}

fn oversize(client: &mut Client<'_>) -> Verdict {
    let label = "v".repeat(OVERSIZE);
    let key = format!("{}large", client.worker.prefix);
    let (answer, _) = client.insist("message too large", |wire| {
        let prepared = wire.snapshots.prepare(&key, "", &[("label", &label)]);
        prepared.map(drop)
    })?;
    require("message too large", Code::ResourceExhausted, &answer)
}

fn unknown_method(client: &mut Client<'_>) -> Verdict {
    let method = "/containerd.services.snapshots.v1.Snapshots/Destroy";
    let socket = &client.site.socket;
    let (answer, _) = client.insist("unknown method", |_| {
        wire::raw(socket, method, b"\xff\xff").map(drop)
    })?;
    require("unknown method", Code::Unimplemented, &answer)
}

/// Its snapshot can only be removed, and is.
fn not_an_archive(client: &mut Client<'_>) -> Verdict {
    let key = client.worker.fresh_name();
    if !client.perform(&prepare(&key, ""))? {
        return Ok(());
    }
    let half = client.half_an_archive();
    let asked = client.ask("half an archive", |wire| wire.volumes.unpack(&key, &half))?;
    if let Some(answer) = asked {
        require("half an archive", Code::InvalidArgument, &answer)?;
    }
    client.perform(&crate::operation::remove(&key)).map(drop)
}

/// Makes a call and does not wait for its answer. What it was to make may come into being later,
/// so its name is not used again before all calls have ended.
pub(super) fn lose_patience(client: &mut Client<'_>) -> Verdict {
    let patience = client.patience();
    match client.worker.chance.below(3) {
        0 => hang_up_on_list(client, patience),
        1 => hang_up_on_prepare(client, patience),
        _ => hang_up_on_apply(client, patience),
    }
}

/// The answer to a call, if it came in time; CANCELLED stands for none.
fn late<T>(answer: Result<Result<T, Status>, tokio::time::error::Elapsed>) -> Result<(), Status> {
    match answer {
        Ok(answer) => answer.map(drop),
        Err(_) => Err(Status::cancelled("the client hung up")),
    }
}

fn hang_up_on_list(client: &mut Client<'_>, patience: Duration) -> Verdict {
    let asked = client.ask("List, hung up", |wire| {
        let request = ListSnapshotsRequest::default();
        let listed = wire
            .snapshots
            .call(async |client| timeout(patience, client.list(request)).await);
        late(listed)
    })?;
    allow(asked, "List")
}

fn hang_up_on_prepare(client: &mut Client<'_>, patience: Duration) -> Verdict {
    let key = abandon(client);
    let asked = client.ask("Prepare, hung up", |wire| {
        let message = wire::prepare(&key, "", &[]);
        let prepared = wire
            .snapshots
            .call(async |client| timeout(patience, client.prepare(message)).await);
        late(prepared)
    })?;
    allow(asked, "Prepare")
}

fn hang_up_on_apply(client: &mut Client<'_>, patience: Duration) -> Verdict {
    let key = abandon(client);
    let prepared = client.ask("Prepare", |wire| wire.snapshots.prepare(&key, "", &[]))?;
    if prepared.is_none() {
        return Ok(());
    }
    let archive = client.half_an_archive();
    let asked = client.ask("Apply, hung up", |wire| {
        wire.volumes.unpack_in(patience, &key, &archive)
    })?;
    match asked {
        Some(Err(status)) if status.code() == Code::InvalidArgument => Ok(()),
        asked => allow(asked, "Apply"),
    }
}

/// A name that is not used again.
fn abandon(client: &mut Client<'_>) -> String {
    client.worker.made += 1;
    let key = format!("{}left {}", client.worker.prefix, client.worker.made);
    client.abandoned.insert(key.clone());
    key
}

fn allow(asked: Option<Result<(), Status>>, what: &str) -> Verdict {
    match asked {
        None | Some(Ok(())) => Ok(()),
        Some(Err(status)) if status.code() == Code::Cancelled => Ok(()),
        Some(Err(status)) => Err(format!("{what} of an impatient client: {status:?}")),
    }
}
