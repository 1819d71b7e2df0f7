/* Attempts on what a container sees around it: the kernel's files, devices, its root, sockets and
 * processes of others. A file that must not be written is opened for writing, and nothing is written. */
#include "attempts.h"

#include <dirent.h>
#include <ftw.h>
#include <limits.h>
#include <linux/magic.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <time.h>

enum { PIDFD_OPEN = 434 }; /* newer than some distributions' headers */

/* --- files */

static const char *opened(const char *path, int flags)
{
    int fd = open(path, flags | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0)
        close(fd);
    return outcome(fd);
}

#define WRITE(name, path) \
    static const char *name(char **a) { return opened(path, O_WRONLY); }

WRITE(sysrq, "/proc/sysrq-trigger")
WRITE(core_pattern, "/proc/sys/kernel/core_pattern")
WRITE(modprobe, "/proc/sys/kernel/modprobe")
WRITE(binfmt, "/proc/sys/fs/binfmt_misc/register")
WRITE(overcommit, "/proc/sys/vm/overcommit_memory")
WRITE(interrupt_affinity, "/proc/irq/default_smp_affinity")
WRITE(uevent_helper, "/sys/kernel/uevent_helper")
WRITE(power_state, "/sys/power/state")
WRITE(kernel_memory, "/dev/mem")
WRITE(kernel_messages, "/dev/kmsg")

static const char *top;

/* They can be opened; what is written the kernel checks itself: CAP_SYS_ADMIN, CAP_SYS_RESOURCE. */
static bool is_checked_at_writing(const char *path)
{
    return !strcmp(path, "/proc/mtrr") || !strncmp(path, "/proc/pressure/", 15);
}

static int try_write(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    /* /proc/<pid> is a process of the container's own. */
    if (kind == FTW_D && !strcmp(top, "/proc") && path[6] >= '0' && path[6] <= '9')
        return FTW_SKIP_SUBTREE;
    if (kind != FTW_F || !S_ISREG(status->st_mode) || is_checked_at_writing(path))
        return FTW_CONTINUE;
    /* root may open all; a file without a mode for writing has nothing that could be written to. */
    if (status->st_mode & 0222 && !strcmp(opened(path, O_WRONLY), "allowed"))
        note(path);
    return FTW_CONTINUE;
}

/* Every file below a directory: the paths of those that could be opened for writing, or `none`. */
static const char *writable(const char *directory)
{
    top = directory;
    nftw(directory, try_write, 32, FTW_PHYS | FTW_ACTIONRETVAL);
    return noted("none");
}

static const char *writable_proc(char **a) { return writable("/proc"); }
static const char *writable_sys(char **a) { return writable("/sys"); }

static int make_cgroup(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    char name[4200];
    struct statfs system;
    /* Of version 1 the hierarchies are mounted on a directory in memory, which is harmless. */
    if (kind != FTW_D || statfs(path, &system) < 0
        || (system.f_type != CGROUP_SUPER_MAGIC && system.f_type != CGROUP2_SUPER_MAGIC))
        return FTW_CONTINUE;
    snprintf(name, sizeof name, "%s/attempt", path);
    if (mkdir(name, 0700) == 0) {
        rmdir(name);
        note(path);
    }
    return FTW_CONTINUE;
}

static const char *cgroup_make(char **a)
{
    nftw("/sys/fs/cgroup", make_cgroup, 32, FTW_PHYS | FTW_ACTIONRETVAL);
    return noted("none");
}

/* Of each path: `hidden` if it is not there, or is there and gives nothing; else it is named. */
static const char *hidden(char **paths)
{
    for (; *paths; paths++) {
        struct stat status;
        bool shows = false;
        if (stat(*paths, &status) < 0)
            continue;
        if (S_ISDIR(status.st_mode)) {
            DIR *directory = opendir(*paths);
            struct dirent *entry;
            while (directory && (entry = readdir(directory)))
                shows |= entry->d_name[0] != '.';
        } else {
            char byte;
            int fd = open(*paths, O_RDONLY | O_NONBLOCK);
            shows = fd >= 0 && read(fd, &byte, 1) == 1;
        }
        if (shows)
            note(*paths);
    }
    return noted("hidden");
}

/* --- devices: made (CAP_MKNOD is a default), then opened, which the control group refuses */

