/* Attempts by system call: namespaces, mounts, the kernel's other doors, sockets, privileges. The filter
 * refuses most of them before the kernel sees the arguments; those are such that the kernel would
 * refuse them, or do no harm. */
#include "attempts.h"

#include <arpa/inet.h>
#include <linux/capability.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <sys/xattr.h>

/* Newer than some distributions' headers. The numbers are the same on all architectures. */
enum { OPEN_TREE = 428, MOVE_MOUNT, FSOPEN, FSCONFIG, FSMOUNT, FSPICK, CLONE3 = 435 };
enum { IO_URING_SETUP = 425, PIDFD_GETFD = 438, PROCESS_MADVISE = 440, MOUNT_SETATTR = 442 };

/* --- namespaces */

static const char *unshared(int kinds) { return outcome(syscall(SYS_unshare, kinds)); }

static const char *cloned(int kinds)
{
    long child = syscall(SYS_clone, kinds | SIGCHLD, 0, 0, 0, 0);
    if (child == 0)
        _exit(0);
    return outcome(child);
}

#define NAMESPACE(name, kind) \
    static const char *unshare_##name(char **a) { return unshared(kind); } \
    static const char *clone_##name(char **a) { return cloned(kind); }

NAMESPACE(user, CLONE_NEWUSER)
NAMESPACE(mount, CLONE_NEWNS)
NAMESPACE(network, CLONE_NEWNET)
NAMESPACE(pid, CLONE_NEWPID)
NAMESPACE(ipc, CLONE_NEWIPC)
NAMESPACE(uts, CLONE_NEWUTS)
NAMESPACE(cgroup, CLONE_NEWCGROUP)
NAMESPACE(all,
    CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS)

static const char *clone3_user(char **a)
{
    unsigned long long fields[11] = {CLONE_NEWUSER, 0, 0, 0, SIGCHLD};
    long child = syscall(CLONE3, fields, sizeof fields);
    if (child == 0)
        _exit(0);
    return outcome(child);
}

/* No descriptor: who is let through as far as the kernel's own check hears EBADF. */
CALL(setns_any, syscall(SYS_setns, -1, 0))

/* --- mounts */

CALL(mount_tmpfs, mount("tmpfs", "/tmp", "tmpfs", 0, ""))
CALL(mount_proc, mount("proc", "/tmp", "proc", 0, ""))
CALL(mount_sysfs, mount("sysfs", "/tmp", "sysfs", 0, ""))
CALL(mount_cgroup, mount("cgroup", "/tmp", "cgroup", 0, "memory"))
CALL(mount_bind, mount("/", "/tmp", "", MS_BIND, ""))
CALL(remount_proc_sys, mount("", "/proc/sys", "", MS_REMOUNT | MS_BIND, ""))
CALL(remount_cgroups, mount("", "/sys/fs/cgroup", "", MS_REMOUNT | MS_BIND, ""))
CALL(unmount_masks, umount2("/proc/keys", MNT_DETACH))
CALL(pivot, syscall(SYS_pivot_root, ".", "."))
CALL(fs_open, syscall(FSOPEN, "tmpfs", 0))
CALL(fs_pick, syscall(FSPICK, AT_FDCWD, "/", 0))
CALL(fs_config, syscall(FSCONFIG, -1, 0, 0, 0, 0))
CALL(fs_mount, syscall(FSMOUNT, -1, 0, 0))
CALL(tree_clone, syscall(OPEN_TREE, AT_FDCWD, "/", 1))
CALL(mount_move, syscall(MOVE_MOUNT, -1, "", AT_FDCWD, "/tmp", 4))
CALL(mount_attributes, syscall(MOUNT_SETATTR, -1, "", 0, 0, 0))

/* --- the kernel's other doors */

