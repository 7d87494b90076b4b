//! The functions behind ours: the next ones of the same name, in the order of loading.

use crate::elf::{Info, Symbols, dl_iterate_phdr};
use core::ffi::{c_int, c_void};
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;

/// What a function says when there is none behind ours.
pub trait Missing {
    const VALUE: Self;
}

impl Missing for i32 {
    const VALUE: i32 = -1;
}
impl Missing for i64 {
    const VALUE: i64 = -1;
}
impl Missing for isize {
    const VALUE: isize = -1;
}
impl<T> Missing for *mut T {
    const VALUE: *mut T = core::ptr::null_mut();
}
impl<T> Missing for *const T {
    const VALUE: *const T = core::ptr::null();
}

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
}

pub fn errno() -> c_int {
    // SAFETY: every C library of this system has it, and it cannot fail.
    unsafe { *__errno_location() }
}

pub fn set_errno(value: c_int) {
    // SAFETY: as above.
    unsafe { *__errno_location() = value }
}

/// Where our own object is.
pub static RANGE: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// The objects after ours.
pub struct Behind {
    symbols: [Option<Symbols>; 64],
    count: usize,
    passed: bool,
}

impl Behind {
    pub fn new() -> Behind {
        let mut behind = Behind { symbols: [None; 64], count: 0, passed: false };
        // SAFETY: the callback gets what it expects and keeps no reference.
        unsafe { dl_iterate_phdr(collect, (&raw mut behind).cast()) };
        behind
    }

    pub fn find(&self, name: &str) -> usize {
        let found = self.symbols.iter().take(self.count).flatten().find_map(|s| s.function(name.as_bytes()));
        found.unwrap_or(0)
    }
}

/// For a function that is called before our constructor, or that came with a library that was loaded later.
#[cold]
#[inline(never)]
pub fn find_late(name: &str) -> usize {
    Behind::new().find(name)
}

unsafe extern "C" fn collect(info: *const Info, _: usize, data: *mut c_void) -> c_int {
    // SAFETY: both are valid while dl_iterate_phdr calls.
    let (info, behind) = unsafe { (&*info, &mut *data.cast::<Behind>()) };
    let (start, end) = info.range();
    if (start..end).contains(&(collect as *const () as usize)) {
        RANGE.iter().zip([start, end]).for_each(|(to, address)| to.store(address, Relaxed));
        behind.passed = true;
    } else if behind.passed
        && let Some(slot) = behind.symbols.get_mut(behind.count)
    {
        *slot = info.symbols();
        behind.count += 1;
    }
    0
}

/// Where our caller continues. To be called from the outermost function only, whose frame it looks at.
macro_rules! return_address {
    () => {{
        let address: usize;
        #[cfg(target_arch = "x86_64")]
        // SAFETY: functions keep frame pointers here (see build.rs); the return address is above the saved one.
        unsafe {
            core::arch::asm!("mov {}, [rbp + 8]", out(reg) address, options(nostack, readonly, preserves_flags));
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        unsafe {
            core::arch::asm!("ldr {}, [x29, 8]", out(reg) address, options(nostack, readonly, preserves_flags));
        }
        address
    }};
}

/// Defines functions that stand before the C library's.
///
/// `fn name(real, from; arguments) -> result { … }`: in the body, `real` is the function behind, `from` where the caller is.
macro_rules! hooks {
    ($($(#[$meta:meta])* fn $name:ident($real:ident, $from:ident; $($arg:ident: $ty:ty),*) -> $result:ty $body:block)*) => {
        mod addresses {
            use core::sync::atomic::AtomicUsize;
            $(#[allow(non_upper_case_globals)] pub static $name: AtomicUsize = AtomicUsize::new(0);)*
        }

        /// Looks up what is behind the functions of this file.
        pub fn resolve(behind: &$crate::real::Behind) {
            use core::sync::atomic::Ordering::Relaxed;
            $(addresses::$name.store(behind.find(stringify!($name)), Relaxed);)*
        }

        $(
            $(#[$meta])*
            /// # Safety
            /// That of the C library's function of this name.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($arg: $ty),*) -> $result {
                use core::sync::atomic::Ordering::Relaxed;
                let $from = return_address!();
                $crate::log::ready();
                let mut address = addresses::$name.load(Relaxed);
                if address == 0 {
                    address = $crate::real::find_late(stringify!($name));
                    if address == 0 {
                        $crate::real::set_errno(38);
                        return <$result as $crate::real::Missing>::VALUE;
                    }
                    addresses::$name.store(address, Relaxed);
                }
                type Function = unsafe extern "C" fn($($ty),*) -> $result;
                // SAFETY: a function of this name has this signature.
                let $real: Function = unsafe { core::mem::transmute::<usize, Function>(address) };
                // SAFETY: what the caller passes is passed on.
                unsafe { $body }
            }
        )*
    };
}
