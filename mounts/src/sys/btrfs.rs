//! Calls that btrfs alone has (linux/btrfs.h, ioctl-btrfs(2)). Btrfs numbers its transactions; each
//! item of its trees carries the number of the one that wrote it last.

#![expect(
    clippy::host_endian_bytes,
    reason = "the kernel answers in the order of bytes of the machine"
)]

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use rustix::ioctl::{Opcode, opcode};

const BTRFS: u8 = 0x94;
const SNAP_CREATE: Opcode = opcode::write::<Named>(BTRFS, 1);
const SUBVOL_CREATE: Opcode = opcode::write::<Named>(BTRFS, 14);
const SNAP_DESTROY: Opcode = opcode::write::<Named>(BTRFS, 15);
const TREE_SEARCH_V2: Opcode = opcode::read_write::<[u8; SEARCH_HEAD]>(BTRFS, 17);
const SUBVOL_GETFLAGS: Opcode = opcode::read::<u64>(BTRFS, 25);
const SUBVOL_SETFLAGS: Opcode = opcode::write::<u64>(BTRFS, 26);
const GET_SUBVOL_INFO: Opcode = opcode::read::<RawInfo>(BTRFS, 60);

const READ_ONLY: u64 = 1 << 1;

/// Number of the inode that is the top directory of a subvolume.
pub const TOP: u64 = 256;

/// struct `btrfs_ioctl_vol_args`.
#[repr(C)]
struct Named {
    fd: i64,
    name: [c_char; 4088],
}

impl Named {
    fn new(fd: i64, name: &CStr) -> Result<Self, Errno> {
        let mut named = Self {
            fd,
            name: [0; 4088],
        };
        let bytes = name.to_bytes();
        // One is left for the NUL.
        if bytes.len() >= named.name.len() {
            return Err(Errno::ENAMETOOLONG);
        }
        for (to, from) in named.name.iter_mut().zip(bytes) {
            *to = c_char::from_ne_bytes([*from]);
        }
        Ok(named)
    }
}

/// struct `btrfs_ioctl_get_subvol_info_args`.
#[repr(C)]
struct RawInfo {
    id: u64,
    name: [u8; 256],
    parent_id: u64,
    dir_id: u64,
    generation: u64,
    flags: u64,
    uuid: [u8; 16],
    parent_uuid: [u8; 16],
    received_uuid: [u8; 16],
    changed: u64,
    made: u64,
    sent: u64,
    received: u64,
    times: [[u64; 2]; 4],
    spare: [u64; 8],
}

/// Facts about a subvolume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubvolumeInfo {
    /// Number of the transaction that made it.
    pub made: u64,
    /// Number of the last transaction that changed an inode in it. Making a snapshot of it and
    /// setting it read-only change none.
    pub changed: u64,
    /// Set if it was made as a snapshot of another one.
    pub is_snapshot: bool,
}

/// Makes an empty subvolume in an open directory.
///
/// # Errors
/// `EEXIST` if the name is taken, `ENOTTY` if this is not btrfs.
pub fn create(folder: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    name_in(folder, SUBVOL_CREATE, &Named::new(0, name)?)
}

/// Makes a writable snapshot of the subvolume whose top directory `source` is. Commits a
/// transaction. Subvolumes inside the source are empty directories in it.
///
/// # Errors
/// As for [`create`].
pub fn snapshot(source: BorrowedFd<'_>, folder: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    name_in(
        folder,
        SNAP_CREATE,
        &Named::new(source.as_raw_fd().into(), name)?,
    )
}

/// Deletes a subvolume, whose space comes back in the background. Mounts inside it are detached
/// by the kernel; the caller looks for them first.
///
/// # Errors
/// `ENOTEMPTY` if another subvolume is inside, `EINVAL` if it is not a subvolume.
pub fn destroy(folder: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    name_in(folder, SNAP_DESTROY, &Named::new(0, name)?)
}

fn name_in(folder: BorrowedFd<'_>, request: Opcode, named: &Named) -> Result<(), Errno> {
    // SAFETY: the request reads one `btrfs_ioctl_vol_args`, whose layout `Named` has; its name ends
    // with a NUL; it outlives the call.
    let rc = unsafe { libc::ioctl(folder.as_raw_fd(), request.into(), &raw const *named) };
    Errno::result(rc).map(drop)
}

/// True if the subvolume whose top directory `top` is may not be written.
///
/// # Errors
/// `EINVAL` if `top` is not the top directory of a subvolume.
pub fn is_read_only(top: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(flags(top)? & READ_ONLY != 0)
}