CALL(bpf_load, syscall(SYS_bpf, 5, 0, 0))
CALL(perf, syscall(SYS_perf_event_open, 0, 0, -1, -1, 0))
CALL(key_ring, syscall(SYS_keyctl, 0, -3, 1))
CALL(key_add, syscall(SYS_add_key, "user", "k", "v", 1, -3))
CALL(key_request, syscall(SYS_request_key, "user", "k", 0, -3))
CALL(user_faults, syscall(SYS_userfaultfd, 0))
CALL(io_ring, syscall(IO_URING_SETUP, 0, 0))
CALL(module_load, syscall(SYS_init_module, "", 0, ""))
CALL(module_file, syscall(SYS_finit_module, -1, "", 0))
CALL(module_remove, syscall(SYS_delete_module, "", 0))
CALL(kexec, syscall(SYS_kexec_load, 0, 99999, 0, 0))
CALL(kexec_file, syscall(SYS_kexec_file_load, -1, -1, 0, 0, 0))
CALL(restart, syscall(SYS_reboot, 0, 0, 0, 0))
CALL(kernel_log, syscall(SYS_syslog, 10, 0, 0))
CALL(set_clock, syscall(SYS_clock_settime, 0, 0))
CALL(swap_on, syscall(SYS_swapon, "", 0))
CALL(swap_off, syscall(SYS_swapoff, ""))
CALL(accounting, syscall(SYS_acct, ""))
CALL(quota, syscall(SYS_quotactl, 0, 0, 0, 0))
CALL(host_name, syscall(SYS_sethostname, "x", 1))
CALL(domain_name, syscall(SYS_setdomainname, "x", 1))
CALL(no_random_addresses, syscall(SYS_personality, ADDR_NO_RANDOMIZE))
CALL(fanotify, syscall(SYS_fanotify_init, 0, 0))
CALL(memory_policy, syscall(SYS_set_mempolicy, 0, 0, 0))
CALL(memory_move, syscall(SYS_move_pages, 0, 0, 0, 0, 0, 0))
CALL(compare_processes, syscall(SYS_kcmp, 1, 1, 0, 0, 0))
CALL(take_descriptor, syscall(PIDFD_GETFD, -1, 0, 0))
CALL(advise_process, syscall(PROCESS_MADVISE, -1, 0, 0, 0, 0))
CALL(hang_up, syscall(SYS_vhangup))

static const char *tune_clock(char **a)
{
    struct timex values = {.modes = ADJ_TICK, .tick = 10000};
    return outcome(adjtimex(&values));
}

#ifdef __x86_64__
CALL(io_ports, syscall(SYS_iopl, 3))
CALL(io_permission, syscall(SYS_ioperm, 0x80, 1, 1))
CALL(foreign_table, syscall(0x40000000 + SYS_getpid))
#else
CALL(io_ports, (errno = EPERM, -1))
CALL(io_permission, (errno = EPERM, -1))
CALL(foreign_table, (errno = ENOSYS, -1))
#endif

static const char *open_by_handle(char **a)
{
    struct { struct file_handle head; unsigned char bytes[128]; } handle = {
        .head.handle_bytes = 128};
    int mount = -1;
    if (name_to_handle_at(AT_FDCWD, "/etc", &handle.head, &mount, 0) < 0)
        handle.head.handle_bytes = 8, handle.head.handle_type = 1; /* overlayfs may have none: any will do */
    return outcome(open_by_handle_at(AT_FDCWD, &handle.head, O_RDONLY));
}

/* --- sockets */

CALL(vsock, socket(40, SOCK_STREAM, 0))
CALL(crypto_socket, socket(38, SOCK_SEQPACKET, 0))

static const char *ask(int family, const void *request, size_t length)
{
    int channel = socket(AF_NETLINK, SOCK_RAW, family);
    if (channel < 0)
        return outcome(channel);
    if (send(channel, request, length, 0) < 0)
        return outcome(-1);
    struct { struct nlmsghdr head; struct nlmsgerr error; char rest[4096]; } answer;
    if (recv(channel, &answer, sizeof answer, 0) < 0)
        return outcome(-1);
    if (answer.head.nlmsg_type != NLMSG_ERROR)
        return "allowed";
    errno = -answer.error.error;
    return outcome(errno ? -1 : 0);
}

static const char *link_up(char **a)
{
    struct { struct nlmsghdr head; struct ifinfomsg link; } request = {
        {sizeof request, RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, 1, 0},
        {.ifi_index = 1, .ifi_flags = IFF_UP, .ifi_change = IFF_UP}};
    return ask(NETLINK_ROUTE, &request, sizeof request);
}

static const char *route_add(char **a)
{
    struct { struct nlmsghdr head; struct rtmsg route; } request = {
        {sizeof request, RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, 1, 0},
        {.rtm_family = AF_INET, .rtm_table = 77, .rtm_type = RTN_BLACKHOLE}};
    return ask(NETLINK_ROUTE, &request, sizeof request);
}

static const char *rules_flush(char **a)
{
    enum { NFTABLES = 10, DELETE_TABLE = 2, NO_FAMILY = 77 }; /* of no family is no table */
    struct part { struct nlmsghdr head; struct nfgenmsg body; };
    struct { struct part begin, flush, end; } batch = {
        {{sizeof(struct part), NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, 1, 0},
            {0, NFNETLINK_V0, htons(NFTABLES)}},
        {{sizeof(struct part), NFTABLES << 8 | DELETE_TABLE, NLM_F_REQUEST | NLM_F_ACK, 2, 0},
            {NO_FAMILY, NFNETLINK_V0, 0}},
        {{sizeof(struct part), NFNL_MSG_BATCH_END, NLM_F_REQUEST, 3, 0},
            {0, NFNETLINK_V0, htons(NFTABLES)}}};
    return ask(NETLINK_NETFILTER, &batch, sizeof batch);
}

/* --- privileges */

static const char *gain_capabilities(char **a)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &head, data) < 0)
        return outcome(-1);
    data[0].permitted |= 1 << CAP_SYS_ADMIN;
    data[0].effective |= 1 << CAP_SYS_ADMIN;
    return outcome(syscall(SYS_capset, &head, data));
}

