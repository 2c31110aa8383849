//! Memory that this process can still take before the system kills it: the machine's free memory, or less if a control
//! group limits it.

use std::path::{Path, PathBuf};

/// Free memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Free {
    /// Bytes, including those that this process already uses.
    pub bytes: u64,
    /// Source of the limit.
    pub limit: &'static str,
}

impl Free {
    /// Returns the free memory of this process; `None` where the system does not report it.
    pub(in crate::cli) fn of_this_process() -> Option<Self> {
        if cfg!(target_os = "linux") { Self::below(Path::new("/")) } else { None }
    }

    /// Reads the files of a system below `root`.
    fn below(root: &Path) -> Option<Self> {
        let own = kibibytes(&root.join("proc/self/status"), "VmRSS:").unwrap_or(0);
        let machine = kibibytes(&root.join("proc/meminfo"), "MemAvailable:")?;
        let group = groups(root).iter().filter_map(|folder| left(folder)).min();
        let (free, limit) = match group.filter(|left| *left < machine) {
            Some(left) => (left, "its control group's limit"),
            None => (machine, "the machine's memory"),
        };
        Some(Self { bytes: free + own, limit })
    }
}

/// Returns the folders of the memory control groups that contain this process, parents included.
fn groups(root: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut found = Vec::new();
    for line in text.lines() {
        // `0::/a/b` in version 2, `4:memory:/a/b` in version 1.
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let mount = match controllers {
            "" => "sys/fs/cgroup",
            list if list.split(',').any(|name| name == "memory") => "sys/fs/cgroup/memory",
            _ => continue,
        };
        let mount = root.join(mount);
        // In a container the path may be that of the host, which does not exist here; the mount itself is then the
        // group.
        let group = mount.join(path.trim_start_matches('/'));
        let around = group.ancestors().take_while(|folder| folder.starts_with(&mount));
        found.extend(around.map(Path::to_path_buf));
    }
    found
}

/// Returns the bytes left below a group's limit. Cached files that are not in use count as free: the kernel drops them
/// first.
fn left(folder: &Path) -> Option<u64> {
    let number =
        |name: &str| -> Option<u64> { std::fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok() };
    // A group without a limit has the word `max` in version 2, a number near 2^63 in version 1.
    let (limit, used, cached) = match number("memory.max") {
        Some(limit) => (limit, number("memory.current")?, "inactive_file"),
        None => (number("memory.limit_in_bytes")?, number("memory.usage_in_bytes")?, "total_inactive_file"),
    };
    let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let cached = stat.lines().find_map(|line| line.strip_prefix(cached)?.trim().parse().ok()).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cached)))
}

/// Reads the line `NAME   123 kB` of a file, as bytes.
fn kibibytes(path: &Path, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates a system with these files.
    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    const MEMORY: (&str, &str) =
        ("proc/meminfo", "MemTotal: 9000 kB\nMemFree: 1 kB\nMemAvailable:   8000 kB\n");
    const STATUS: (&str, &str) = ("proc/self/status", "Name:\tmirage\nVmRSS:\t  100 kB\n");

    #[test]
    fn without_cgroup_limits_machine_memory_counts() {
        for more in [
            &[][..],
            &[("proc/self/cgroup", "0::/\n")],
            &[("proc/self/cgroup", "0::/a\n"), ("sys/fs/cgroup/a/memory.max", "max\n")],
            &[
                ("proc/self/cgroup", "4:memory:/a\n"),
                ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
                ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "5000\n"),
            ],
        ] {
            let root = system(&[&[MEMORY, STATUS], more].concat());
            let free = Free::below(root.path()).unwrap();
            assert_eq!(free, Free { bytes: 8100 << 10, limit: "the machine's memory" }, "{more:?}");
        }
        assert_eq!(Free::below(system(&[STATUS]).path()), None);
    }

    #[test]
    fn tightest_cgroup_counts_without_file_cache() {
        let version2 = [
            MEMORY,
            STATUS,
            ("proc/self/cgroup", "0::/outer/inner\n"),
            ("sys/fs/cgroup/outer/memory.max", "3000000\n"),
            ("sys/fs/cgroup/outer/memory.current", "1500000\n"),
            ("sys/fs/cgroup/outer/memory.stat", "anon 5\ninactive_file 500000\nactive_file 9\n"),
            ("sys/fs/cgroup/outer/inner/memory.max", "max\n"),
        ];
        let free = Free::below(system(&version2).path()).unwrap();
        assert_eq!(free, Free { bytes: 2_000_000 + (100 << 10), limit: "its control group's limit" });
        // Version 1, in a container that does not see the path.
        let version1 = [
            MEMORY,
            STATUS,
            ("proc/self/cgroup", "7:cpu,cpuacct:/docker/x\n6:memory:/docker/x\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1000000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "900000\n"),
            ("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 300000\n"),
        ];
        let free = Free::below(system(&version1).path()).unwrap();
        assert_eq!(free.bytes, 400_000 + (100 << 10));
        // A group over its limit leaves nothing.
        let mut full = version1;
        full[4].1 = "2000000\n";
        assert_eq!(Free::below(system(&full).path()).unwrap().bytes, 100 << 10);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn free_memory_of_this_process_is_positive() {
        let free = Free::of_this_process().unwrap();
        assert!(free.bytes > 1 << 20, "{free:?}");
    }
}
