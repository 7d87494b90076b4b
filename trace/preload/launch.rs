//! Starts a program that the preload object cannot enter: `launch PROGRAM ARGV…` puts itself under the kernel's watch and
//! becomes that program. A program of its own, because between `posix_spawn` and the new program nothing of ours can run.

#![no_std]
#![no_main]
#![deny(unsafe_op_in_unsafe_fn)]

#[allow(dead_code)]
mod format;
#[allow(dead_code)]
mod sys;
mod watch;

use core::arch::naked_asm;

/// # Safety
/// Called by the kernel.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn _start() -> ! {
    #[cfg(target_arch = "x86_64")]
    naked_asm!("xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {main}", "ud2", main = sym main);
    #[cfg(target_arch = "aarch64")]
    naked_asm!("mov x29, #0", "mov x0, sp", "bl {main}", "brk #1", main = sym main);
}

unsafe extern "C" fn main(stack: *const usize) -> ! {
    // SAFETY: the kernel puts the number of arguments, then them and a null, then the environment and a null on the stack.
    unsafe {
        let count = *stack;
        let argv = stack.add(1).cast::<*const u8>();
        let envp = argv.add(count + 1);
        if count >= 2 {
            if let Some([_, _, nonce, sequence]) = numbers(envp) {
                watch::begin(nonce, sequence as u32);
            }
            sys::execve(*argv.add(1), argv.add(2), envp);
        }
    }
    sys::exit(127)
}

/// The numbers in the variable that names the observation.
unsafe fn numbers(mut envp: *const *const u8) -> Option<[u64; 4]> {
    // SAFETY: the list ends with null, its strings with a zero.
    unsafe {
        while !(*envp).is_null() {
            let entry = *envp;
            envp = envp.add(1);
            let name = format::VARIABLE;
            if (0..name.len()).all(|i| *entry.add(i) == name[i]) && *entry.add(name.len()) == b'=' {
                let mut at = entry.add(name.len() + 1);
                let mut numbers = [0u64; 4];
                let mut index = 0;
                while *at != 0 {
                    match (*at as char).to_digit(16) {
                        Some(digit) => numbers[index] = numbers[index] << 4 | digit as u64,
                        None if index < 3 => index += 1,
                        None => return None,
                    }
                    at = at.add(1);
                }
                return Some(numbers);
            }
        }
    }
    None
}

/// What the compiler takes for granted. A loop would be turned into a call of itself.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    for i in 0..count {
        // SAFETY: passed on to the caller. Volatile: so that it stays a loop.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
    }
    to
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    for i in 0..count {
        // SAFETY: as above.
        unsafe { to.add(i).write_volatile(value as u8) };
    }
    to
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    sys::exit(127)
}
