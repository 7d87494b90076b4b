//! Small file systems for a test alone.

use std::path::PathBuf;
use std::process::Command;

use super::World;

/// A file system of the given kind on a loop device (or `tmpfs`), at `disk` in the world's directory. It goes with
/// the world.
pub fn mount(world: &World, kind: &str, megabytes: u64) -> PathBuf {
    assert!(nix::unistd::getuid().is_root(), "this story needs root, to mount a {kind}");
    let dir = world.root().join("disk");
    std::fs::create_dir(&dir).expect("our own directory");
    if kind == "tmpfs" {
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(&dir));
    } else {
        let image = world.root().join("disk.img");
        let file = std::fs::File::create(&image).expect("our own directory");
        file.set_len(megabytes << 20).expect("a sparse file");
        run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image));
        // The kernel gives the loop device back when the file system goes.
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&dir));
    }
    world.own(&dir);
    dir
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
