//! What commands say. A reader that has gone (`stentor models | head -1`) ends no command with a panic, as
//! `println!` would.

use std::io::{self, Write};

use anyhow::Context as _;

/// Nobody reads the output any more. Not a failure: the program ends quietly.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output any more")]
pub struct Unread;

/// Writes to standard output. Where its reader has gone the text is dropped, and the command's work and its
/// exit status stay what they are.
///
/// # Errors
/// The output cannot be written for another reason, such as a full disk.
pub fn print(text: &str) -> anyhow::Result<()> {
    match stream(text) {
        Err(error) if error.is::<Unread>() => Ok(()),
        other => other,
    }
}

/// Writes to standard output what is worth no more work once nobody reads it.
///
/// # Errors
/// [`Unread`] then; or the output cannot be written for another reason.
pub fn stream(text: &str) -> anyhow::Result<()> {
    deliver(&mut io::stdout().lock(), text)
}

fn deliver(to: &mut impl Write, text: &str) -> anyhow::Result<()> {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Unread.into()),
        other => other.context("cannot write the output"),
    }
}

/// A line on standard error, for people. Where that is closed there is nobody to tell.
pub fn note(line: &str) {
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn only_a_reader_that_has_gone_is_forgiven() {
        let gone = deliver(&mut Failing(io::ErrorKind::BrokenPipe), "x").unwrap_err();
        assert!(gone.is::<Unread>());
        let full = deliver(&mut Failing(io::ErrorKind::StorageFull), "x").unwrap_err();
        assert!(!full.is::<Unread>());
        assert_eq!(full.to_string(), "cannot write the output");
    }
}
