//! Makes the RPM package of layerd from a tree of files, as `deploy/packages.sh` lays it out.
//!
//! Types of files follow from their paths: below `/etc` configuration that an upgrade does not replace,
//! below `/usr/share/doc` and `/usr/share/man` documentation. Owners are root, modes those of the tree, times the
//! one that is given, and names are sorted: the same tree gives the same bytes.

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::Parser;
use rpm::{
    BuildConfig, CompressionWithLevel, Dependency, FileOptions, FileOptionsBuilder, PackageBuilder,
    Scriptlet,
};

/// Text that `rpm -qi` shows.
const DESCRIPTION: &str = "\
Keeps container layers and volumes on disk and tells containerd how to mount them, as a proxy
snapshotter and differ. What it acknowledged survives crashes and power cuts.

Contains the daemon layerd, which the first call to its socket starts, and its command line
layerctl. `layerctl setup containerd` makes containerd use it.";

/// Makes the RPM package of a tree of files
#[derive(Debug, Parser)]
struct Arguments {
    /// Tree of the files, as they lie on the machine
    #[arg(long, value_name = "DIR")]
    tree: PathBuf,
    /// Folder of the scripts post.sh, preun.sh and postun.sh
    #[arg(long, value_name = "DIR")]
    scripts: PathBuf,
    /// Version, without the release, which is 1
    #[arg(long)]
    version: String,
    /// Architecture, as RPM names it
    #[arg(long)]
    arch: String,
    /// Time of everything, in seconds since 1970
    #[arg(long, value_name = "SECONDS")]
    date: u32,
    /// Level of gzip
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(0..=9))]
    level: u32,
    /// File to write
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let mut package = described(&arguments);
    scripts(&mut package, &arguments.scripts)?;
    add(&mut package, &arguments.tree, Path::new("/"))?;
    package.build()?.write_file(&arguments.output)?;
    Ok(())
}

/// Package without files.
fn described(arguments: &Arguments) -> PackageBuilder {
    let Arguments { version, arch, .. } = arguments;
    let summary = "Storage daemon for containers";
    let mut package = PackageBuilder::new("layerd", version, "Apache-2.0", arch, summary);
    let config = BuildConfig::v4()
        .source_date(arguments.date)
        // Every rpm since 2010 reads gzip.
        .compression(CompressionWithLevel::Gzip(arguments.level))
        .reserved_space(None);
    package.using_config(config).release("1");
    package
        .description(DESCRIPTION)
        .group("System Environment/Daemons")
        .build_host("layerd");
    // The programs are static: they need no library. Scripts do without systemd where it is not.
    for dependency in ["containerd", "e2fsprogs", "xfsprogs"] {
        package.recommends(Dependency::any(dependency));
    }
    package.order_with_requires(Dependency::any("systemd"));
    package
}

fn scripts(package: &mut PackageBuilder, dir: &Path) -> Result<(), Box<dyn Error>> {
    let text = |name: &str| {
        let path = dir.join(name);
        let text = fs::read_to_string(&path);
        let text = text.map_err(|cause| format!("{}: {cause}", path.display()))?;
        Ok::<_, String>(Scriptlet::new(text).prog(vec!["/bin/sh"]))
    };
    package.post_install_script(text("post.sh")?);
    package.pre_uninstall_script(text("preun.sh")?);
    package.post_uninstall_script(text("postun.sh")?);
    Ok(())
}

/// Adds what lies in a folder of the tree; `at` is its path on the machine.
fn add(package: &mut PackageBuilder, dir: &Path, at: &Path) -> Result<(), Box<dyn Error>> {
    let entries = fs::read_dir(dir).map_err(|cause| format!("{}: {cause}", dir.display()))?;
    let names: Result<Vec<_>, _> = entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect();
    let mut names = names?;
    names.sort();
    for name in names {
        let (from, to) = (dir.join(&name), at.join(&name));
        let shown = to.to_str().ok_or("a name is not UTF-8")?.to_owned();
        let metadata = fs::symlink_metadata(&from)?;
        let mode = u16::try_from(metadata.permissions().mode() & 0o7777)?;
        if metadata.is_dir() {
            if is_own(&to) {
                package.with_dir_entry(FileOptions::dir(shown).permissions(mode))?;
            }
            add(package, &from, &to)?;
        } else if metadata.is_file() {
            let options = marked(FileOptions::new(shown).permissions(mode), &to);
            package.with_file_contents(fs::read(&from)?, options)?;
        } else {
            return Err(format!("{}: neither a file nor a folder", from.display()).into());
        }
    }
    Ok(())
}

/// True for folders that no other package has.
fn is_own(path: &Path) -> bool {
    path.iter().any(|name| name == "layerd")
}

fn marked(options: FileOptionsBuilder, path: &Path) -> FileOptionsBuilder {
    if path.starts_with("/etc") {
        options.config().noreplace()
    } else if path.starts_with("/usr/share/licenses") {
        options.license()
    } else if path.starts_with("/usr/share/doc") || path.starts_with("/usr/share/man") {
        options.doc()
    } else {
        options
    }
}
