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
mod format;
mod hooks_directories;
mod hooks_environment;
mod hooks_exec;
mod hooks_files;
mod hooks_syscall;
mod log;
mod objects;
mod paths;
mod program;
mod report;
mod spawn;
mod sys;

fn resolve() {
    let behind = real::Behind::new();
    hooks_files::resolve(&behind);
    hooks_directories::resolve(&behind);
    hooks_environment::resolve(&behind);
    hooks_exec::resolve(&behind);
    hooks_syscall::resolve(&behind);
}

#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

#[used]
#[unsafe(link_section = ".fini_array")]
static END: extern "C" fn() = log::end;

extern "C" fn begin() {
    log::ready();
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // There is no way to go on, and none to say why.
    // SAFETY: ends the process.
    unsafe { sys::exit_group(134) };
    loop {}
}
