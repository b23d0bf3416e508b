//! Clients that are not Docker, and restarts in the middle of what they send.

use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::net::UnixListener;

use layerd_integration::Activated;
use layerd_integration::process::{WAIT_LIMIT, wait_until};
use nix::sys::signal::Signal;
use serde_json::json;

use super::restarts::{Connected, Node, request};

/// Waits until the only connection holds as many bytes that layerd has not taken.
fn unread(node: &Node, bytes: usize) {
    let mut last = Vec::new();
    wait_until(&format!("{bytes} bytes to be left"), WAIT_LIMIT, || {
        last = node.store.unread();
        last == [u64::try_from(bytes).unwrap()]
    });
}

fn list() -> String {
    request("List", &json!({}))
}

#[test]
fn root_content_that_a_client_was_asked_for_is_no_call_of_its_own() {
    let node = Node::new();
    let mut daemon = node.start();
    let mut connected = Connected::new();
    let content = request("Create", &json!({ "Name": "data" }));
    let head = format!(
        "POST /VolumeDriver.Create HTTP/1.1\r\nHost: p\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        content.len() + 2
    );
    connected.send(&head);
    assert!(connected.head()[0].contains(" 100 "));
    connected.send(&content);
    unread(&node, head.len() + content.len());
    daemon.end(Signal::SIGKILL);
    daemon = node.start();
    connected.send("{}");
    assert_eq!(connected.answer().0, 400);
    connected.send(&list());
    assert_eq!(connected.answer(), (200, json!({ "Volumes": [] })));
    daemon.end(Signal::SIGTERM);
}

#[test]
fn root_a_call_that_was_sent_behind_another_one_outlives_layerd() {
    let node = Node::new();
    let mut daemon = node.start();
    let mut connected = Connected::new();
    let create = request("Create", &json!({ "Name": "data" }));
    let (head, rest) = create.split_at(create.len() - 5);
    connected.send(&(list() + head));
    assert_eq!(connected.answer(), (200, json!({ "Volumes": [] })));
    unread(&node, head.len());
    daemon.end(Signal::SIGKILL);
    daemon = node.start();
    connected.send(rest);
    assert_eq!(connected.answer(), (200, json!({})));
    connected.send(&(list() + &list()));
    for _ in 0..2 {
        let (status, all) = connected.answer();
        assert_eq!((status, &all["Volumes"][0]["Name"]), (200, &json!("data")));
    }
    daemon.end(Signal::SIGTERM);
}

/// A client that takes its time, and layerd does not have the begin of its call any more.
#[test]
fn root_a_call_that_was_lost_in_part_ends_its_connection() {
    let node = Node::new();
    let mut daemon = node.start();
    let mut connected = Connected::new();
    let create = request("Create", &json!({ "Name": "data" }));
    connected.send(&create[..create.len() - 5]);
    unread(&node, 1);
    daemon.end(Signal::SIGKILL);
    daemon = node.start();
    connected.ends();
    daemon.end(Signal::SIGTERM);
}

#[test]
fn root_a_client_that_ends_its_half_is_answered() {
    let node = Node::new();
    let mut daemon = node.start();
    let mut connected = Connected::new();
    connected.send(&request("Create", &json!({ "Name": "data" })));
    connected.0.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(connected.answer(), (200, json!({})));
    connected.ends();
    // One that has not said all is not waited for.
    let mut connected = Connected::new();
    connected.send(&list()[..20]);
    connected.0.get_ref().shutdown(Shutdown::Write).unwrap();
    connected.ends();
    daemon.end(Signal::SIGTERM);
}

#[test]
fn root_other_protocols_end_their_connection() {
    let node = Node::new();
    let mut daemon = node.start();
    let mut connected = Connected::new();
    connected.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    connected.ends();
    let mut connected = Connected::new();
    connected
        .0
        .get_mut()
        .write_all(b"\x16\x03\x01\x02\n\n")
        .unwrap();
    assert_eq!(connected.answer().0, 400);
    connected.ends();
    daemon.end(Signal::SIGTERM);
}

/// The rest of a request that was refused would be read as another one.
#[test]
fn root_an_answer_to_a_part_of_a_request_is_the_last() {
    let node = Node::new();
    let mut daemon = node.start();
    let mut connected = Connected::new();
    connected.send(&list().replace("List", "Nothing"));
    assert_eq!(connected.answer().0, 404);
    connected.send(&list());
    assert_eq!(connected.answer().0, 200, "that one was whole");
    let head = "POST /VolumeDriver.Create HTTP/1.1\r\nHost: p\r\nContent-Length: 1000000\r\n\r\n";
    connected.send(&format!("{head}{}", " ".repeat(70_000)));
    assert_eq!(connected.answer().0, 413);
    connected.ends();
    node.kept(0);
    daemon.end(Signal::SIGTERM);
}

#[test]
fn root_connections_end_with_the_plugin_s_socket() {
    let node = Node::new();
    let mut daemon = node.start();
    let mut connected = Connected::new();
    connected.send(&list());
    assert_eq!(connected.answer().0, 200);
    node.kept(1);
    daemon.end(Signal::SIGTERM);
    let [root, log, own] = ["root", "log", "own.sock"].map(|name| node.scratch.path().join(name));
    let own = UnixListener::bind(own).unwrap();
    let mut daemon = Activated::start_keeping(&node.store, &own, "layerd.socket", &root, &log, &[]);
    connected.ends();
    node.kept(0);
    daemon.end(Signal::SIGTERM);
}

#[test]
fn root_hundreds_of_idle_connections_are_served_on() {
    let node = Node::new();
    let mut daemon = node.start();
    let mut all: Vec<Connected> = (0..300).map(|_| Connected::new()).collect();
    node.kept(all.len());
    daemon.end(Signal::SIGKILL);
    daemon = node.start();
    for connected in &mut all {
        connected.send(&list());
        assert_eq!(connected.answer().0, 200);
    }
    drop(all);
    node.kept(0);
    daemon.end(Signal::SIGTERM);
}