/// Sets a subvolume read-only, or writable again; commits a transaction if that changes anything.
/// Descriptors that were opened for writing before still write.
///
/// # Errors
/// As for [`is_read_only`].
pub fn set_read_only(top: BorrowedFd<'_>, read_only: bool) -> Result<(), Errno> {
    let before = flags(top)?;
    let after = match read_only {
        true => before | READ_ONLY,
        false => before & !READ_ONLY,
    };
    if after == before {
        return Ok(());
    }
    // SAFETY: the request reads one u64, which outlives the call.
    let rc = unsafe { libc::ioctl(top.as_raw_fd(), SUBVOL_SETFLAGS.into(), &raw const after) };
    Errno::result(rc).map(drop)
}

fn flags(top: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut flags = 0_u64;
    // SAFETY: the request writes one u64, which outlives the call.
    let rc = unsafe { libc::ioctl(top.as_raw_fd(), SUBVOL_GETFLAGS.into(), &raw mut flags) };
    Errno::result(rc).map(|_| flags)
}

/// Describes the subvolume that `inside` is in.
///
/// # Errors
/// The kernel's; `ENOTTY` if this is not btrfs.
pub fn info(inside: BorrowedFd<'_>) -> Result<SubvolumeInfo, Errno> {
    let mut raw = MaybeUninit::<RawInfo>::zeroed();
    // SAFETY: the request writes one `btrfs_ioctl_get_subvol_info_args`, whose layout `RawInfo` has.
    let rc = unsafe { libc::ioctl(inside.as_raw_fd(), GET_SUBVOL_INFO.into(), raw.as_mut_ptr()) };
    Errno::result(rc)?;
    // SAFETY: every bit pattern is valid, and all of it was zeroed before the call.
    let raw = unsafe { raw.assume_init() };
    Ok(SubvolumeInfo {
        made: raw.made,
        changed: raw.changed,
        is_snapshot: raw.parent_uuid != [0; 16],
    })
}

/// Size of struct `btrfs_ioctl_search_args_v2`, which the results follow.
const SEARCH_HEAD: usize = 112;
const RESULTS: usize = 64 << 10;

/// struct `btrfs_ioctl_search_args_v2` with room for results.
#[repr(C)]
struct Search {
    tree: u64,
    objects: [u64; 2],
    offsets: [u64; 2],
    transactions: [u64; 2],
    kinds: [u32; 2],
    items: u32,
    spare: [u32; 9],
    room: u64,
    results: [u8; RESULTS],
}

/// Item of the tree of a subvolume.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    /// Number of the inode that it belongs to.
    pub inode: u64,
    /// Type, as in linux/btrfs_tree.h.
    pub kind: u32,
    /// Content, in the order of bytes of the disk: little endian.
    pub data: &'a [u8],
}

