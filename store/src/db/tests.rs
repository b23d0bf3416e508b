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