static const char *device(mode_t kind, unsigned major, unsigned minor)
{
    unlink("/tmp/device");
    if (mknod("/tmp/device", kind | 0600, makedev(major, minor)) < 0)
        return outcome(-1);
    const char *read_only = opened("/tmp/device", O_RDONLY);
    const char *writing = opened("/tmp/device", O_WRONLY);
    unlink("/tmp/device");
    return strcmp(writing, "allowed") ? read_only : writing;
}

#define DEVICE(name, kind, major, minor) \
    static const char *name(char **a) { return device(kind, major, minor); }

DEVICE(disk_virtio, S_IFBLK, 254, 0)
DEVICE(disk_scsi, S_IFBLK, 8, 0)
DEVICE(disk_nvme, S_IFBLK, 259, 0)
DEVICE(disk_loop, S_IFBLK, 7, 0)
DEVICE(device_memory, S_IFCHR, 1, 1)
DEVICE(device_ports, S_IFCHR, 1, 4)
DEVICE(device_log, S_IFCHR, 1, 11)
DEVICE(device_fuse, S_IFCHR, 10, 229)
DEVICE(device_kvm, S_IFCHR, 10, 232)
DEVICE(device_loop_control, S_IFCHR, 10, 237)
DEVICE(device_serial, S_IFCHR, 4, 64)
DEVICE(device_input, S_IFCHR, 13, 64)

/* The disk that the container's files are on. */
static const char *disk_own(char **a)
{
    struct stat status;
    if (stat("/etc/hostname", &status) < 0)
        return outcome(-1);
    return device(S_IFBLK, major(status.st_dev), minor(status.st_dev));
}

/* --- where one is */

/* Out of a chroot within the container: `contained` if the way up ends at the container's own root. */
static const char *chroot_breakout(char **a)
{
    struct stat before, after;
    stat("/", &before);
    mkdir("/tmp/prison", 0700);
    int outside = open("/", O_RDONLY);
    if (chroot("/tmp/prison") < 0)
        return outcome(-1);
    if (fchdir(outside) < 0)
        return outcome(-1);
    for (int i = 0; i < 64; i++)
        if (chdir("..") < 0)
            break;
    stat(".", &after);
    rmdir("tmp/prison");
    return before.st_dev == after.st_dev && before.st_ino == after.st_ino ? "contained" : "outside";
}

/* The first process's root is seen from here: it has to be the container's. */
static const char *root_of_init(char **a)
{
    struct stat own, its;
    if (stat("/", &own) < 0 || stat("/proc/1/root/", &its) < 0)
        return outcome(-1);
    return own.st_dev == its.st_dev && own.st_ino == its.st_ino ? "contained" : "outside";
}

/* Descriptors that the runtime left open: one of the host's directories leads out (CVE-2024-21626). */
static const char *leaked_descriptors(char **a)
{
    for (int fd = 3; fd < 1024; fd++) {
        char target[512], path[32];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        long length = readlink(path, target, sizeof target - 1);
        if (length < 0)
            continue;
        target[length] = 0;
        note(target);
    }
    return noted("none");
}

/* Where this process was started. The kernel writes `(unreachable)` before what is outside the root. */
static const char *directory(char **a)
{
    char path[4096];
    long length = syscall(SYS_getcwd, path, sizeof path);
    return length < 0 ? outcome(-1) : path[0] == '/' ? "contained" : "outside";
}