/* A program to which its file gives CAP_SYS_ADMIN: not in the bounding set, so it is not run. */
static const char *file_capabilities(char **a)
{
    struct { unsigned magic, permitted, inheritable, permitted_high, inheritable_high; } wanted = {
        VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE, 1 << CAP_SYS_ADMIN, 0, 0, 0};
    char buffer[65536];
    int from = open("/proc/self/exe", O_RDONLY);
    int to = open("/tmp/program", O_WRONLY | O_CREAT | O_TRUNC, 0700);
    for (long n; (n = read(from, buffer, sizeof buffer)) > 0;)
        if (write(to, buffer, n) != n)
            return outcome(-1);
    close(to);
    if (setxattr("/tmp/program", "security.capability", &wanted, sizeof wanted, 0) == 0)
        execl("/tmp/program", "program", "yes", NULL);
    int error = errno;
    unlink("/tmp/program");
    errno = error;
    return outcome(-1);
}

static const char *yes(char **a) { return "allowed"; }

static const char *trusted_attribute(char **a)
{
    int fd = open("/tmp/attribute", O_WRONLY | O_CREAT, 0600);
    const char *result = outcome(fsetxattr(fd, "trusted.overlay.opaque", "y", 1, 0));
    unlink("/tmp/attribute");
    return result;
}

CALL(priority, setpriority(PRIO_PROCESS, 0, -20))

static const char *real_time(char **a)
{
    struct sched_param parameter = {.sched_priority = 1};
    return outcome(sched_setscheduler(0, SCHED_FIFO, &parameter));
}

static const char *more_descriptors(char **a)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_max++;
    return outcome(setrlimit(RLIMIT_NOFILE, &limit));
}

static const char *outlive_memory(char **a)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY);
    return outcome(fd < 0 ? fd : write(fd, "-1000", 5));
}

const struct attempt system_calls[] = {
#define NAMESPACES(name) ROW("unshare-" #name, unshare_##name), ROW("clone-" #name, clone_##name)
    NAMESPACES(user), NAMESPACES(mount), NAMESPACES(network), NAMESPACES(pid), NAMESPACES(ipc),
    NAMESPACES(uts), NAMESPACES(cgroup), NAMESPACES(all), ROW("clone3-user", clone3_user),
    ROW("setns", setns_any), ROW("mount-tmpfs", mount_tmpfs), ROW("mount-proc", mount_proc),
    ROW("mount-sysfs", mount_sysfs), ROW("mount-cgroup", mount_cgroup),
    ROW("mount-bind", mount_bind), ROW("remount-proc-sys", remount_proc_sys),
    ROW("remount-cgroups", remount_cgroups), ROW("unmount-masks", unmount_masks),
    ROW("pivot-root", pivot), ROW("fsopen", fs_open), ROW("fspick", fs_pick),
    ROW("fsconfig", fs_config), ROW("fsmount", fs_mount), ROW("open-tree", tree_clone),
    ROW("move-mount", mount_move), ROW("mount-setattr", mount_attributes), ROW("bpf", bpf_load),
    ROW("perf", perf), ROW("keyctl", key_ring), ROW("add-key", key_add),
    ROW("request-key", key_request), ROW("userfaultfd", user_faults), ROW("io-uring", io_ring),
    ROW("init-module", module_load), ROW("finit-module", module_file),
    ROW("delete-module", module_remove), ROW("kexec", kexec), ROW("kexec-file", kexec_file),
    ROW("reboot", restart), ROW("syslog", kernel_log), ROW("clock-settime", set_clock),
    ROW("adjtimex", tune_clock), ROW("swapon", swap_on), ROW("swapoff", swap_off),
    ROW("acct", accounting), ROW("quotactl", quota), ROW("sethostname", host_name),
    ROW("setdomainname", domain_name), ROW("personality", no_random_addresses),
    ROW("fanotify", fanotify), ROW("set-mempolicy", memory_policy), ROW("move-pages", memory_move),
    ROW("kcmp", compare_processes), ROW("pidfd-getfd", take_descriptor),
    ROW("process-madvise", advise_process), ROW("vhangup", hang_up), ROW("iopl", io_ports),
    ROW("ioperm", io_permission), ROW("x32", foreign_table), ROW("open-by-handle", open_by_handle),
    ROW("vsock", vsock), ROW("af-alg", crypto_socket), ROW("netlink-link", link_up),
    ROW("netlink-route", route_add), ROW("netlink-rules", rules_flush),
    ROW("capset", gain_capabilities), ROW("file-capabilities", file_capabilities),
    ROW("trusted-attribute", trusted_attribute), ROW("nice", priority), ROW("real-time", real_time),
    ROW("rlimit", more_descriptors), ROW("oom-score", outlive_memory),
    {"yes", yes, true},
    {0},
};
