use super::*;

#[test]
fn a_full_disk_is_not_damage() {
    let error = |errno| OpenError::from(io::Error::from_raw_os_error(errno)).of("db".into());
    for errno in [libc::ENOSPC, libc::EDQUOT, libc::EROFS, libc::EMFILE] {
        assert!(matches!(error(errno), Error::Io { .. }), "{errno}");
    }
    for errno in [libc::EIO, libc::ENOENT] {
        assert!(matches!(error(errno), Error::Damaged { .. }), "{errno}");
    }
}
