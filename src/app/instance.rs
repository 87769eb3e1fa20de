//! Who this process is: an id in `state_dir` that survives a restart, held by a lock that does not survive a crash.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

/// The instance, for as long as this value lives.
#[derive(Debug)]
pub struct Instance {
    /// Its id: the ledger gives a lease back at once to the instance that held it before a crash.
    pub id: Uuid,
    // Closing the file releases the lock.
    _lock: File,
}

/// `state_dir` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// The directory or the file in it cannot be made, read or written.
    #[error("cannot use state_dir: {path}: {source}; make the directory, or name another with `state_dir`")]
    Io {
        /// What could not be used.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another process holds it.
    #[error("another standpipe process uses state_dir {dir}; two instances need two directories")]
    Taken {
        /// The directory.
        dir: PathBuf,
    },
}

/// The file beside the instance that names the process that holds it.
const PID: &str = "pid";

impl Instance {
    /// Takes the instance that lives in `state_dir`, or makes one there.
    pub fn take(state_dir: &Path) -> Result<Self, InstanceError> {
        let path = state_dir.join("instance");
        let io = |source| InstanceError::Io { path: path.clone(), source };
        std::fs::create_dir_all(state_dir).map_err(io)?;
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
            rustix::io::Errno::WOULDBLOCK => InstanceError::Taken { dir: state_dir.to_owned() },
            other => io(other.into()),
        })?;
        let pid = state_dir.join(PID);
        std::fs::write(&pid, format!("{}\n", std::process::id()))
            .map_err(|source| InstanceError::Io { path: pid.clone(), source })?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(io)?;
        if let Ok(id) = text.trim().parse() {
            return Ok(Self { id, _lock: file });
        }
        // Absent, or torn by a crash in its first write: a new id costs one lease TTL at most.
        let id = Uuid::new_v4();
        file.set_len(0).and_then(|()| file.rewind()).map_err(io)?;
        file.write_all(format!("{id}\n").as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
        Ok(Self { id, _lock: file })
    }
}

/// The process that holds the instance in `state_dir`; none when none does.
pub fn holder(state_dir: &Path) -> Result<Option<i32>, InstanceError> {
    let path = state_dir.join("instance");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(InstanceError::Io { path, source }),
    };
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return Ok(None);
    }
    let path = state_dir.join(PID);
    let text = std::fs::read_to_string(&path).map_err(|source| InstanceError::Io { path, source })?;
    Ok(text.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_keeps_its_id_and_is_held_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = Instance::take(dir.path()).unwrap();
        assert!(matches!(Instance::take(dir.path()), Err(InstanceError::Taken { .. })));
        let id = first.id;
        assert_eq!(holder(dir.path()).unwrap(), i32::try_from(std::process::id()).ok());
        drop(first);
        assert_eq!(holder(dir.path()).unwrap(), None);
        assert_eq!(Instance::take(dir.path()).unwrap().id, id);
    }
}
