use super::*;

#[test]
fn a_full_disk_is_not_damage() {
    let error = |errno| OpenError::from(io::Error::from_raw_os_error(errno)).of("db".into());
    let others = [libc::EMFILE, libc::EWOULDBLOCK];
    for errno in [libc::ENOSPC, libc::EDQUOT, libc::EROFS]
        .into_iter()
        .chain(others)
    {
        assert!(matches!(error(errno), Error::Io { .. }), "{errno}");
    }
    for errno in [libc::EIO, libc::ENOENT] {
        assert!(matches!(error(errno), Error::Damaged { .. }), "{errno}");
    }
}

impl Db {
    /// Makes a closed database that of a release without a write-ahead log.
    pub(crate) fn forget_log(folder: &Path) {
        let path = folder.join("db");
        let mut db = Self::open_sled(&path, Lacking::Refused).unwrap();
        db.meta.has_log = false;
        db.meta.log_salt = 0;
        db.meta.log_last = 0;
        db.apply(&Rows::new(), &db.meta).unwrap();
        db.flush().unwrap();
        drop(db);
        wait_until_released(&path.join("db")).unwrap();
        fs::remove_file(path.join(wal::NAME)).unwrap();
    }
}
