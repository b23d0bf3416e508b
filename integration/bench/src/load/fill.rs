//! Many snapshots, such as a machine has them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;
use tonic::Status;

use super::op::Client;
use super::{Caller, request};

/// Layers of an image, and the containers that run from it.
const LAYERS: usize = 10;
const CONTAINERS: usize = 10;
/// Snapshots of an image.
const IMAGE: usize = LAYERS + CONTAINERS;
/// Images that are made at a time.
const AT_ONCE: usize = 64;

impl Caller {
    /// Makes `count` snapshots: images of 10 layers with 10 containers each, under keys like those
    /// that containerd gives them.
    pub(crate) fn fill(&mut self, count: usize) {
        let client = &self.client;
        self.runtime.block_on(async {
            let next = Arc::new(AtomicUsize::new(0));
            let mut all = JoinSet::new();
            for _ in 0..AT_ONCE.min(count.div_ceil(IMAGE)) {
                all.spawn(images(client.clone(), next.clone(), count));
            }
            while let Some(done) = all.join_next().await {
                let done = done.expect("none of them panics");
                done.unwrap_or_else(|status| panic!("fill: {status}"));
            }
        });
    }
}

async fn images(mut client: Client, next: Arc<AtomicUsize>, count: usize) -> Result<(), Status> {
    loop {
        let first = IMAGE * next.fetch_add(1, Ordering::Relaxed);
        if first >= count {
            return Ok(());
        }
        image(&mut client, first, IMAGE.min(count - first)).await?;
    }
}

/// Makes the first `count` snapshots of an image and its containers, numbered from `first` on.
async fn image(client: &mut Client, first: usize, count: usize) -> Result<(), Status> {
    let mut top = String::new();
    for index in 0..count {
        let id = id(first + index);
        let number = first + index;
        if index >= LAYERS {
            let key = format!("k8s.io/{number}/{id}");
            client.prepare(request::prepare(&key, &top)).await?;
            continue;
        }
        let key = format!("k8s.io/{number}/extract-{number} sha256:{id}");
        let name = format!("k8s.io/{number}/sha256:{id}");
        client.prepare(request::prepare(&key, &top)).await?;
        client.commit(request::commit(&key, &name)).await?;
        top = name;
    }
    Ok(())
}

/// 64 hexadecimal digits, as chain ids and ids of containers have them.
fn id(number: usize) -> String {
    let word = |part: u64| {
        let seed = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        seed.wrapping_mul(2 * part + 1).rotate_left(31)
    };
    let words = [0, 1, 2, 3].map(word);
    words.iter().map(|word| format!("{word:016x}")).collect()
}
