//! Finds out whether layers can be images: makes a small one and mounts it.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use layerd_layers::apply::IMAGE_TOP;
use layerd_layers::erofs::{Attributes, Options, Writer};
use layerd_mounts::error::with_causes;
use layerd_mounts::mount::{self, ImageAccess, mount_image};
use layerd_mounts::user_namespace;
use nix::errno::Errno;

use super::Finding;
use crate::overlay::LayerForm;

const NAME: &str = "layers";

const ADVICE: &str = "set `layers = \"directories\"` under [overlayfs], or use Linux 6.12 or newer with \
                      EROFS (modprobe erofs), a disk with ext4, xfs or btrfs, and a layerd that is root on the machine";

/// Findings about the form of layers.
pub(super) struct Forms {
    pub(super) finding: Finding,
    /// Set if layers that are unpacked become images.
    pub(super) makes_images: bool,
}

/// Decides by the setting and the outcome of a trial, which `None` stands for if there was none, for
/// want of room.
pub(super) fn decide(form: LayerForm, tried: Option<Result<ImageAccess, String>>) -> Forms {
    let good = |detail: &str, makes_images| Forms {
        finding: Finding::good(NAME, detail),
        makes_images,
    };
    let has_labels = Path::new("/sys/fs/selinux/enforce").exists();
    match (form, tried) {
        (LayerForm::Directories, _) => good("directories", false),
        (LayerForm::Auto, _) if has_labels => good(
            "directories: files of images have no labels of SELinux",
            false,
        ),
        (_, Some(Ok(ImageAccess::File))) => good("images", true),
        (_, Some(Ok(ImageAccess::LoopDevice))) => good(
            "images, by loop devices: the kernel mounts no files here",
            true,
        ),
        (LayerForm::Auto, Some(Err(problem))) => good(
            &format!("directories: images cannot be mounted: {problem}"),
            false,
        ),
        (LayerForm::Auto, None) => good("directories: no room to try images", false),
        (LayerForm::Images, None) => good("images, not tried: there is no room", true),
        (LayerForm::Images, Some(Err(problem))) => Forms {
            finding: Finding::bad(NAME, format!("images cannot be mounted: {problem}"), ADVICE),
            makes_images: false,
        },
    }
}

/// Makes an image in a directory, and mounts it on `merged` there, in a mount namespace that ends with
/// the trial. Says why it failed.
pub(super) fn run(scratch: &Path) -> Result<ImageAccess, String> {
    let path = scratch.join("image");
    write(&path).map_err(|cause| with_causes(&*cause))?;
    let tried = mount::on_thread(|| try_mount(scratch, &path));
    let tried = tried.unwrap_or_else(|cause| Err(format!("cannot start a thread: {cause}")));
    let removed = fs::remove_file(&path);
    tried.and_then(|access| match removed {
        Ok(()) => Ok(access),
        Err(cause) => Err(cause.to_string()),
    })
}

fn write(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut writer = Writer::new(File::create(path)?, Options::default())?;
    let given = Attributes::directory();
    writer.directory(Writer::<File>::ROOT, IMAGE_TOP.as_bytes(), &given)?;
    writer.finish()?;
    Ok(())
}

fn try_mount(scratch: &Path, image: &Path) -> Result<ImageAccess, String> {
    mount::own_namespace().map_err(|cause| {
        format!("cannot make a mount namespace, which takes CAP_SYS_ADMIN: {cause}")
    })?;
    let file = File::open(image).map_err(|cause| cause.to_string())?;
    let target = scratch.join("merged");
    let access = mount_image(image, file.as_fd(), &target).map_err(|error| {
        match error.errno().map(Errno::from_raw) {
            Some(Errno::ENODEV) => "the kernel has no EROFS".to_owned(),
            Some(Errno::EPERM) if user_namespace::current().is_some() => {
                "layerd runs in a user namespace, and the kernel mounts EROFS for root of the machine \
                 alone"
                    .to_owned()
            }
            _ => with_causes(&error),
        }
    })?;
    match target.join(IMAGE_TOP).is_dir() {
        true => Ok(access),
        false => Err("a mounted image does not show its files".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use layerd_mounts::mount::ImageAccess;

    use super::decide;
    use crate::overlay::LayerForm;

    #[test]
    fn what_cannot_be_mounted_is_refused_only_if_it_was_asked_for() {
        let broken = || Some(Err("no".to_owned()));
        for (form, tried, refuses) in [
            (LayerForm::Directories, broken(), false),
            (LayerForm::Auto, broken(), false),
            (LayerForm::Images, broken(), true),
            (LayerForm::Images, None, false),
            (LayerForm::Images, Some(Ok(ImageAccess::LoopDevice)), false),
        ] {
            let forms = decide(form, tried);
            assert_eq!(forms.finding.refuses(), refuses, "{form:?}");
            let makes_images = form == LayerForm::Images && !refuses;
            assert_eq!(forms.makes_images, makes_images, "{form:?}");
        }
    }
}
