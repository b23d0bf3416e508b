//! Names of groups and hosts in a program that is linked with glibc statically.

use std::ffi::{CStr, c_char, c_int};

use nix::errno::Errno;

unsafe extern "C" {
    /// Of glibc (nss.h): overrides nsswitch.conf for one database, in this process.
    fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
}

/// Makes lookups use what is built into the program, `/etc/group` and for hosts `/etc/hosts` and DNS, whatever
/// nsswitch.conf names: glibc would load the machine's modules, which are of another glibc, and crash in them.
/// To be called before the first lookup.
///
/// # Errors
/// Those of glibc: ENOMEM.
pub fn look_up_without_modules() -> Result<(), Errno> {
    configure(c"group", c"files")?;
    configure(c"hosts", c"files dns")
}

fn configure(database: &CStr, services: &CStr) -> Result<(), Errno> {
    // SAFETY: both are strings that end in NUL and live through the call, which copies them.
    let done = unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
    Errno::result(done).map(drop)
}

#[cfg(test)]
mod tests {
    use nix::unistd::{Gid, Group};

    use super::*;

    #[test]
    fn groups_of_the_file_are_found_and_others_are_not() {
        look_up_without_modules().unwrap();
        let root = Group::from_name("root").unwrap().unwrap();
        assert_eq!(root.gid, Gid::from_raw(0));
        assert_eq!(Group::from_name("layerd-no-such-group").unwrap(), None);
    }
}
