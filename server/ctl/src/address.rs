//! Addresses of sockets on the command line.

use std::path::PathBuf;

/// Socket of a daemon with the default configuration.
pub(crate) const ADDRESS: &str = "/run/layerd/layerd.sock";

/// Accepts a path, or a path after `unix://`.
pub(crate) fn parse(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("unix://").unwrap_or(text) {
        "" => Err("the path of a socket is wanted".to_owned()),
        path if path.contains("://") => Err("only unix sockets are served".to_owned()),
        path => Ok(PathBuf::from(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;
    use std::path::PathBuf;

    #[test]
    fn addresses_are_paths() {
        assert_eq!(
            parse("unix:///run/x.sock"),
            Ok(PathBuf::from("/run/x.sock"))
        );
        assert_eq!(parse("/run/x.sock"), Ok(PathBuf::from("/run/x.sock")));
        assert!(parse("").is_err());
        assert!(parse("unix://").is_err());
        assert!(parse("tcp://1.2.3.4").is_err());
    }
}
