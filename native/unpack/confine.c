#include "unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

int confine_root(int root, int last_fd)
{
	/* As the working directory it moves along into the new namespace; as a descriptor it would stay behind. */
	if (fchdir(root) < 0 || unshare(CLONE_NEWNS) < 0)
		return fail_errno(errno, "cannot make a mount namespace");
	/* Never rprivate: this namespace must not pin what the host unmounts meanwhile. */
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		return fail_errno(errno, "cannot detach mount propagation");
	autoclose int tree = k_open_tree(AT_FDCWD, ".", K_OPEN_TREE_CLONE);
	if (tree < 0)
		return fail_errno(-tree, "cannot clone the layer directory's mount");
	/* No name is ever looked up through a symlink here; the mount refuses it a second time. */
	const struct k_mount_attr attributes = {
		.set = K_MOUNT_ATTR_NOSUID | K_MOUNT_ATTR_NODEV | K_MOUNT_ATTR_NOEXEC | K_MOUNT_ATTR_NOSYMFOLLOW,
	};
	int rc = k_mount_setattr(tree, "", K_AT_EMPTY_PATH, &attributes);
	if (rc < 0)
		return fail_errno(-rc, "cannot restrict the layer directory's mount");
	rc = k_move_mount(tree, "", AT_FDCWD, ".", K_MOVE_MOUNT_F_EMPTY_PATH);
	if (rc < 0)
		return fail_errno(-rc, "cannot attach the layer directory");
	if (fchdir(tree) < 0 || syscall(SYS_pivot_root, ".", ".") < 0)
		return fail_errno(errno, "cannot pivot into the layer directory");
	/* pivot_root(".", ".") stacks the old root on the new one: "." is still the old one's cover. */
	if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return fail_errno(errno, "cannot leave the host's root");
	/* The old descriptor leads to the host's mount: reopen it through the restricted one. */
	autoclose int inside = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (inside < 0 || dup3(inside, root, O_CLOEXEC) < 0)
		return fail_errno(errno, "cannot open the new root");
	close(steal_fd(&inside));
	close(steal_fd(&tree));
	k_close_range((unsigned)last_fd + 1, ~0U);
	return 0;
}

static int drop_capabilities(bool overlay)
{
	uint64_t keep = 1ULL << CAP_CHOWN | 1ULL << CAP_DAC_OVERRIDE | 1ULL << CAP_FOWNER | 1ULL << CAP_FSETID |
			1ULL << CAP_MKNOD | 1ULL << CAP_SETFCAP;
	if (overlay)
		keep |= 1ULL << CAP_SYS_ADMIN;
	for (int cap = 0; cap <= 63; cap++) {
		if (!(keep >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 && errno != EINVAL)
			return fail_errno(errno, "cannot drop capability %d from the bounding set", cap);
	}
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return fail_errno(errno, "cannot clear ambient capabilities");
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	if (syscall(SYS_capget, &header, data) < 0)
		return fail_errno(errno, "cannot read capabilities");
	for (int i = 0; i < 2; i++) {
		data[i].permitted &= (uint32_t)(keep >> (32 * i));
		data[i].effective = data[i].permitted;
		data[i].inheritable = 0;
	}
	if (syscall(SYS_capset, &header, data) < 0)
		return fail_errno(errno, "cannot drop capabilities");
	return 0;
}

#if defined __x86_64__
#define AUDIT_ARCH_NATIVE AUDIT_ARCH_X86_64
#elif defined __aarch64__
#define AUDIT_ARCH_NATIVE AUDIT_ARCH_AARCH64
#else
#error "no seccomp architecture for this machine"
#endif

static const uint16_t allowed[] = {
	SYS_read, SYS_write, SYS_lseek, SYS_close, SYS_openat, SYS_fstat, SYS_newfstatat, SYS_statx, SYS_getdents64, SYS_readlinkat,
	SYS_mkdirat, SYS_mknodat, SYS_symlinkat, SYS_linkat, SYS_unlinkat, SYS_ftruncate, SYS_fchown, SYS_fchownat, SYS_fchmod,
	SYS_fchmodat, SYS_utimensat, SYS_fchdir, SYS_fsetxattr, SYS_lsetxattr, SYS_fgetxattr, SYS_flistxattr, SYS_syncfs, SYS_fcntl,
	SYS_brk, SYS_mmap, SYS_munmap, SYS_mremap, SYS_mprotect, SYS_madvise, SYS_futex, SYS_getrandom, SYS_clock_gettime,
	SYS_rt_sigreturn, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_exit, SYS_exit_group, SYS_copy_file_range,
	/* abort(), so that a detected corruption dies by its own signal */
	SYS_gettid, SYS_getpid, SYS_tgkill,
};

static int filter_system_calls(void)
{
	enum { head = 4, count = (int)COUNT(allowed) };
	struct sock_filter code[head + count + 2];
	size_t n = 0;
	code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
	code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_NATIVE, 1, 0);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (int i = 0; i < count; i++)
		code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], (uint8_t)(count - i), 0);
	/* ENOSYS, not death: a newer libc probes calls that we do not know and falls back. */
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = { .len = (unsigned short)n, .filter = code };
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) < 0)
		return fail_errno(errno, "cannot load the system call filter");
	return 0;
}

int confine_privileges(bool overlay)
{
	struct rlimit none = { 0, 0 };
	if (setrlimit(RLIMIT_CORE, &none) < 0)
		return fail_errno(errno, "cannot set limits");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return fail_errno(errno, "cannot set no_new_privs");
	if (drop_capabilities(overlay) < 0)
		return -1;
	return filter_system_calls();
}