/* Sockets of the daemon, of a container engine, of the runtime. */
static const char *api_sockets(char **a)
{
    static const char *const paths[] = {
        "/var/run/docker.sock", "/run/docker.sock", "/run/weft", "/run/containerd", "/run/docker",
        "/var/lib/weft", "/run/systemd/private", "/run/dbus/system_bus_socket"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (access(paths[i], F_OK) == 0)
            note(paths[i]);
    return noted("none");
}

/* The kernel chose the name, five hexadecimal digits: nobody is meant to send there. etcd's writer to the
 * journal has such a socket, and never reads from it. */
static int is_nameless(const char *name)
{
    return strlen(name) == 6 && strspn(name + 1, "0123456789abcdef") == 5;
}

/* They belong to the network namespace: on the host's those of its programs are in reach
 * (CVE-2020-15257). */
static const char *abstract_sockets(char **a)
{
    char line[512];
    FILE *table = fopen("/proc/net/unix", "r");
    while (table && fgets(line, sizeof line, table)) {
        char *name = strchr(line, '@');
        if (name) {
            name[strcspn(name, "\n")] = 0;
            if (!is_nameless(name))
                note(name);
        }
    }
    return noted("none");
}

/* /etc/passwd and a FIFO without a writer change places for some seconds: whoever opens it from outside,
 * having looked that it is a file, waits for ever. */
static const char *swap_users(char **seconds)
{
    time_t end = time(NULL) + atoi(*seconds);
    if (mkfifo("/etc/fifo", 0644) < 0)
        return outcome(-1);
    while (time(NULL) < end)
        if (renameat2(AT_FDCWD, "/etc/passwd", AT_FDCWD, "/etc/fifo", RENAME_EXCHANGE) < 0)
            return outcome(-1);
    struct stat status;
    if (stat("/etc/passwd", &status) == 0 && S_ISFIFO(status.st_mode))
        rename("/etc/fifo", "/etc/passwd");
    else
        unlink("/etc/fifo");
    return "allowed";
}

/* --- the processes of others: their numbers on the host mean nothing in here */

/* Another number, which nobody has, if this process or its parent has it in here by chance. */
static pid_t other(const char *number)
{
    pid_t pid = atoi(number);
    return pid == getpid() || pid == getppid() ? INT_MAX : pid;
}

static const char *trace(char **pids) { return outcome(ptrace(PTRACE_ATTACH, other(*pids), 0, 0)); }
static const char *signal_to(char **pids) { return outcome(kill(other(*pids), 0)); }
static const char *handle_of(char **pids) { return outcome(syscall(PIDFD_OPEN, other(*pids), 0)); }

static const char *memory_of(char **pids)
{
    char byte;
    struct iovec here = {&byte, 1}, there = {(void *)0x400000, 1};
    return outcome(process_vm_readv(other(*pids), &here, 1, &there, 1, 0));
}

static const char *status(char **fields)
{
    char line[256];
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, *fields, strlen(*fields)) && line[strlen(*fields)] == ':')
            return say("%.*s", (int)strcspn(line, "\n") - (int)strlen(*fields) - 2,
                line + strlen(*fields) + 2);
    return "absent";
}

static const char *namespace(char **kinds)
{
    char path[64], target[64];
    snprintf(path, sizeof path, "/proc/self/ns/%s", *kinds);
    long length = readlink(path, target, sizeof target);
    return length < 0 ? outcome(-1) : say("%.*s", (int)length, target);
}

const struct attempt surroundings[] = {
    ROW("sysrq-trigger", sysrq), ROW("core-pattern", core_pattern), ROW("modprobe", modprobe),
    ROW("binfmt", binfmt), ROW("overcommit", overcommit), ROW("irq-affinity", interrupt_affinity),
    ROW("uevent-helper", uevent_helper), ROW("power-state", power_state),
    ROW("dev-mem", kernel_memory), ROW("dev-kmsg", kernel_messages),
    ROW("writable-proc", writable_proc), ROW("writable-sys", writable_sys),
    ROW("make-cgroup", cgroup_make), ROW("disk-own", disk_own), ROW("disk-virtio", disk_virtio),
    ROW("disk-scsi", disk_scsi), ROW("disk-nvme", disk_nvme), ROW("disk-loop", disk_loop),
    ROW("node-mem", device_memory), ROW("node-port", device_ports), ROW("node-kmsg", device_log),
    ROW("node-fuse", device_fuse), ROW("node-kvm", device_kvm),
    ROW("node-loop-control", device_loop_control), ROW("node-serial", device_serial),
    ROW("node-input", device_input), ROW("chroot-breakout", chroot_breakout),
    ROW("root-of-init", root_of_init), ROW("leaked-descriptors", leaked_descriptors),
    ROW("directory", directory), ROW("api-sockets", api_sockets),
    ROW("abstract-sockets", abstract_sockets),
    {"hidden", hidden, true}, {"swap-users", swap_users, true}, {"ptrace", trace, true}, {"kill", signal_to, true},
    {"pidfd-open", handle_of, true}, {"process-vm-readv", memory_of, true},
    {"status", status, true}, {"namespace", namespace, true},
    {0},
};
