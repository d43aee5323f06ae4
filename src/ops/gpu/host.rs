//! Runs launches on the CPU: `kernels/host.cpp` compiled once by the C++ compiler, over memory of this process.

#![allow(unsafe_code)]

use std::ffi::{CString, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use super::{Address, Launch};

/// What `EXPORT` makes of a kernel.
type Entry = unsafe extern "C" fn(*const u32, u32, *mut *mut c_void);

struct Library(*mut c_void);

// SAFETY: a handle that is only looked names up in, under the lock below.
unsafe impl Send for Library {}

/// The fibers and the state of a launch are the library's own: one launch at a time.
static LIBRARY: OnceLock<Mutex<Library>> = OnceLock::new();

fn library() -> &'static Mutex<Library> {
    LIBRARY.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        let out = tempfile::tempdir().unwrap();
        let path = out.path().join("kernels.so");
        let mut compiler = Command::new("c++");
        compiler.args(["-std=c++17", "-O2", "-mf16c", "-shared", "-fPIC", "-DSTENTOR_HOST", "-x", "c++"]);
        let done = compiler.arg(folder.join("host.cpp")).arg("-o").arg(&path).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let name = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: a library that was just made of this project's sources; it stays loaded.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        assert!(!handle.is_null(), "the kernels for the CPU cannot be loaded");
        Mutex::new(Library(handle))
    })
}

/// Runs these launches, one after the other.
pub(crate) fn run(launches: &[Launch]) {
    // A test that failed within a launch leaves nothing that the next does not set anew.
    let library = library().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for launch in launches {
        let name = CString::new(format!("{}_host", launch.kernel)).unwrap();
        // SAFETY: looks a name up in a library that is loaded.
        let entry = unsafe { libc::dlsym(library.0, name.as_ptr()) };
        assert!(!entry.is_null(), "host.cpp does not export {}", launch.kernel);
        // SAFETY: every exported name has this type.
        let entry: Entry = unsafe { std::mem::transmute::<*mut c_void, Entry>(entry) };
        let mut pointers = launch.pointers();
        // SAFETY: one pointer for each argument; the addresses among them are those of the test's own memory.
        unsafe { entry(launch.grid.as_ptr(), launch.threads, pointers.as_mut_ptr()) };
    }
}

/// The address of values that kernels read.
pub(crate) fn at<T>(values: &[T]) -> Address {
    values.as_ptr() as Address
}

/// The address of values that kernels write.
pub(crate) fn at_mut<T>(values: &mut [T]) -> Address {
    values.as_mut_ptr() as Address
}
