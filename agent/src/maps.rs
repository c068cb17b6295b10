// SPDX-License-Identifier: GPL-2.0

//! The mappings of a process, from /proc/PID/maps and /proc/PID/smaps.

use crate::proc::lines;
use clap::ValueEnum;
use serde::{Serialize, Serializer};
use std::io::{self, Read};
use std::ops::Range;

/// The kind of memory that is mapped, as far as it matters for collapse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[cfg_attr(feature = "generate", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Private memory: heaps, stacks, anonymous mappings.
    Anon,
    /// Shared memory: memfd, System V, /dev/shm, shared anonymous mappings.
    Shmem,
    /// A file, mapped shared or private.
    File,
    /// Special mappings of the kernel, and hugetlb, which are never collapsed.
    #[value(skip)]
    Other,
}

/// The advice on huge pages that the owner of a mapping has given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "generate", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Advice {
    /// Nothing.
    None,
    /// MADV_HUGEPAGE.
    Huge,
    /// MADV_NOHUGEPAGE.
    Nohuge,
}

/// A mapping of a process; sizes in bytes.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "generate", derive(schemars::JsonSchema))]
pub struct Mapping {
    /// The addresses of the mapping.
    #[serde(serialize_with = "as_hex")]
    #[cfg_attr(feature = "generate", schemars(with = "String"))]
    pub range: Range<u64>,
    /// The kind of memory that is mapped.
    pub kind: Kind,
    /// The name of the mapping, as in /proc/PID/maps, or an empty string.
    pub name: String,
    /// How much of it is in memory.
    pub resident: u64,
    /// How much of it is swapped out.
    pub swapped: u64,
    /// How much of it is mapped by huge pages.
    pub huge: u64,
    /// Whether page faults and khugepaged may use huge pages there, by what sysfs says now.
    pub eligible: bool,
    /// The advice of the owner of the mapping.
    pub advice: Advice,
    /// Set if userfaultfd watches the mapping: then the kernel fills no holes there.
    pub watched: bool,
}

/// Writes a range in the format of /proc/PID/maps, which `--range` takes, too.
fn as_hex<S: Serializer>(range: &Range<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{:x}-{:x}", range.start, range.end))
}

/// Returns the part of a range within `bounds` that whole windows fill.
pub fn windows(range: &Range<u64>, size: u64, bounds: &Range<u64>) -> Range<u64> {
    let start = range.start.max(bounds.start);
    let end = range.end.min(bounds.end);
    let first = start.checked_next_multiple_of(size).unwrap_or(end);

    first..end - end % size
}

/// A line of /proc/PID/maps, of which each mapping has one in /proc/PID/smaps, too.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The addresses of the mapping.
    pub range: Range<u64>,
    private: bool,
    name: &'a [u8],
}

impl<'a> Line<'a> {
    /// Reads a line.
    pub fn read(line: &'a [u8]) -> Option<Self> {
        let mut rest = line;
        // The name follows after these, and may be empty or have spaces in it.
        let mut fields = [&b""[..]; 5];

        for field in &mut fields {
            let end = rest.iter().position(|byte| *byte == b' ');

            (*field, rest) = rest.split_at(end.unwrap_or(rest.len()));
            rest = rest.get(1..).unwrap_or_default();
        }
        let [range, permissions, ..] = fields;
        let dash = range.iter().position(|byte| *byte == b'-')?;

        Some(Self {
            range: address(range.get(..dash)?)?..address(range.get(dash + 1..)?)?,
            private: *permissions.get(3)? == b'p',
            name: rest.trim_ascii_start(),
        })
    }

    /// Returns the kind of the mapping.
    pub fn kind(&self) -> Kind {
        let begins = |starts: &[&str]| {
            starts
                .iter()
                .any(|start| self.name.starts_with(start.as_bytes()))
        };

        match self.name {
            b"" | b"[heap]" | b"[stack]" if self.private => Kind::Anon,
            _ if self.private && begins(&["[anon:"]) => Kind::Anon,
            _ if begins(&["[anon_shmem:"]) => Kind::Shmem,
            _ if begins(&["/memfd:", "/dev/shm/", "/dev/zero (deleted)", "/SYSV"]) => Kind::Shmem,
            _ if begins(&["/anon_hugepage", "/dev/hugepages/"]) => Kind::Other,
            _ if begins(&["/"]) => Kind::File,
            _ => Kind::Other,
        }
    }
}