/// Shows `visit` the items of inodes, of the types 1 to `last_kind`, in all blocks of the tree of the
/// subvolume that were written by transaction `since` or later, in order; also older items that
/// share a block with newer ones. Cost: the blocks that were written since, not the size of the
/// tree. `keep_going` is asked every 64 KiB; answers false if it ended the work.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`.
pub fn each_item(
    inside: BorrowedFd<'_>,
    since: u64,
    last_kind: u32,
    keep_going: &dyn Fn() -> bool,
    visit: &mut dyn FnMut(Item<'_>),
) -> Result<bool, Errno> {
    let mut search = Box::new(Search {
        tree: 0,
        objects: [TOP, u64::MAX],
        offsets: [0, u64::MAX],
        transactions: [since, u64::MAX],
        kinds: [1, last_kind],
        items: u32::MAX,
        spare: [0; 9],
        room: RESULTS as u64,
        results: [0; RESULTS],
    });
    while keep_going() {
        search.items = u32::MAX;
        search.room = RESULTS as u64;
        // SAFETY: the request reads the head of `search` and writes at most `room` bytes behind
        // it, which are there; `search` outlives the call.
        let rc =
            unsafe { libc::ioctl(inside.as_raw_fd(), TREE_SEARCH_V2.into(), &raw mut *search) };
        Errno::result(rc)?;
        let Some((inode, kind, offset)) = show(&search, visit) else {
            return Ok(true);
        };
        // The next key: offsets are counted first, then types, then inodes.
        match (offset.checked_add(1), kind < last_kind) {
            (Some(offset), _) => search.start_at(inode, kind, offset),
            (None, true) => search.start_at(inode, kind.saturating_add(1), 0),
            (None, false) => search.start_at(inode.saturating_add(1), 1, 0),
        }
    }
    Ok(false)
}

impl Search {
    fn start_at(&mut self, inode: u64, kind: u32, offset: u64) {
        self.objects[0] = inode;
        self.kinds[0] = kind;
        self.offsets[0] = offset;
    }
}

/// Shows what was found, and answers the key of the last item, if there was one.
fn show(search: &Search, visit: &mut dyn FnMut(Item<'_>)) -> Option<(u64, u32, u64)> {
    const HEAD: usize = 32;
    let mut last = None;
    let mut rest = search.results.as_slice();
    for _ in 0..search.items {
        let (head, behind) = rest.split_at_checked(HEAD)?;
        let word = |at: usize| Some(u64::from_ne_bytes(head.get(at..at + 8)?.try_into().ok()?));
        let half = |at: usize| Some(u32::from_ne_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let (inode, offset, kind, length) = (word(8)?, word(16)?, half(24)?, half(28)?);
        let (data, behind) = behind.split_at_checked(usize::try_from(length).ok()?)?;
        visit(Item { inode, kind, data });
        last = Some((inode, kind, offset));
        rest = behind;
    }
    last
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::test_support::{LoopDisk, enter_private_mounts};

    #[test]
    fn structures_have_the_sizes_of_the_kernel() {
        assert_eq!(size_of::<Named>(), 4096);
        assert_eq!(size_of::<RawInfo>(), 504);
        assert_eq!(std::mem::offset_of!(Search, results), SEARCH_HEAD);
    }

    #[test]
    fn root_only_a_write_changes_a_snapshot_source() {
        enter_private_mounts();
        let disk = LoopDisk::btrfs();
        let folder = File::open(disk.path()).expect("open");
        create(folder.as_fd(), c"one").expect("create");
        let again = create(folder.as_fd(), c"one");
        assert_eq!(again, Err(Errno::EEXIST));
        let one = File::open(disk.path().join("one")).expect("open");
        let mut stale = File::create(disk.path().join("one/file")).expect("create");
        stale.write_all(b"before").expect("write");
        stale.sync_all().expect("sync");
        set_read_only(one.as_fd(), true).expect("freeze");
        assert_eq!(is_read_only(one.as_fd()), Ok(true));
        let frozen = info(one.as_fd()).expect("info");
        assert!(!frozen.is_snapshot);
        snapshot(one.as_fd(), folder.as_fd(), c"two").expect("snapshot");
        snapshot(one.as_fd(), folder.as_fd(), c"three").expect("snapshot");
        fs::read(disk.path().join("one/file")).expect("read");
        nix::unistd::syncfs(&folder).expect("sync");
        assert_eq!(info(one.as_fd()), Ok(frozen), "nothing was written");
        assert!(fs::write(disk.path().join("one/other"), "x").is_err());
        stale
            .write_all(b"after")
            .expect("an open descriptor still writes");
        stale.sync_all().expect("sync");
        let altered = info(one.as_fd()).expect("info");
        assert!(altered.changed > frozen.changed, "{altered:?} {frozen:?}");
        let two = File::open(disk.path().join("two")).expect("open");
        assert_eq!(is_read_only(two.as_fd()), Ok(false));
        assert!(info(two.as_fd()).expect("info").is_snapshot);
        let file = File::open(disk.path().join("one/file")).expect("open");
        assert_eq!(set_read_only(file.as_fd(), true), Err(Errno::EINVAL));
        destroy(folder.as_fd(), c"one").expect("destroy");
        assert!(!disk.path().join("one").exists());
    }

    #[test]
    fn root_a_search_shows_all_items_and_only_new_blocks() {
        const INODE: u32 = 1;
        enter_private_mounts();
        let disk = LoopDisk::btrfs();
        let folder = File::open(disk.path()).expect("open");
        create(folder.as_fd(), c"one").expect("create");
        let top = disk.path().join("one");
        for number in 0..2000 {
            fs::write(top.join(number.to_string()), "x").expect("write");
        }
        nix::unistd::syncfs(&folder).expect("sync");
        let count = |since: u64| {
            let (mut inodes, open) = (0, File::open(&top).expect("open"));
            let mut visit = |item: Item<'_>| inodes += u32::from(item.kind == INODE);
            let whole = each_item(open.as_fd(), since, INODE, &|| true, &mut visit);
            assert_eq!(whole, Ok(true));
            inodes
        };
        assert_eq!(count(0), 2001);
        let open = File::open(&top).expect("open");
        let changed = info(open.as_fd()).expect("info").changed;
        fs::write(top.join("late"), "x").expect("write");
        nix::unistd::syncfs(&folder).expect("sync");
        let new = count(changed + 1);
        assert!((1..500).contains(&new), "{new}");
        let stopped = each_item(open.as_fd(), 0, INODE, &|| false, &mut |_| ());
        assert_eq!(stopped, Ok(false));
    }
}
