//! The object that the loader puts into every observed program: it stands before the C library, and reports.
//!
//! It has no dependencies, so that the same file serves programs of every C library, and allocates nothing, so that it can
//! be called from anywhere: signal handlers, children of vfork, programs that have not begun.
//! `trace/build.rs` compiles it.

#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]

#[macro_use]
mod real;
mod elf;
mod environment;
// The observer uses the rest.
#[allow(dead_code)]
mod format;
mod hooks_directories;
mod hooks_environment;
mod hooks_exec;
mod hooks_files;
mod hooks_syscall;
mod log;
mod memory;
mod objects;
mod paths;
mod program;
mod report;
mod spawn;
mod sys;

#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: unsafe extern "C" fn(usize, *const *const u8, *const *const u8) = begin;

#[used]
#[unsafe(link_section = ".fini_array")]
static END: extern "C" fn() = log::end;

/// The GNU C library passes what `main` gets, others pass nothing: then the registers hold anything.
unsafe extern "C" fn begin(count: usize, argv: *const *const u8, envp: *const *const u8) {
    let is_passed = envp == environment::all() && count < 1 << 20 && argv.wrapping_add(count + 1) == envp;
    let argv = (is_passed && count > 0).then(|| {
        // SAFETY: the kernel has laid out the strings one after the other.
        unsafe {
            let (first, last) = (*argv, *argv.add(count - 1));
            core::slice::from_raw_parts(first, last as usize + paths::bytes(last).len() + 1 - first as usize)
        }
    });
    log::start(argv);
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // There is no way to go on, and none to say why.
    sys::exit(134)
}
