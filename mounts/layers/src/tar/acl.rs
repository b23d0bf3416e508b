//! Access lists as text, the way GNU tar writes them, turned into what the kernel takes.

/// The value of a `system.posix_acl_*` attribute; `None` if the text is no list, or names users
/// or groups that are not numbers: what a name stands for here need not be what it stood for
/// where the archive was made.
pub(crate) fn parse(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let lines = text.split(['\n', ',']).map(|line| {
        let comment = line.find('#').unwrap_or(line.len());
        line[..comment].trim()
    });
    let lines = lines.filter(|line| !line.is_empty());
    let mut entries = lines.map(entry).collect::<Option<Vec<_>>>()?;
    entries.sort_unstable();
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    Some(value)
}

fn entry(line: &str) -> Option<(u16, u32, u16)> {
    let mut parts = line.split(':').map(str::trim);
    let (kind, who, permissions) = (parts.next()?, parts.next()?, parts.next()?);
    let who = parts.next().unwrap_or(who); // star adds the number behind the name
    let tag = match (kind, who.is_empty()) {
        ("user" | "u", true) => 0x01,
        ("user" | "u", false) => 0x02,
        ("group" | "g", true) => 0x04,
        ("group" | "g", false) => 0x08,
        ("mask" | "m", true) => 0x10,
        ("other" | "o", true) => 0x20,
        _ => return None,
    };
    let id = if who.is_empty() {
        u32::MAX
    } else {
        who.parse().ok()?
    };
    let mut bits = 0;
    for letter in permissions.chars() {
        bits |= match letter {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => return None,
        };
    }
    Some((tag, id, bits))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn lists_are_put_in_the_kernels_order() {
        let text = b"user::rw-,user:1000:r-x,group::r--,mask::rwx,other::---\n";
        let value = parse(text).expect("a list");
        assert_eq!(value.len(), 4 + 5 * 8);
        assert_eq!(value[..4], [2, 0, 0, 0]);
        assert_eq!(value[12..20], [2, 0, 5, 0, 0xe8, 3, 0, 0]);
        assert_eq!(
            parse(b"other::---,user:x:r-x:1000,mask::rwx,group::r--,user::rw-"),
            Some(value)
        );
    }

    #[test]
    fn names_and_nonsense_are_refused() {
        for text in [
            "user:anna:rw-",
            "user::rwz",
            "who::rw-",
            "user",
            "mask:5:rwx",
            "user:-1:r--",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
