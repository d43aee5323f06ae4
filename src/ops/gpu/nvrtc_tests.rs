//! Every kernel compiles for Turing, Ampere and Hopper, by the library that compiles them at run time and no GPU.
//!
//! `$STENTOR_TEST_NVRTC` is the folder of `libnvrtc.so.13`; without it the system's is looked for.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};

use super::source::{self, Source};

type Program = *mut c_void;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Text = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;

struct Nvrtc(*mut c_void);

impl Nvrtc {
    fn load() -> Option<Self> {
        let folder = std::env::var("STENTOR_TEST_NVRTC").map(|f| f + "/").unwrap_or_default();
        // It looks for its built-in functions by name alone: they are loaded before, from beside it.
        for file in ["libnvrtc-builtins.so.13.0", "libnvrtc-builtins.so.13"] {
            let name = CString::new(format!("{folder}{file}")).unwrap();
            // SAFETY: NVIDIA's library; it stays loaded.
            unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        }
        let name = CString::new(format!("{folder}libnvrtc.so.13")).unwrap();
        // SAFETY: NVIDIA's library; it stays loaded.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        (!handle.is_null()).then_some(Nvrtc(handle))
    }

    /// # Safety
    /// `F` is the type of the function of this name in nvrtc.h.
    unsafe fn function<F: Copy>(&self, name: &CStr) -> F {
        assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
        // SAFETY: looks a name up in a library that is loaded.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!found.is_null(), "NVRTC lacks {name:?}");
        // SAFETY: a function pointer of the caller's type, by the contract.
        unsafe { std::mem::transmute_copy(&found) }
    }

    /// The bytes of machine code, or what the compiler says.
    fn compile(&self, source: &Source, options: &[String]) -> Result<usize, String> {
        let text = CString::new(source.text()).unwrap();
        let options: Vec<CString> = options.iter().map(|o| CString::new(o.as_str()).unwrap()).collect();
        let options: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let mut program = std::ptr::null_mut();
        // SAFETY: nvrtc.h's functions by their types; texts end with zero and live through the calls, and the log is as
        // long as was told.
        unsafe {
            let none = std::ptr::null();
            let create: Create = self.function(c"nvrtcCreateProgram");
            assert_eq!(create(&raw mut program, text.as_ptr(), none, 0, none.cast(), none.cast()), 0);
            let compile: Compile = self.function(c"nvrtcCompileProgram");
            let done = compile(program, options.len() as c_int, options.as_ptr());
            let mut size = 0;
            let told: Size =
                self.function(if done == 0 { c"nvrtcGetCUBINSize" } else { c"nvrtcGetProgramLogSize" });
            assert_eq!(told(program, &raw mut size), 0);
            let mut log = vec![0u8; size];
            if done != 0 {
                let read: Text = self.function(c"nvrtcGetProgramLog");
                assert_eq!(read(program, log.as_mut_ptr().cast()), 0);
            }
            let destroy: Destroy = self.function(c"nvrtcDestroyProgram");
            assert_eq!(destroy(&raw mut program), 0);
            match done {
                0 => Ok(size),
                _ => Err(String::from_utf8_lossy(&log).into_owned()),
            }
        }
    }
}

#[test]
fn every_kernel_compiles_for_every_architecture() {
    let Some(nvrtc) = Nvrtc::load() else {
        println!("skipped: libnvrtc.so.13 is not here, so the kernels are not compiled for GPUs");
        return;
    };
    for source in &source::ALL {
        for capability in [(7, 5), (8, 6), (9, 0)] {
            match nvrtc.compile(source, &source::options(capability)) {
                Ok(bytes) => assert!(bytes > 1000, "{}: {bytes} bytes of code", source.stem),
                Err(log) => panic!("{} for {capability:?}:\n{log}", source.stem),
            }
        }
    }
    let broken = nvrtc.compile(&Source::planted("__global__ void f( {"), &source::options((9, 0)));
    assert!(broken.unwrap_err().contains("error"));
}

/// On cards where launches overlap nothing else keeps a kernel from reading what is not there yet.
#[test]
fn every_kernel_waits_for_those_before_it() {
    let mut kernels = 0;
    for source in &source::ALL {
        let text = source.text().replace('\\', " ");
        let heads = text.match_indices("KERNEL(").chain(text.match_indices("CROWDED("));
        let defined = |at: &usize| !text[..*at].ends_with("#define ");
        for at in heads.map(|(at, _)| at).filter(defined) {
            let body = text[at..].split_once('{').unwrap().1;
            let first: Vec<&str> = body.split(';').take(2).map(str::trim).collect();
            let waits = first[0] == "follow()" || (first[0].starts_with("fetch_") && first[1] == "follow()");
            assert!(waits, "{}: {}", source.stem, &text[at..at + 60]);
            kernels += 1;
        }
    }
    assert!(kernels > 20, "{kernels} are not all");
}

#[test]
fn kernels_are_found_by_their_names() {
    for (kernel, stem) in [("qlinear_few_1", "qlinear"), ("gate", "gate"), ("rms_norm", "rms_norm")] {
        assert_eq!(Source::of(kernel).map(|s| s.stem), Some(stem));
    }
    assert!(Source::of("gates").is_none() && Source::of("other").is_none());
}
