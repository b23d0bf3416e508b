//! The folders of the host, and what can be attached.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::action::{Action, Item};
use super::client::Client;
use super::state::{State, observe};
use crate::content::Layer;

/// The snapshot that fills volumes, and the folder of it that does.
const IMAGE: &str = "base";
const INSIDE: &str = "/usr/share";

/// Folders to mount, and to mount at.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) path: PathBuf,
    /// Content that an image puts into an empty volume.
    pub(crate) inside: Arc<Layer>,
}

impl Host {
    /// Sees what an image puts into this empty volume when nothing goes wrong. It stays attached as
    /// `fill`.
    pub(crate) fn learn(&mut self, client: &mut Client, root: &Path, volume: &str) {
        let fill = Action::Attach(vec![self.filling("fill", volume, "")]);
        fill.perform(client, &State::default()).unwrap();
        let state = observe(client, root).unwrap();
        let vol = &state.volumes[volume];
        assert_eq!(vol.filled_from, format!("image {IMAGE} {INSIDE}"));
        self.inside = vol.content.clone().unwrap();
    }

    fn place(&self, name: &str) -> String {
        match name {
            "" => String::new(),
            name => self.path.join(name).to_str().unwrap().to_owned(),
        }
    }

    /// Attaches a volume; at a folder of the host if one is named.
    pub(crate) fn volume(&self, key: &str, source: &str, place: &str) -> Item {
        Item {
            key: key.into(),
            kind: "volume",
            source: source.into(),
            target: "/data",
            more: "",
            place: self.place(place),
            fill: None,
        }
    }

    /// Attaches a volume that is made if it is missing, and filled if it is empty.
    pub(crate) fn filling(&self, key: &str, source: &str, place: &str) -> Item {
        Item {
            target: INSIDE,
            more: ",on-missing=create",
            fill: Some((IMAGE.into(), self.inside.clone())),
            ..self.volume(key, source, place)
        }
    }

    /// Attaches a folder of the host that is missing.
    pub(crate) fn bind(&self, key: &str) -> Item {
        Item {
            kind: "bind",
            source: self.place("made/below"),
            target: "/bound",
            more: ",ro,on-missing=create",
            ..self.volume(key, "", "")
        }
    }

    pub(crate) fn tmpfs(&self, key: &str, place: &str) -> Item {
        Item {
            kind: "tmpfs",
            target: "/quick",
            ..self.volume(key, "", place)
        }
    }

    pub(crate) fn image(&self, key: &str) -> Item {
        Item {
            kind: "image",
            source: "middle".into(),
            target: "/tools",
            ..self.volume(key, "", "")
        }
    }
}
