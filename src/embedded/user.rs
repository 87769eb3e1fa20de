use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::error::EmbeddedError;

/// Who the server runs as when we are root, which PostgreSQL refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl User {
    /// None when we are not root: the server runs as we do.
    pub(super) fn choose() -> Result<Option<Self>, EmbeddedError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        // initdb wants a user that has a name.
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let user = ["postgres", "nobody"].iter().find_map(|name| Self::find(&passwd, name));
        user.map(Some).ok_or(EmbeddedError::NoUser)
    }

    fn find(passwd: &str, name: &str) -> Option<Self> {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            if fields.next() != Some(name) {
                return None;
            }
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            (uid != 0).then(|| Self { name: name.to_owned(), uid, gid })
        })
    }

    /// Whether the user may enter a directory and all above it.
    pub(super) fn check_reach(&self, directory: &Path) -> Result<(), EmbeddedError> {
        for ancestor in directory.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty()) {
            let metadata = std::fs::metadata(ancestor).map_err(|source| EmbeddedError::Prepare {
                doing: "look at",
                path: ancestor.to_owned(),
                source,
            })?;
            let bit = match metadata {
                ref m if m.uid() == self.uid => 0o100,
                ref m if m.gid() == self.gid => 0o010,
                _ => 0o001,
            };
            if metadata.permissions().mode() & bit == 0 {
                return Err(EmbeddedError::Closed { user: self.name.clone(), closed: ancestor.to_owned() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_and_root_is_none() {
        let passwd =
            "root:x:0:0::/root:/bin/sh\npostgres-x:x:7:7::/:/bin/sh\npostgres:x:105:112:PostgreSQL:/v:/bin/sh\n";
        let expected = User { name: "postgres".to_owned(), uid: 105, gid: 112 };
        assert_eq!(User::find(passwd, "postgres"), Some(expected));
        assert_eq!(User::find(passwd, "root"), None);
        assert_eq!(User::find("nobody:x", "nobody"), None);
    }

    #[test]
    fn a_closed_directory_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let closed = directory.path().join("closed");
        let inside = closed.join("inside");
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o711)).unwrap();
        std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
        let stranger = User { name: "stranger".to_owned(), uid: u32::MAX - 7, gid: u32::MAX - 7 };
        let refused = stranger.check_reach(&inside).unwrap_err();
        assert!(matches!(refused, EmbeddedError::Closed { closed: named, .. } if named == closed));
    }
}
