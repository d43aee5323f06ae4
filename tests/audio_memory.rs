//! A two-hour recording must not need more than a few hundred megabytes, features included. Alone in its
//! process, so that nothing else counts.

use std::io::{self, Read, Seek, SeekFrom};

use stentor::audio::{Limits, log_mel};

const SECONDS: u64 = 7200;
const RATE: u32 = 48_000;

/// A WAV file of two hours, made as it is read.
struct Recording {
    header: Vec<u8>,
    len: u64,
    pos: u64,
}

impl Recording {
    fn new() -> Self {
        let data = SECONDS * u64::from(RATE) * 2;
        let mut header = b"RIFF".to_vec();
        header.extend((36 + data as u32).to_le_bytes());
        header.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
        header.extend(RATE.to_le_bytes());
        header.extend((RATE * 2).to_le_bytes());
        header.extend(b"\x02\0\x10\0data");
        header.extend((data as u32).to_le_bytes());
        let len = header.len() as u64 + data;
        Recording { header, len, pos: 0 }
    }
}

impl Read for Recording {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = buf.len().min((self.len - self.pos.min(self.len)) as usize);
        for byte in &mut buf[..n] {
            let pos = self.pos as usize;
            *byte = self.header.get(pos).copied().unwrap_or(if pos.is_multiple_of(2) {
                (pos / 7) as u8
            } else {
                (pos / 96_000 % 8) as u8
            });
            self.pos += 1;
        }
        Ok(n)
    }
}

impl Seek for Recording {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.pos = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::End(by) => self.len.saturating_add_signed(by),
            SeekFrom::Current(by) => self.pos.saturating_add_signed(by),
        };
        Ok(self.pos)
    }
}

/// Peak resident memory of this process in MB, where the system tells.
fn peak_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok().map(|kb| kb / 1024)
}

#[test]
fn two_hours_fit_in_a_few_hundred_megabytes() {
    let Some(before) = peak_mb() else {
        println!("skipped: this system does not tell a process its peak memory");
        return;
    };
    let (mel, decoded) = log_mel(Recording::new(), Some("meeting.wav"), &Limits::default(), 80).unwrap();
    assert_eq!((decoded.samples, mel.frames() as u64), (SECONDS * 16_000, SECONDS * 100));
    let peak = peak_mb().unwrap();
    println!("two hours: {peak} MB at most, {before} MB of it before");
    assert!(peak - before < 200, "{} MB", peak - before);
}
