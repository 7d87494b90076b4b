//! The functions behind ours: the next ones of the same name, in the order of loading.

use crate::elf::{Info, Symbols, dl_iterate_phdr};
use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

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

/// The objects after ours, as they were when we began. Kept, because the loader's list is behind a lock, which a forked child
/// may find taken for ever.
struct Behind(UnsafeCell<[Option<Symbols>; MOST]>);

// SAFETY: written before the first other thread, and before anybody is told that it is there.
unsafe impl Sync for Behind {}

const MOST: usize = 64;
static BEHIND: Behind = Behind(UnsafeCell::new([None; MOST]));
static COUNT: AtomicUsize = AtomicUsize::new(0);

struct Collected {
    symbols: [Option<Symbols>; MOST],
    count: usize,
    passed: bool,
}

fn collected() -> Collected {
    let mut collected = Collected { symbols: [None; MOST], count: 0, passed: false };
    // SAFETY: the callback gets what it expects and keeps no reference.
    unsafe { dl_iterate_phdr(collect, (&raw mut collected).cast()) };
    collected
}

unsafe extern "C" fn collect(info: *const Info, _: usize, data: *mut c_void) -> c_int {
    // SAFETY: both are valid while dl_iterate_phdr calls.
    let (info, behind) = unsafe { (&*info, &mut *data.cast::<Collected>()) };
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

/// Looks at what is behind us. Called once, when we begin.
#[inline(never)]
pub fn begin() {
    let Collected { symbols, count, .. } = collected();
    // SAFETY: see the type.
    unsafe { *BEHIND.0.get() = symbols };
    COUNT.store(count, Release);
}

/// The address of the function behind ours; 0 if there is none.
#[inline(always)]
pub fn behind(known: &AtomicUsize, name: &str) -> usize {
    match known.load(Relaxed) {
        0 => find(known, name),
        address => address,
    }
}

#[cold]
#[inline(never)]
fn find(known: &AtomicUsize, name: &str) -> usize {
    let in_these =
        |symbols: &[Option<Symbols>]| symbols.iter().flatten().find_map(|s| s.function(name.as_bytes()));
    // SAFETY: see the type; what is counted is there.
    let first = in_these(unsafe { &(&*BEHIND.0.get())[..COUNT.load(Acquire)] });
    // It may have come with a library that was loaded later.
    let address = first.or_else(|| in_these(&collected().symbols)).unwrap_or(0);
    known.store(address, Relaxed);
    address
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

        $(
            $(#[$meta])*
            /// # Safety
            /// That of the C library's function of this name.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($arg: $ty),*) -> $result {
                let $from = return_address!();
                $crate::log::ready();
                let address = $crate::real::behind(&addresses::$name, stringify!($name));
                if address == 0 {
                    $crate::real::set_errno(38);
                    return <$result as $crate::real::Missing>::VALUE;
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