fn address(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Calls `each` for the lines of a maps file. Stops at a line that is none.
pub fn read_maps(maps: impl Read, mut each: impl FnMut(&Line)) -> io::Result<()> {
    let mut valid = true;

    lines(maps, |line| match Line::read(line) {
        Some(line) => each(&line),
        None => valid = false,
    })?;
    match valid {
        true => Ok(()),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Calls `each` for the mappings in the text of an smaps file.
pub fn read_smaps(smaps: impl Read, mut each: impl FnMut(Mapping)) -> io::Result<()> {
    let mut current: Option<Mapping> = None;
    let mut valid = true;

    lines(smaps, |line| {
        // A key begins with a capital letter, an address does not.
        if line.first().is_some_and(u8::is_ascii_uppercase) {
            match &mut current {
                Some(mapping) => mapping.learn(line),
                None => valid = false,
            }
            return;
        }
        current.take().into_iter().for_each(&mut each);
        match Line::read(line) {
            Some(line) => current = Some(Mapping::new(&line)),
            None => valid = false,
        }
    })?;
    current.into_iter().for_each(each);
    match valid {
        true => Ok(()),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

impl Mapping {
    /// Returns the size of the mapping in bytes.
    pub fn size(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }

    fn new(line: &Line) -> Self {
        Self {
            range: line.range.clone(),
            kind: line.kind(),
            name: String::from_utf8_lossy(line.name).into_owned(),
            resident: 0,
            swapped: 0,
            huge: 0,
            eligible: false,
            advice: Advice::None,
            watched: false,
        }
    }

    /// Learns from a line of smaps below that of the addresses.
    fn learn(&mut self, line: &[u8]) {
        let Some((key, value)) = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.split_once(':'))
        else {
            return;
        };
        let number = || -> u64 {
            let number = value.split_whitespace().next();

            number.and_then(|text| text.parse().ok()).unwrap_or(0)
        };

        match key {
            "Rss" => self.resident = number() << 10,
            "Swap" => self.swapped = number() << 10,
            "AnonHugePages" | "ShmemPmdMapped" | "FilePmdMapped" => self.huge += number() << 10,
            "THPeligible" => self.eligible = number() != 0,
            // hugetlb alone has a page size beyond the MMU's.
            "KernelPageSize" if number() >= 2048 => self.kind = Kind::Other,
            "VmFlags" => {
                for flag in value.split_whitespace() {
                    match flag {
                        "hg" => self.advice = Advice::Huge,
                        "nh" => self.advice = Advice::Nohuge,
                        "um" | "uw" => self.watched = true,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
}

/// How much of some memory is huge pages; sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "generate", derive(schemars::JsonSchema))]
pub struct Share {
    /// The number of bytes that are in memory.
    pub resident: u64,
    /// The number of these bytes that are mapped by huge pages.
    pub huge: u64,
    /// The bytes in huge pages, in per cent of the bytes in memory.
    pub percent: f64,
}

impl Share {
    /// Returns the share of huge pages in some memory.
    pub fn new(resident: u64, huge: u64) -> Self {
        Self {
            resident,
            huge,
            percent: percent(huge, resident.max(1)),
        }
    }
}

/// Returns how many per cent of `whole` a part is, rounded to a tenth.
pub fn percent(part: u64, whole: u64) -> f64 {
    (1000.0 * part as f64 / whole as f64).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &[u8] = b"\
55d0c0000000-55d0c4000000 rw-p 00000000 00:00 0                          [heap]
Size:              65536 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:               40960 kB
Anonymous:         40960 kB
AnonHugePages:     20480 kB
ShmemPmdMapped:        0 kB
FilePmdMapped:         0 kB
Swap:               4096 kB
THPeligible:           1
VmFlags: rd wr mr mw me ac hg sd
7f0000000000-7f0000200000 rw-s 00000000 00:01 1026  /memfd:vm (deleted)
KernelPageSize:        4 kB
Rss:                2048 kB
ShmemPmdMapped:     2048 kB
THPeligible:           0
VmFlags: rd wr sh mr mw me ms
7f1000000000-7f1000400000 rw-s 00000000 00:0f 77  /anon_hugepage (deleted)
KernelPageSize:     2048 kB
Rss:                   0 kB
VmFlags: rd wr sh mr mw me ms ht
7f2000000000-7f2000001000 r--p 00000000 08:01 5  /usr/lib/\xff\xfe.so
Rss:                   4 kB
VmFlags: rd mr mw me nh um
7f3000000000-7f3000001000 r--p 00000000 08:01 5  /SYSVe
Rss:                   4 kB
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0  [stack]
Rss:                  12 kB
7ffc00100000-7ffc00102000 r-xp 00000000 00:00 0  [vdso]
Rss:                   4 kB
";

    fn parse(smaps: &[u8]) -> Option<Vec<Mapping>> {
        let mut found = Vec::new();

        read_smaps(smaps, |mapping| found.push(mapping)).ok()?;
        Some(found)
    }

    #[test]
    fn reads_what_the_kernel_says() {
        let maps = parse(SMAPS).unwrap();
        let heap = &maps[0];

        assert_eq!(heap.range, 0x55d0c0000000..0x55d0c4000000);
        assert_eq!(
            (heap.resident, heap.swapped, heap.huge),
            (40 << 20, 4 << 20, 20 << 20)
        );
        assert!(heap.eligible);
        assert_eq!(heap.advice, Advice::Huge);
        assert!(!maps[1].eligible);
        assert_eq!(maps[3].advice, Advice::Nohuge);
        assert!(maps[3].watched && !heap.watched);
        let kinds: Vec<Kind> = maps.iter().map(|mapping| mapping.kind).collect();
        use Kind::*;
        assert_eq!(kinds, [Anon, Shmem, Other, File, Shmem, Anon, Other]);
        assert!(parse(b"no such thing").is_none());
        assert!(parse(b"").unwrap().is_empty());
    }

    #[test]
    fn maps_have_the_same_mappings() {
        let text = String::from_utf8_lossy(SMAPS);
        let text: String = text
            .lines()
            .filter(|line| line.starts_with(|first: char| !first.is_ascii_uppercase()))
            .map(|line| format!("{line}\n"))
            .collect();
        let mut found = Vec::new();
        read_maps(text.as_bytes(), |line| {
            found.push((line.range.clone(), line.kind()));
        })
        .unwrap();
        let maps = parse(SMAPS).unwrap();
        let expected: Vec<_> = maps
            .iter()
            .map(|mapping| (mapping.range.clone(), mapping.kind))
            .collect();

        assert_eq!(found, expected);
        assert!(read_maps(&b"no such thing\n"[..], |_| {}).is_err());
    }

    #[test]
    fn shares_are_rounded_to_a_tenth() {
        assert_eq!(Share::new(42 << 20, 22 << 20).percent, 52.4);
        assert_eq!(Share::new(0, 0).percent, 0.0);
    }

    #[test]
    fn windows_are_whole_ones() {
        let all = 0..u64::MAX;
        let within = |range: Range<u64>, bounds: &Range<u64>| windows(&range, 0x1000, bounds);

        assert_eq!(within(0x1800..0x4800, &all), 0x2000..0x4000);
        assert!(within(0x1800..0x4800, &(0x2001..0x3fff)).is_empty());
        assert!(within(0x1800..0x4800, &(0x9000..0xa000)).is_empty());
        assert!(within(0x1800..0x1900, &all).is_empty());
        assert!(within(u64::MAX - 5..u64::MAX, &all).is_empty());
    }
}
