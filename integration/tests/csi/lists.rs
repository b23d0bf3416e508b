//! Lists and their pages.

use layerd_proto::csi::v1 as pb;
use tonic::Code;

use super::client::{Client, Failed, create};
use super::world::World;

fn list(
    client: &mut Client,
    max_entries: i32,
    token: &str,
) -> Result<pb::ListVolumesResponse, Failed> {
    let request = pb::ListVolumesRequest {
        max_entries,
        starting_token: token.to_owned(),
    };
    client.run(async |client| client.controller.list_volumes(request).await)
}

fn ids(answer: &pb::ListVolumesResponse) -> Vec<String> {
    let volumes = answer
        .entries
        .iter()
        .map(|entry| entry.volume.as_ref().unwrap());
    volumes.map(|volume| volume.volume_id.clone()).collect()
}

#[test]
fn root_volumes_are_listed_in_pages_that_neither_repeat_nor_miss_one() {
    let mut world = World::new();
    world.ctl(0, &["volume", "create", "of-docker"]);
    assert_eq!(ids(&list(&mut world.client, 0, "").unwrap()).len(), 0);
    let mut all: Vec<_> = (0..5)
        .map(|number| {
            world
                .create(&create(&format!("pvc-{number}")))
                .unwrap()
                .volume_id
        })
        .collect();
    let whole = world.ten(|client| list(client, 0, "")).unwrap();
    assert_eq!(
        (ids(&whole), whole.next_token),
        (all.clone(), String::new())
    );
    let first = world.ten(|client| list(client, 2, "")).unwrap();
    assert_eq!(ids(&first), all[..2]);
    // One of the first page goes, and one comes.
    let request = pb::DeleteVolumeRequest {
        volume_id: all[1].clone(),
        ..pb::DeleteVolumeRequest::default()
    };
    world
        .client
        .run(async |client| client.controller.delete_volume(request).await)
        .unwrap();
    all.push(world.create(&create("pvc-5")).unwrap().volume_id);
    let (mut seen, mut token) = (ids(&first), first.next_token);
    while !token.is_empty() {
        let page = world.ten(|client| list(client, 2, &token)).unwrap();
        seen.extend(ids(&page));
        token = page.next_token;
    }
    assert_eq!(seen, all);
    for bogus in ["invalid-token", "+1", "01", "0"] {
        let refused = world.ten(|client| list(client, 0, bogus));
        refused.unwrap_err().is(Code::Aborted, bogus);
    }
    let negative = world.ten(|client| list(client, -1, ""));
    negative
        .unwrap_err()
        .is(Code::InvalidArgument, "max_entries: is -1");
}
