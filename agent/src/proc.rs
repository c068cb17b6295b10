// SPDX-License-Identifier: GPL-2.0

//! The texts of /proc that are read often, or for many processes.

use crate::kernel::Vital;
use std::io::{self, BufRead, BufReader, Read};

/// Calls `each` for the lines of a text, without their ends. No more of the text is in memory than
/// a line and a buffer.
pub fn lines(text: impl Read, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 16, text);
    let mut line = Vec::new();

    while reader.read_until(b'\n', &mut line)? > 0 {
        each(line.strip_suffix(b"\n").unwrap_or(&line));
        line.clear();
    }
    Ok(())
}

/// Reads the text of /proc/PID/stat. The command name in it may have any bytes.
pub fn vital(stat: &[u8], page: u64) -> Option<Vital> {
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    // Numbered as in proc_pid_stat(5), where the state is number 3.
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();

    Some(Vital {
        start: number(22)?,
        name: String::from_utf8_lossy(stat.get(open + 1..close)?).into_owned(),
        resident: number(24)? * page,
        mapped: number(23)?,
        faults: number(10)? + number(12)?,
    })
}

/// Returns the number behind a key such as `Tgid:` in a text like /proc/PID/status.
pub fn number(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// Returns the path in /proc/PID/cgroup of the hierarchy that has a controller, or of the unified
/// one for an empty string.
pub fn cgroup<'a>(text: &'a str, controller: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;

        controllers
            .split(',')
            .any(|one| one == controller)
            .then_some(path)
    })
}

/// Where a hierarchy of cgroups can be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The folder.
    pub folder: String,
    /// The cgroup that this folder shows.
    pub root: String,
}

impl Mount {
    /// Finds the hierarchy that has a controller in /proc/self/mountinfo, or the unified one for an
    /// empty string.
    pub fn find(mountinfo: &str, controller: &str) -> Option<Self> {
        mountinfo.lines().find_map(|line| {
            let (mount, source) = line.split_once(" - ")?;
            let mut source = source.split(' ');
            let fits = match source.next()? {
                "cgroup2" => controller.is_empty(),
                "cgroup" => source.nth(1)?.split(',').any(|option| option == controller),
                _ => false,
            };
            let mut fields = mount.split(' ').skip(3);

            fits.then_some(Self {
                root: fields.next()?.into(),
                folder: fields.next()?.into(),
            })
        })
    }

    /// Returns the path in the hierarchy for a path that may be that of a folder. That of all
    /// processes has to be given as `/`: in a script, an empty variable may make a longer path end
    /// too early.
    pub fn path(&self, text: &str) -> Result<String, String> {
        let root = self.root.trim_end_matches('/');
        let folder = text.trim_end_matches('/');

        match folder.strip_prefix(&self.folder) {
            _ if text == "/" => Ok("/".into()),
            Some("") => Err(format!("{text} is all processes: give / if they are meant")),
            Some(below) if below.starts_with('/') => Ok(format!("{root}{below}")),
            _ if folder.starts_with("/sys/fs/cgroup") => Err(format!(
                "{text} is no cgroup of version 2, which is mounted at {}",
                self.folder
            )),
            _ if folder.is_empty() => Err(format!("{text} is no path")),
            _ => Ok(format!("/{}", folder.trim_start_matches('/'))),
        }
    }

    /// Returns the folders of a cgroup and of the ones above it, as far as they can be seen here.
    pub fn ancestors(&self, path: &str) -> Vec<String> {
        let root = self.root.trim_end_matches('/');
        // A process outside our cgroup namespace has a path that leads out of it.
        let Some(below) = path
            .strip_prefix(root)
            .filter(|below| below.is_empty() || below.starts_with('/'))
            .filter(|below| !below.starts_with("/.."))
        else {
            return Vec::new();
        };
        let mut below = below.trim_end_matches('/');
        let mut folders = vec![format!("{}{below}", self.folder)];

        while let Some((above, _)) = below.rsplit_once('/') {
            below = above;
            folders.push(format!("{}{below}", self.folder));
        }
        folders
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_confuse_stat() {
        let stat =
            b"7 (a) S (b\xff) S 1 7 7 0 -1 4194304 35 0 2 0 0 0 0 0 20 0 1 0 3131 9000 12 99";
        let vital = vital(stat, 4096).unwrap();

        assert_eq!((vital.start, vital.resident), (3131, 12 * 4096));
        assert_eq!((vital.mapped, vital.faults), (9000, 37));
        assert_eq!(vital.name, "a) S (b\u{fffd}");
        assert_eq!(super::vital(b"7 (a) S 1", 4096), None);
    }

    #[test]
    fn lines_have_no_end() {
        let mut found = Vec::new();

        lines(&b"a\n\nb"[..], |line| found.push(line.to_vec())).unwrap();
        assert_eq!(found, [b"a".to_vec(), b"".to_vec(), b"b".to_vec()]);
    }

    #[test]
    fn finds_cgroups_of_both_versions() {
        let text = "12:memory:/docker/x\n4:cpu,cpuacct:/y\n0::/system.slice/a.service\n";

        assert_eq!(cgroup(text, ""), Some("/system.slice/a.service"));
        assert_eq!(cgroup(text, "memory"), Some("/docker/x"));
        assert_eq!(cgroup(text, "cpuacct"), Some("/y"));
        assert_eq!(cgroup("0::/x:y\n", ""), Some("/x:y"));
        assert_eq!(cgroup("4:cpu:/y\n", ""), None);
        assert_eq!(number("Name:\tx\nTgid:\t12\n", "Tgid:"), Some(12));
    }

    #[test]
    fn finds_where_cgroups_are_mounted() {
        let text = "30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
             31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n\
             32 30 0:28 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let unified = Mount::find(text, "").unwrap();

        assert_eq!(unified.folder, "/sys/fs/cgroup/unified");
        assert_eq!(
            unified.ancestors("/a/b"),
            [
                "/sys/fs/cgroup/unified/a/b",
                "/sys/fs/cgroup/unified/a",
                "/sys/fs/cgroup/unified"
            ]
        );
        assert_eq!(unified.ancestors("/"), ["/sys/fs/cgroup/unified"]);
        assert!(unified.ancestors("/../other").is_empty());
        let memory = Mount::find(text, "memory").unwrap();
        assert_eq!(memory.ancestors("/docker/x"), ["/sys/fs/cgroup/memory"]);
        assert_eq!(
            memory.ancestors("/docker/x/y")[0],
            "/sys/fs/cgroup/memory/y"
        );
        assert!(memory.ancestors("/docker/xy").is_empty());
        assert_eq!(Mount::find(text, "cpu"), None);
    }

    #[test]
    fn cgroups_may_be_named_by_their_folders() {
        let mount = |folder: &str| Mount {
            folder: folder.into(),
            root: "/".into(),
        };
        let usual = mount("/sys/fs/cgroup");

        for text in ["/sys/fs/cgroup/a/b/", "a/b", "/a/b"] {
            assert_eq!(usual.path(text).as_deref(), Ok("/a/b"));
        }
        assert_eq!(usual.path("/").as_deref(), Ok("/"));
        for text in ["/sys/fs/cgroup", "/sys/fs/cgroup/", "//"] {
            assert!(usual.path(text).is_err(), "{text}");
        }
        let hybrid = mount("/sys/fs/cgroup/unified");
        assert_eq!(hybrid.path("/sys/fs/cgroup/unified/x").as_deref(), Ok("/x"));
        let error = hybrid.path("/sys/fs/cgroup/memory/x").unwrap_err();
        assert!(error.contains("mounted at /sys/fs/cgroup/unified"));
    }
}
