//! A small filesystem that can be full: a tmpfs of its own, where the machine lets us mount one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::keeper;

/// What stays free when it is filled.
const LEFT: u64 = 128 << 10;

/// A mounted filesystem; goes when dropped (the keeper looks after the rest).
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
    bytes: u64,
}

impl Disk {
    /// Mounts one of at most so many bytes; none where this user may not mount.
    pub fn mount(name: &str, bytes: u64) -> Option<Self> {
        let dir = keeper::directory(name);
        let mounted = mount(&["-t", "tmpfs", "-o", &format!("size={bytes},mode=0755"), "tmpfs"], &dir);
        mounted.then_some(Self { dir, bytes })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// From now on there is no room: it becomes as large as what is in it.
    pub fn fill(&self) {
        let stat = rustix::fs::statvfs(&self.dir).expect("own filesystem");
        let used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize;
        self.resize(used + LEFT);
    }

    /// There is room again.
    pub fn free(&self) {
        self.resize(self.bytes);
    }

    fn resize(&self, bytes: u64) {
        let resized = mount(&["-o", &format!("remount,size={bytes}")], &self.dir);
        // Whoever writes meanwhile may have taken more than was counted: then it is full enough.
        if !resized {
            println!("disk: {} cannot become {bytes} bytes", self.dir.display());
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.dir).stderr(Stdio::null()).status().ok();
    }
}

fn mount(arguments: &[&str], dir: &Path) -> bool {
    let status = Command::new("mount").args(arguments).arg(dir).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
