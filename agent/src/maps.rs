// SPDX-License-Identifier: GPL-2.0

//! The mappings of a process and their coverage by huge pages, from /proc/PID/smaps.

use clap::ValueEnum;
use procfs::process::{MMPermissions, MMapPath, MemoryMap, MemoryMaps, VmFlags};
use procfs::FromBufRead;
use serde::{Serialize, Serializer};
use std::ops::Range;

/// The kind of memory that is mapped, as far as it matters for collapse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
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
pub struct Mapping {
    /// The addresses of the mapping.
    #[serde(serialize_with = "as_hex")]
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

impl Mapping {
    /// Returns the part of the mapping within `bounds` that whole windows fill.
    pub fn windows(&self, size: u64, bounds: &Range<u64>) -> Range<u64> {
        let start = self.range.start.max(bounds.start);
        let end = self.range.end.min(bounds.end);
        let first = start.checked_next_multiple_of(size).unwrap_or(end);

        first..end - end % size
    }

    /// Returns the size of the mapping in bytes.
    pub fn size(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }
}

impl From<MemoryMap> for Mapping {
    fn from(map: MemoryMap) -> Self {
        let bytes = |key| map.extension.map.get(key).copied().unwrap_or(0);
        let flags = map.extension.vm_flags;
        let (kind, name) = kind_and_name(&map);

        Self {
            range: map.address.0..map.address.1,
            kind,
            name,
            resident: bytes("Rss"),
            swapped: bytes("Swap"),
            huge: bytes("AnonHugePages") + bytes("ShmemPmdMapped") + bytes("FilePmdMapped"),
            eligible: bytes("THPeligible") != 0,
            advice: match (flags.contains(VmFlags::HG), flags.contains(VmFlags::NH)) {
                (true, _) => Advice::Huge,
                (false, true) => Advice::Nohuge,
                (false, false) => Advice::None,
            },
            watched: flags.intersects(VmFlags::UM | VmFlags::UW),
        }
    }
}

fn kind_and_name(map: &MemoryMap) -> (Kind, String) {
    let (kind, name) = match &map.pathname {
        MMapPath::Anonymous => (Kind::Anon, String::new()),
        MMapPath::Heap => (Kind::Anon, "[heap]".into()),
        MMapPath::Stack => (Kind::Anon, "[stack]".into()),
        MMapPath::Other(name) if name.starts_with("anon:") => (Kind::Anon, format!("[{name}]")),
        MMapPath::Other(name) if name.starts_with("anon_shmem:") => {
            (Kind::Shmem, format!("[{name}]"))
        }
        MMapPath::Path(path) => {
            let name = path.to_string_lossy().into_owned();
            let shmem = ["/memfd:", "/dev/shm/", "/dev/zero (deleted)", SYSTEM_V]
                .iter()
                .any(|start| name.starts_with(start));
            (if shmem { Kind::Shmem } else { Kind::File }, name)
        }
        _ => (Kind::Other, String::new()),
    };
    let private = map.perms.contains(MMPermissions::PRIVATE);
    // hugetlb has no flag in this crate, but it alone has a page size beyond the MMU's.
    let pages = |key| map.extension.map.get(key);

    if pages("KernelPageSize").is_some_and(|size| *size >= 2 << 20)
        || (kind == Kind::Anon && !private)
    {
        return (Kind::Other, name);
    }
    (kind, name)
}

/// The beginning of names of System V memory, as it is passed to the procfs crate, see [`parse`].
const SYSTEM_V: &str = "/sysv";

/// Returns the mappings in the text of an smaps file, or [`None`] if the text is invalid.
pub fn parse(smaps: &[u8]) -> Option<Vec<Mapping>> {
    // Another program chooses the names. The procfs crate refuses bytes that are not UTF-8, and
    // fails at a name that only begins like one of System V memory.
    let text = String::from_utf8_lossy(smaps).replace(" /SYSV", &format!(" {SYSTEM_V}"));
    let maps = MemoryMaps::from_buf_read(text.as_bytes()).ok()?;

    Some(maps.0.into_iter().map(Mapping::from).collect())
}

/// How much of some memory is huge pages; sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Coverage {
    /// The number of bytes that are in memory.
    pub resident: u64,
    /// The number of these bytes that are mapped by huge pages.
    pub huge: u64,
    /// The bytes in huge pages, in per cent of the bytes in memory.
    pub percent: f64,
}

impl Coverage {
    /// Returns the coverage of several mappings as a whole.
    pub fn of<'a>(mappings: impl Iterator<Item = &'a Mapping>) -> Self {
        let (resident, huge) = mappings.fold((0, 0), |(resident, huge), mapping| {
            (resident + mapping.resident, huge + mapping.huge)
        });
        // Rounded to a tenth.
        let percent = (1000.0 * huge as f64 / resident.max(1) as f64).round() / 10.0;

        Self {
            resident,
            huge,
            percent,
        }
    }

    /// Returns whether the coverage is at least `percent`. Without any memory, it is.
    pub fn reaches(&self, percent: f64) -> bool {
        self.resident == 0 || self.percent >= percent
    }
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
    fn coverage_is_that_of_all_together() {
        let maps = parse(SMAPS).unwrap();
        let coverage = Coverage::of(maps.iter().take(2));

        assert_eq!(coverage.resident, 42 << 20);
        assert_eq!(coverage.percent, 52.4);
        assert!(coverage.reaches(52.4) && !coverage.reaches(52.5));
        assert!(Coverage::default().reaches(100.0));
    }

    #[test]
    fn windows_are_whole_ones() {
        let mut mapping = parse(SMAPS).unwrap().remove(0);
        let all = 0..u64::MAX;
        let windows = |mapping: &Mapping, bounds: &Range<u64>| {
            let windows = mapping.windows(0x1000, bounds);
            (windows.start, windows.end)
        };

        mapping.range = 0x1800..0x4800;
        assert_eq!(windows(&mapping, &all), (0x2000, 0x4000));
        assert_eq!(windows(&mapping, &(0x2001..0x3fff)), (0x3000, 0x3000));
        assert!(mapping.windows(0x1000, &(0x9000..0xa000)).is_empty());
        mapping.range = 0x1800..0x1900;
        assert!(mapping.windows(0x1000, &all).is_empty());
        mapping.range = u64::MAX - 5..u64::MAX;
        assert!(mapping.windows(0x1000, &all).is_empty());
    }
}
